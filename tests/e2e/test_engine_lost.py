"""The engine's process hangs, is killed, and is killed twice in a real run with vLLM.

It computes with the trainer's weights, which must not go with it; every new one adopts them again.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outcomes import marks, results

CHANGES = ("method.max_stages=2", "engine.call_timeout_seconds=20")
VLLM = ("engine.name=vllm", "engine.share_weights=true")
FAILED = 2


def test_a_lost_engine_is_replaced_once_and_then_the_run_stops_whole(
    request: pytest.FixtureRequest, short_recipe: Path, tmp_path: Path
) -> None:
    launch: Callable[..., subprocess.Popen[str]] = request.getfixturevalue("launch")
    workers: Callable[[int], set[int]] = request.getfixturevalue("workers")
    wait_until: Callable[..., None] = request.getfixturevalue("wait_until")
    finish: Callable[..., str] = request.getfixturevalue("finish")
    folder = tmp_path / "vllm"
    process = launch("run", short_recipe, *CHANGES, *VLLM, "--output-dir", folder)
    wait_until(lambda: marks(folder) > 1, process)
    (first,) = workers(process.pid)
    os.kill(first, signal.SIGSTOP)  # it hangs, in this evaluation or the next
    wait_until(lambda: bool(workers(process.pid) - {first}), process)
    before = marks(folder)
    wait_until(lambda: marks(folder) > before, process)
    (second,) = workers(process.pid)
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: bool(workers(process.pid) - {second}), process)
    (third,) = workers(process.pid) - {second}
    os.kill(third, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == FAILED, output
    assert "Traceback" not in output
    assert "hangs: no answer to" in output
    assert output.count("a new engine starts over with it") == 2
    assert "vllm holds a copy of the weights" not in output
    assert "died at the start: it was ended by SIGKILL" in output
    assert f"msft-lite resume {folder}" in output
    assert results(folder)[-1]["kind"] != "finish"
    finish("resume", folder)
    finish("run", short_recipe, *CHANGES, "--output-dir", tmp_path / "torch")
    assert results(folder)[1:] == results(tmp_path / "torch")[1:]  # the first tells the engine
