"""Law 3 on real processes: killed without warning and resumed, a run comes out the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable


def test_a_run_that_is_killed_and_resumed_comes_out_the_same(
    benchmark: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = benchmark("kill.py", "--kills", 3, "--engine", "torch", "--tuning", "lora", "--seed", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch, lora: 3 kills, rows, tensors and snapshots are those" in done.stdout
