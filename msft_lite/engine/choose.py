"""Which engine a run uses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msft_lite.errors import EngineError

Kind = Literal["vllm", "torch", "none"]
LOOK_UP_SECONDS = 60.0
_LOOK_UP = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine and the line that tells the user why."""

    kind: Kind
    line: str


def choose_engine(
    wanted: Literal["auto", "vllm", "torch"], *, python: str, only_torch: str = ""
) -> Choice:
    """Returns the engine to use; nothing is imported, nothing started.

    Args:
        wanted: ``auto`` takes vllm where it is installed, else torch.
        python: interpreter that would run vllm.
        only_torch: why ``auto`` leaves vllm aside, empty if it does not.

    Raises:
        EngineError: vllm was asked for, but ``python`` does not have it.
    """
    if wanted == "auto" and only_torch:
        return Choice("torch", f"engine: torch (slow), as {only_torch}")
    if wanted == "torch":
        return Choice("torch", "engine: torch, as the recipe says")
    if has_vllm(python):
        why = "as the recipe says" if wanted == "vllm" else "found by auto"
        return Choice("vllm", f"engine: vllm in {python}, {why}")
    if wanted == "vllm":
        raise EngineError(
            f"the recipe asks for the engine vllm, but {python} has no vllm: install it there, "
            "name an environment that has it, or choose the engine torch"
        )
    return Choice("torch", f"engine: torch (slow), as {python} has no vllm")


def has_vllm(python: str) -> bool:
    """Returns whether ``python`` could import vllm.

    Raises:
        EngineError: ``python`` cannot be run.
    """
    if Path(python) == Path(sys.executable):
        return importlib.util.find_spec("vllm") is not None
    try:
        found = subprocess.run(
            [python, "-c", _LOOK_UP], timeout=LOOK_UP_SECONDS, check=False, capture_output=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"the engine's interpreter {python} cannot be run: {error}") from error
    return found.returncode == 0
