"""The case of evaluation: training and evaluating by turns, a few times."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path


def test_equal_weights_are_scored_alike_between_training_steps(
    benchmark: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = benchmark("cases/evaluation.py", "--cycles", 11, "--json", tmp_path / "record.json")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert "2 of 2 evaluations of equal weights gave equal bits" in record["conditions"]
    held = record["tables"]["memory"]["rows"]
    assert [row[0] for row in held] == ["trainer", "engine"]
    assert all(figure > 0 for row in held for figure in row[1:])
