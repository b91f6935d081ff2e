"""A folder in memory through which full weights reach the engine's process."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from msft_lite.errors import StorageError
from msft_lite.model.dense import DenseTensors
from msft_lite.model.folder import INDEX_FILE, WEIGHTS_FILE

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "msft-lite-weights-"
LOCK_NAME = "in-use"
SHARD_BYTES = 1 << 30
HEADROOM = 1.05  # the header of the file and what others write meanwhile


def notice_of(folder: Path, *, memory: Path = SHARED_MEMORY) -> str:
    """Returns what to tell the user about where ``folder`` lies; nothing if in shared memory."""
    if folder.parent == memory:
        return ""
    return (
        f"{memory} has no room for the weights: at every evaluation they go to the engine through "
        f"{folder.parent}, which takes longer; give {memory} more (in a container: --shm-size)"
    )


@contextmanager
def weights_folder(
    tensors: Mapping[str, torch.Tensor], *, fallback: Path, memory: Path = SHARED_MEMORY
) -> Iterator[Path]:
    """Writes ``tensors`` into a new folder that is removed when the context ends.

    The folder lies in shared memory, or in ``fallback`` where there is none or too little of it. It
    holds ``model.safetensors``, or above `SHARD_BYTES` shards with their index; tensors that are
    computed when they are asked for are never all in memory.

    Raises:
        StorageError: the file could not be written.
    """
    forms = tensors.forms if isinstance(tensors, DenseTensors) else tensors
    shards = _shards(forms)
    parent = place_of(sum(_bytes_of(form) for form in forms.values()), fallback, memory=memory)
    for place in (memory, fallback):
        remove_stale_folders(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with (folder / LOCK_NAME).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _write(tensors, shards, folder)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale_folders(parent: Path) -> None:
    """Removes what killed trainers left in ``parent``: memory that nobody else would give back.

    A folder whose lock is held belongs to a living trainer, of another container perhaps, which a
    process id would not tell.
    """
    for folder in parent.glob(PREFIX + "*"):
        try:
            with (folder / LOCK_NAME).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # in use, another user's, just being made, or gone meanwhile
            continue


def place_of(total_bytes: int, fallback: Path, *, memory: Path = SHARED_MEMORY) -> Path:
    """Returns where weights of that size would be written now."""
    return memory if _has_room(memory, total_bytes) else fallback


def _has_room(memory: Path, total_bytes: int) -> bool:
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        return False
    return shutil.disk_usage(memory).free > total_bytes * HEADROOM


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shards(forms: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Returns the names in groups of `SHARD_BYTES` at most, or of one tensor, in their order."""
    shards: list[list[str]] = [[]]
    total_bytes = 0
    for name, form in forms.items():
        total_bytes += _bytes_of(form)
        if shards[-1] and total_bytes > SHARD_BYTES:
            shards.append([])
            total_bytes = _bytes_of(form)
        shards[-1].append(name)
    return shards


def _write(
    tensors: Mapping[str, torch.Tensor], shards: Sequence[Sequence[str]], folder: Path
) -> None:
    """Writes a file per shard, so that no more than one shard of computed tensors is held."""
    index: dict[str, str] = {}
    try:
        for number, names in enumerate(shards, 1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            path = folder / (name if len(shards) > 1 else WEIGHTS_FILE)
            save_file({name: tensors[name] for name in names}, path, metadata={"format": "pt"})
            index |= dict.fromkeys(names, path.name)
        if len(shards) > 1:
            (folder / INDEX_FILE).write_text(json.dumps({"weight_map": index}))
    except OSError as error:
        raise StorageError(
            f"the weights for the evaluation engine could not be written to {folder}: {error}"
        ) from error
