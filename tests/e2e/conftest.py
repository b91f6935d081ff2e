"""Runs the program as its users do, in a process of its own, and looks for what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # equal sums, so equal bits
TASKS = ("largest", "last", "sort")
ROWS = {"": 32, ".control": 12, ".report": 12}
RECIPE = """
seed = 20
[model]
name_or_path = "{base}"
dtype = "float32"
[train]
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
learning_rate = 2e-3
max_length = 64
threads = 1
[method]
name = "msft"
budget = 1
[eval]
max_new_tokens = 8
[engine]
name = "torch"
"""

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def short_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of seconds: three tasks of the quickstart, cut short, all rows of files used."""
    folder = tmp_path_factory.mktemp("short")
    quickstart = ROOT / "recipes" / "quickstart"
    text = RECIPE.format(base=quickstart / "base")
    for task in TASKS:
        text += f'[[tasks]]\nname = "{task}"\n'
        for split, count in ROWS.items():
            name = f"{task}{split}.jsonl"
            lines = (quickstart / "tasks" / name).read_text().splitlines()
            (folder / name).write_text("\n".join(lines[:count]) + "\n")
            text += f'{split.strip(".") + "_" if split else ""}path = "{name}"\n'
    (folder / "short.toml").write_text(text)
    return folder / "short.toml"


def heed_hangups() -> None:
    """Lets a process be told of a closed terminal even where the tests run under `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Starts `msft-lite ARGUMENTS` and returns the process; what it prints goes through pipes."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "msft_lite", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
            cwd=ROOT,
            preexec_fn=heed_hangups,  # noqa: PLW1509 - the tests start no thread before
        )

    return start


@pytest.fixture(scope="session")
def finish(launch: Launch) -> Callable[..., str]:
    """Runs `msft-lite ARGUMENTS` to a good end and returns what it printed."""

    def run(*arguments: object) -> str:
        process = launch(*arguments)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "Traceback" not in output
        return output

    return run


@pytest.fixture(scope="session")
def benchmark() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of benchmarks/ with arguments; its exit code is left to the caller.

    Python looks for modules in the folder ``modules`` first.
    """

    def run(
        name: str, *arguments: object, modules: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / name), *map(str, arguments)],
            capture_output=True,
            text=True,
            env=ENVIRONMENT | ({"PYTHONPATH": str(modules)} if modules else {}),
            cwd=ROOT,
            timeout=500,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def workers() -> Callable[[int], set[int]]:
    """Returns the engine's processes that a trainer started, whether that one lives or not."""

    def find(trainer: int) -> set[int]:
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:  # not a process, or gone meanwhile
                continue
            if any(word.endswith("vllm_worker.py") for word in words) and str(trainer) in words:
                found.add(int(entry.name))
        return found

    return find


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool], subprocess.Popen[str]], None]:
    """Waits until something is true of a running process; fails if the process ends before."""

    def wait(is_true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        while not is_true():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)

    return wait
