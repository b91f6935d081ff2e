"""The same bits from the same step on one GPU, every time: torch's deterministic algorithms.

Source: *Reproducibility*, in torch's notes. With them on, torch's own attention takes a backward
pass that adds up in one order, and an operation that has no such way raises an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from msft_lite.errors import TrainError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def settle_workspace() -> None:
    """Has cuBLAS add up in one order in this process; of effect before its first product only."""
    os.environ.setdefault(_WORKSPACE, ":4096:8")


@contextmanager
def deterministic(where: str, *, on: bool) -> Iterator[None]:
    """Allows deterministic algorithms alone if ``on``, and puts the process's choice back.

    Args:
        where: names the step in a message.
        on: if not, nothing is changed.

    Raises:
        TrainError: an operation has no deterministic algorithm, or cuBLAS may use others.
    """
    if not on:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms(True)" not in str(error):
            raise
        raise TrainError(f"{where}: train.deterministic = true: {_told(str(error))}") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _told(message: str) -> str:
    """Returns what torch's message says, and what to do."""
    if _WORKSPACE in message:
        return f"cuBLAS may add up in any order; put {_WORKSPACE}=:4096:8 into the environment"
    reason = message.partition(", but you set")[0]
    return f"{reason}; set it to false, or take a model that does without that operation"
