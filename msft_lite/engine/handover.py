"""A folder in memory through which full weights reach the engine's process."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from msft_lite.errors import StorageError

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "msft-lite-weights-"
LOCK_NAME = "in-use"
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
    """Writes ``model.safetensors`` into a new folder that is removed when the context ends.

    The folder lies in shared memory, or in ``fallback`` where there is none or too little of it.

    Raises:
        StorageError: the file could not be written.
    """
    total_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    parent = memory if _has_room(memory, total_bytes) else fallback
    remove_stale_folders(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with (folder / LOCK_NAME).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _write(tensors, folder / "model.safetensors")
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


def _has_room(memory: Path, total_bytes: int) -> bool:
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        return False
    return shutil.disk_usage(memory).free > total_bytes * HEADROOM


def _write(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except OSError as error:
        raise StorageError(
            f"the weights for the evaluation engine could not be written to {path.parent}: {error}"
        ) from error
