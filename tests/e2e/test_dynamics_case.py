"""The case of ten tasks, with few rows: it runs, skips what is finished and mends the rest."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Benchmark = Callable[..., subprocess.CompletedProcess[str]]
LONGER, SYSTEM = "sft:epochs=2", "sft:epochs=1"
FEW_ROWS = ("data.train_samples=8", "data.control_samples=4", "data.report_samples=4")


@pytest.fixture
def case(benchmark: Benchmark, tmp_path: Path) -> Benchmark:
    changes = [part for change in FEW_ROWS for part in ("--change", change)]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        where = ("--out", tmp_path / "out", "--seeds", 1, "--tuning", "full")
        return benchmark("cases/dynamics.py", *where, *changes, "--methods", *arguments)

    return run


def test_what_is_finished_is_skipped_and_what_was_killed_goes_on(
    case: Benchmark, tmp_path: Path
) -> None:
    done = case(LONGER, SYSTEM, "nonsense", "--change", "method.signal=metric")
    assert done.returncode == 1
    assert f"full {LONGER} seed 20: exit code 0" in done.stdout
    assert "not finished: full nonsense seed 20" in done.stdout
    runs = tmp_path / "out" / "runs" / "full"
    ledger = runs / "sft-epochs=1" / "seed-20" / "ledger.jsonl"
    whole = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [row["k"] for row in whole if row["kind"] == "mark"] == [0, 1, 2]
    # As a kill before the last row leaves it.
    ledger.write_text("".join(json.dumps(row) + "\n" for row in whole[:-1]))

    again = case(LONGER, SYSTEM)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"full {LONGER} seed 20: finished before" in again.stdout
    assert f"full {SYSTEM} seed 20: exit code 0" in again.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())["tunings"]["full"]
    assert set(results["systems"]) == {LONGER, SYSTEM}
    assert f"| {SYSTEM} | 1 |" in (tmp_path / "out" / "results.md").read_text()
    assert json.loads(ledger.read_text().splitlines()[-1])["outcomes"] == whole[-1]["outcomes"]
