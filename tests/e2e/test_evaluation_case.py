"""The case of evaluation: training and evaluating by turns, a few times."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable


def test_equal_weights_are_scored_alike_between_training_steps(
    benchmark: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = benchmark("cases/evaluation.py", "--cycles", 11)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["equal"], report["checks"]) == (2, 2)
    assert report["end"]["engine"] > 0
    assert "2 of 2 evaluations of equal weights gave equal bits" in done.stdout
