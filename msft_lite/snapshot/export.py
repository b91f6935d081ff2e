"""Writes the chosen weights as a folder that peft, transformers and vLLM load unchanged."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from msft_lite.errors import StorageError
from msft_lite.ledger import sync_folder
from msft_lite.model.weights import Weights
from msft_lite.snapshot.durable import storage_error
from msft_lite.snapshot.tensor_file import data_pieces, raw_header


def export_best(
    weights: Weights,
    folder: Path,
    *,
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Replaces ``folder`` as a whole by a loadable export of ``weights``, tokenizer included.

    An adapter becomes a peft adapter folder that names its base model, full weights a complete
    model in one safetensors file, each tensor in its own dtype. The folder is written under
    another name and swapped in; killed in between, the next call tidies up.

    Args:
        weights: what is exported.
        folder: ``best`` in the run's folder.
        model: the live model, of which only the configuration and frozen tensors are read; it may
            hold other weights and stays as it is.
        tokenizer: saved beside the weights.

    Raises:
        StorageError: the disk is full, read-only or gone; an earlier ``folder`` is intact.
    """
    fresh = folder.with_name(folder.name + ".tmp")
    try:
        _clear(fresh)
        fresh.mkdir()
        if isinstance(model, PeftModel):
            _write_adapter(weights, fresh, model)
        else:
            _write_full(weights, fresh, model)
        _write_tokenizer(tokenizer, fresh)
        _sync(fresh)
        _swap(fresh, folder)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        needed = weights.total_bytes
        raise storage_error(error, folder, bytes_needed=needed) from error
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _write_adapter(weights: Weights, folder: Path, model: PeftModel) -> None:
    _write_tensors(weights.tensors, folder / "adapter_model.safetensors")
    name = cast(str, model.active_adapter)
    config = cast(LoraConfig, copy.deepcopy(model.peft_config[name]))
    config.inference_mode = True
    base = config.base_model_name_or_path
    if base is not None and Path(base).exists():
        # A relative path would only load from the folder that the run was started in.
        config.base_model_name_or_path = str(Path(base).resolve())
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set's order changes by process
    config.save_pretrained(str(folder))


def _write_full(weights: Weights, folder: Path, model: PreTrainedModel) -> None:
    tensors = _with_frozen(weights, model)
    _write_tensors(tensors, folder / "model.safetensors")
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = next(t.dtype for t in tensors.values() if t.is_floating_point())
    config.save_pretrained(folder)
    if model.generation_config is not None:
        # Written without save_pretrained's validation: a base model's own odd settings are
        # copied, not refused at the end of a long run.
        model.generation_config.to_json_file(folder / "generation_config.json")


def _with_frozen(weights: Weights, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Returns ``weights`` and the model's other tensors, but for those tied to one of them."""
    state = model.state_dict(keep_vars=True)  # tied names share one Parameter object
    exported = {id(tensor) for name, tensor in state.items() if name in weights.tensors}
    tensors = dict(weights.tensors)
    for name, tensor in state.items():
        if id(tensor) not in exported:
            exported.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    with path.open("xb") as file:
        file.write(raw_header(tensors, {"format": "pt"}))
        for piece in data_pieces(tensors):
            file.write(piece)


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        # The tokenizers library reports a full disk as a bare Exception.
        raise StorageError(f"{folder}: cannot save the tokenizer: {error}") from error


def _sync(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _swap(fresh: Path, folder: Path) -> None:
    """Renames ``fresh`` to ``folder``; an earlier one is put back if that fails."""
    old = folder.with_name(folder.name + ".old")
    _clear(old)
    had_one = folder.exists()
    if had_one:
        folder.rename(old)
    try:
        fresh.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        if had_one and not folder.exists():
            old.rename(folder)
        raise
    _clear(old)


def _clear(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
