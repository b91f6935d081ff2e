"""Memory that ran out: how it is told, and how what the failed step held is given back."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from msft_lite.errors import OutOfMemory

# What torch calls it where the error's type does not tell: CPU allocator, driver, matrix library.
_TEXTS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@contextmanager
def told_out_of_memory(where: str, device: str) -> Iterator[None]:
    """Turns running out of memory on ``device`` into `OutOfMemory`; other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_meant = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_meant and not any(text in str(error) for text in _TEXTS):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OutOfMemory(f"{where}: out of memory on {device} ({reason})") from error


def give_back(error: BaseException) -> None:
    """Frees the tensors of what failed: an error holds the frames it passed, and they theirs."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return_unused()


def return_unused() -> None:
    """Frees what nothing refers to and gives a GPU's unused blocks back to the driver."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
