"""Sizes of a model on disk, told from the headers of its files; free of torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from msft_lite.errors import ModelError, did_you_mean
from msft_lite.model.folder import TensorHeader, local_folder, read_config, read_headers
from msft_lite.model.settings import ModelSettings

_BYTES = {"float32": 4, "bfloat16": 2}
_ADAPTER_BYTES = 4  # an adapter is float32 whatever the base is
# Linear modules of decoder layers: embeddings and the output head stand outside of them.
_LAYER_WEIGHT = re.compile(r"(?P<module>.*\.\d+\..+)\.weight")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Sizes of a dense decoder-only model under a tuning.

    Attributes:
        parameters: of the base, tied tensors counted once.
        trainable_parameters: of the adapter, or all of them.
        snapshot_bytes: the trainable weights, uncompressed.
    """

    parameters: int
    trainable_parameters: int
    snapshot_bytes: int


def model_size(settings: ModelSettings) -> ModelSize | None:
    """Returns the sizes of the model, or None where it is not in a local folder.

    Raises:
        ModelError: the folder cannot be used, or a target module is in none of its layers.
    """
    folder = local_folder(settings.name_or_path)
    if folder is None:
        return None
    headers = dict(read_headers(folder))
    if read_config(folder).get("tie_word_embeddings") is True:
        headers.pop("lm_head.weight", None)
    parameters = sum(math.prod(header.shape) for header in headers.values())
    if settings.tuning == "full":
        trainable, element_bytes = parameters, _BYTES[settings.dtype]
    else:
        trainable, element_bytes = _adapter_parameters(headers, settings), _ADAPTER_BYTES
    return ModelSize(parameters, trainable, trainable * element_bytes)


def _adapter_parameters(headers: Mapping[str, TensorHeader], settings: ModelSettings) -> int:
    modules = _linear_modules(headers)
    targets = settings.lora_target_modules
    if isinstance(targets, str):
        targets = tuple(modules)
    known = sorted({name.rpartition(".")[2] for name in modules})
    chosen: set[str] = set()
    for target in targets:
        matches = {m for m in modules if m == target or m.endswith(f".{target}")}
        if not matches:
            raise unknown_target(target, known)
        chosen |= matches
    matrices = sum(settings.lora_r * sum(modules[module]) for module in chosen)
    lengths = sum(modules[module][0] for module in chosen) if settings.use_dora else 0
    return matrices + lengths


def unknown_target(target: str, known: list[str]) -> ModelError:
    """Returns the error for a target module that the model does not have."""
    return ModelError(
        f"model.lora_target_modules: the model has no linear module {target!r}; "
        f"it has {', '.join(known)}{did_you_mean(target, known)}"
    )


def _linear_modules(headers: Mapping[str, TensorHeader]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every linear module's weight by the module's name."""
    return {
        match["module"]: header.shape
        for name, header in headers.items()
        if len(header.shape) == 2 and (match := _LAYER_WEIGHT.fullmatch(name))
    }
