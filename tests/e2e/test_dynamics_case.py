"""The case of ten tasks, with few rows: it runs and compares, and goes on with what was killed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Benchmark = Callable[..., subprocess.CompletedProcess[str]]
METHODS = '[{ name = "sft", epochs = 1 }, { name = "sro", epochs = 1 }]'
FEW_ROWS = ("data.train_samples=8", "data.control_samples=4", "data.report_samples=4")


def test_it_compares_and_what_was_killed_goes_on(benchmark: Benchmark, tmp_path: Path) -> None:
    out = tmp_path / "out"
    changes = [part for change in FEW_ROWS for part in ("--change", change)]
    case = ("cases/dynamics.py", "--out", out, "--seeds", 1, "--tuning", "full", *changes)
    done = benchmark(*case, "--methods", METHODS)
    assert done.returncode == 0, done.stdout + done.stderr
    ledger = out / "full" / "sro" / "ledger.jsonl"
    whole = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [row["shared"] for row in whole if "shared" in row] == ["full/sft"] * 3
    compared = json.loads((out / "full" / "compare" / "compare.json").read_text())
    # As a kill before the last row leaves it.
    ledger.write_text("".join(json.dumps(row) + "\n" for row in whole[:-1]))

    again = benchmark(*case, "--methods", METHODS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "run 2 of 2: sro" in again.stdout
    assert "run 1 of 2" not in again.stdout
    assert json.loads(ledger.read_text().splitlines()[-1])["outcomes"] == whole[-1]["outcomes"]
    assert set(compared["tasks"]) == set(whole[0]["tasks"])
