"""The decisions of whole runs, worked out a second time by code that knows nothing of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rows = list[dict[str, Any]]
Benchmark = Callable[..., subprocess.CompletedProcess[str]]
LEAVE_TOGETHER = ("method.drop_all_tied=true", "method.start_counts=false")


@pytest.fixture(scope="module")
def paper_run(
    short_recipe: Path, finish: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of Algorithm 1 as the paper has it."""
    folder = tmp_path_factory.mktemp("paper") / "run"
    finish("run", short_recipe, "--output-dir", folder)
    return folder


def test_decisions_and_returned_adapter_are_worked_out_the_same(
    paper_run: Path, benchmark: Benchmark
) -> None:
    done = benchmark("verify_run.py", paper_run, "--without-vllm")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DISAGREE" not in done.stdout
    for told in ("stage 2 starts from", "stage 2 drops", "ends after stage", "returns"):
        assert f"agree     {told}" in done.stdout
    assert done.stdout.count("agree     peft: ") == 3


def test_decisions_of_the_other_readings_are_worked_out_the_same(
    short_recipe: Path, tmp_path: Path, finish: Callable[..., str], benchmark: Benchmark
) -> None:
    finish("run", short_recipe, *LEAVE_TOGETHER, "--output-dir", tmp_path / "run")
    done = benchmark("verify_run.py", tmp_path / "run", "--decisions-only")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DISAGREE" not in done.stdout


def first(rows: Rows, kind: str) -> dict[str, Any]:
    return next(row for row in rows if row["kind"] == kind)


def last(rows: Rows, kind: str) -> dict[str, Any]:
    return first(rows[::-1], kind)


def another_return(rows: Rows) -> None:
    marks = [row for row in rows if row["kind"] == "mark"]
    rows[-1]["snapshot"] = next(
        mark["snapshot"] for mark in marks if mark["snapshot"] != rows[-1]["snapshot"]
    )


def another_place(rows: Rows) -> None:
    rows[-1]["k"] += 1


def another_score(rows: Rows) -> None:
    scores = first(rows, "mark")["scores"]
    scores["last"][0] = (scores["last"][0] + 1) % scores["last"][1]


def another_start(rows: Rows) -> None:
    last(rows, "rollout")["start"] = "0" * 64


def another_mixture(rows: Rows) -> None:
    last(rows, "rollout")["tasks"].append("largest")


def a_decision_left_out(rows: Rows) -> None:
    rows.remove(first(rows, "drop"))


def another_peak(rows: Rows) -> None:
    first(rows, "drop")["peak_mark"] += 1


def another_task_left(rows: Rows) -> None:
    drop = first(rows, "drop")
    drop["task"] = next(task for task in rows[0]["tasks"] if task != drop["task"])


def a_report_outcome_turned(rows: Rows) -> None:
    outcomes = rows[-1]["outcomes"]["best"]
    outcomes["last"] = ("1" if outcomes["last"][0] == "0" else "0") + outcomes["last"][1:]


@pytest.mark.parametrize(
    "tamper",
    [
        another_return,
        another_place,
        another_score,
        another_start,
        another_mixture,
        a_decision_left_out,
        another_peak,
        another_task_left,
        a_report_outcome_turned,
    ],
)
def test_a_ledger_that_was_tampered_with_is_told(
    paper_run: Path, tmp_path: Path, benchmark: Benchmark, tamper: Callable[[Rows], None]
) -> None:
    shutil.copy(paper_run / "recipe.toml", tmp_path)
    lines = (paper_run / "ledger.jsonl").read_text().splitlines()
    rows: Rows = [json.loads(line) for line in lines]
    tamper(rows)
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = benchmark("verify_run.py", tmp_path, "--decisions-only")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DISAGREE" in done.stdout


def test_what_cannot_be_checked_is_said(
    paper_run: Path, tmp_path: Path, benchmark: Benchmark
) -> None:
    shutil.copytree(paper_run, tmp_path / "run")
    ledger = tmp_path / "run" / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))
    done = benchmark("verify_run.py", tmp_path / "run")
    assert done.returncode == 2
    assert "unfinished" in done.stdout
