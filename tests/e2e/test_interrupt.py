"""Ctrl-C: the run ends soon, leaves nothing behind and goes on where it was."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.outcomes import marks, results

Launch = Callable[..., subprocess.Popen[str]]
Workers = Callable[[int], set[int]]
WaitUntil = Callable[[Callable[[], bool], subprocess.Popen[str]], None]
INTERRUPTED = 130
GONE_SECONDS = 15.0
START_SECONDS = 120.0
STAGES = "method.max_stages=2"


@pytest.fixture(scope="module")
def uninterrupted(
    short_recipe: Path, finish: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish("run", short_recipe, STAGES, "--output-dir", folder)
    return folder


def way_back(output: str) -> list[str]:
    """The arguments of the command that the program says goes on with the run."""
    found = re.search(r"go on with: msft-lite (.*)", output)
    assert found, output
    return shlex.split(found[1])


@pytest.mark.parametrize(
    ("engine", "number"),
    [("torch", signal.SIGTERM), ("torch", signal.SIGHUP), ("vllm", signal.SIGINT)],
)
def test_one_signal_ends_after_the_step_in_progress(
    request: pytest.FixtureRequest, short_recipe: Path, tmp_path: Path, engine: str, number: int
) -> None:
    launch: Launch = request.getfixturevalue("launch")
    workers: Workers = request.getfixturevalue("workers")
    wait_until: WaitUntil = request.getfixturevalue("wait_until")
    folder = tmp_path / "run"
    name = f"engine.name={engine}"
    process = launch("run", short_recipe, name, STAGES, "--output-dir", folder)
    wait_until(lambda: marks(folder) > 1, process)
    started = workers(process.pid)
    assert len(started) == (engine == "vllm")
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, output
    assert "stopping after the step in progress" in output
    assert "Traceback" not in output
    assert not gone_in_time(workers, process.pid)
    assert results(folder)[-1]["kind"] != "finish"
    assert way_back(output) == ["resume", str(folder)]
    request.getfixturevalue("finish")(*way_back(output))
    whole: Path = request.getfixturevalue("uninterrupted")
    assert results(folder)[1:] == results(whole)[1:]  # the first row tells the engine


def gone_in_time(workers: Workers, trainer: int) -> set[int]:
    """The engine's processes that are still there after a while."""
    deadline = time.monotonic() + GONE_SECONDS
    while (found := workers(trainer)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def test_a_second_signal_ends_at_once_and_loses_no_mark(
    request: pytest.FixtureRequest, short_recipe: Path, tmp_path: Path
) -> None:
    launch: Launch = request.getfixturevalue("launch")
    wait_until: WaitUntil = request.getfixturevalue("wait_until")
    folder = tmp_path / "run"
    process = launch("run", short_recipe, STAGES, "--output-dir", folder)
    wait_until(lambda: marks(folder) > 1, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)  # two signals at one moment are one
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, output
    assert "Traceback" not in output
    assert way_back(output) == ["resume", str(folder)]
    request.getfixturevalue("finish")(*way_back(output))
    assert results(folder) == results(request.getfixturevalue("uninterrupted"))


def in_a_terminal(folder: Path, arguments: list[str]) -> tuple[int, int]:
    """Starts msft-lite in a terminal of its own; returns the process and the terminal's end."""
    process, end = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "msft_lite", *arguments])
    return process, end


def read_from(end: int, gone: threading.Event) -> None:
    """Reads what is shown, so that the program never waits for its terminal."""
    while not gone.is_set():
        if select.select([end], [], [], 0.1)[0]:
            os.read(end, 65536)


def test_a_terminal_that_is_closed_ends_the_run_soon(
    request: pytest.FixtureRequest, short_recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = ["run", str(short_recipe), STAGES, "--output-dir", str(folder)]
    process, end = in_a_terminal(tmp_path, arguments)
    gone = threading.Event()
    reader = threading.Thread(target=read_from, args=(end, gone))
    reader.start()
    deadline = time.monotonic() + START_SECONDS
    while marks(folder) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    gone.set()
    reader.join()
    os.close(end)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == INTERRUPTED
    assert results(folder)[-1]["kind"] == "mark"
    request.getfixturevalue("finish")("resume", folder)
    assert results(folder) == results(request.getfixturevalue("uninterrupted"))
