"""A run over a 4-bit base with vLLM: killed with the base on its way, resumed, equal to torch."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("bitsandbytes")  # in the extras alone

from msft_lite.engine.handover import LOCK_NAME, PREFIX, SHARED_MEMORY
from tests.outcomes import results

Launch = Callable[..., subprocess.Popen[str]]
WaitUntil = Callable[[Callable[[], bool], subprocess.Popen[str]], None]
CHANGES = ("model.load_in_4bit=true", "method.max_stages=1", "engine.threads=1")


def on_its_way(process: subprocess.Popen[str]) -> list[Path]:
    """Returns the folder of weights that the process holds the lock of, once it is complete."""
    found: list[Path] = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            lock = descriptor.readlink()
            if lock.name == LOCK_NAME and (lock.parent / "config.json").exists():
                found.append(lock.parent)
    return found


def test_a_killed_run_resumes_and_scores_as_the_trainers_own_model(
    short_recipe: Path,
    tmp_path: Path,
    launch: Launch,
    wait_until: WaitUntil,
    finish: Callable[..., str],
) -> None:
    folder, left = tmp_path / "vllm", list[Path]()
    arguments = (*CHANGES, "engine.name=vllm", "--output-dir", folder)
    process = launch("run", short_recipe, *arguments)
    wait_until(lambda: bool(left.extend(on_its_way(process)) or left), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left[0].parent == SHARED_MEMORY
    assert left[0].name.startswith(PREFIX)
    assert left[0].exists()
    told = finish("resume", folder)
    assert "it gets the 4-bit base, dequantised, once, and the adapter at every evaluation" in told
    assert not left[0].exists()
    finish("run", short_recipe, *CHANGES, "--output-dir", tmp_path / "torch")
    rows, expected = results(folder), results(tmp_path / "torch")
    assert (rows[0]["engine"], expected[0]["engine"]) == ("vllm", "torch")
    handovers = (rows[0]["handover"], expected[0]["handover"])
    assert handovers == ("adapter over the dequantised base", None)
    assert rows[1:] == expected[1:]
    assert rows[-1]["kind"] == "finish"
