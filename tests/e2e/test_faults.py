"""Files that cannot be written, a kill and a power cut at an operation: the run comes out the same.

A few of the operations of one short run; `benchmarks/faults.py` takes them all.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

EVERY = 29
# Python runs a module of this name at its start.
LEAVES_SYNCS_OUT = """
import os

fsync = os.fsync

def synced(descriptor):
    if not os.readlink(f"/proc/self/fd/{descriptor}").endswith(".safetensors.partial"):
        fsync(descriptor)

os.fsync = synced
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build faults.c with")
@pytest.mark.parametrize(("tuning", "first"), [("lora", 5), ("full", 3)])
def test_a_run_survives_faults_at_its_files(
    benchmark: Callable[..., subprocess.CompletedProcess[str]], tuning: str, first: int
) -> None:
    done = benchmark("faults.py", "--every", EVERY, "--first", first, "--tuning", tuning)
    assert done.returncode == 0, done.stdout + done.stderr
    for fault in ("kill", "power", "full", "error"):
        (line,) = [
            row for row in done.stdout.splitlines() if row.startswith(f"msft, {tuning}, {fault}:")
        ]
        good, _, tried, *_ = line.split(": ")[1].split()
        assert good == tried
        assert int(tried) > 1


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build faults.c with")
def test_a_run_survives_kills_at_random_instants(
    benchmark: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = benchmark("faults.py", "--kills", 3, "--method", "ies", "--tuning", "full")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ies, full: 3 kills" in done.stdout


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build faults.c with")
def test_syncs_that_are_left_out_are_told(
    benchmark: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LEAVES_SYNCS_OUT)
    done = benchmark("faults.py", "--fault", "power", "--every", EVERY, modules=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rows; differing: " in done.stdout  # of the ledger: what was lost is trained again
    assert "msft, lora, power: 1 of 2 come out the same" in done.stdout
