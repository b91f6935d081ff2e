"""The case of ten tasks: what its tasks promise, and its results worked out by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CASES = Path(__file__).parents[2] / "benchmarks" / "cases"
TASKS = ["a", "b"]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(CASES)
    return importlib.import_module("dynamics_tasks")


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(CASES)
    return importlib.import_module("dynamics_results")


def prompts(rows: list[dict[str, str]]) -> set[str]:
    return {row["prompt"] for row in rows}


def test_there_are_ten_tasks_and_no_prompt_is_in_two_splits(tasks: ModuleType) -> None:
    assert len(tasks.TASKS) == 10
    everything = [tasks.splits(name) for name in tasks.TASKS]
    for split in everything:
        assert 120 <= len(split["train"]) <= 400
        assert (len(split["control"]), len(split["report"])) == (100, 300)
    held_out = [prompts(s["control"]) | prompts(s["report"]) for s in everything]
    assert len(set.union(*held_out)) == 10 * 400
    assert not set.union(*held_out) & set.union(*(prompts(s["train"]) for s in everything))


def test_only_training_rows_are_wrong_and_as_many_as_the_task_says(tasks: ModuleType) -> None:
    for name, task in tasks.TASKS.items():
        wrong = {}
        for split, rows in tasks.splits(name).items():
            things = [row["prompt"].split(" ", 2)[2].removesuffix("\nA: ") for row in rows]
            right = [f"#### {task.solve(thing)}" for thing in things]
            wrong[split] = sum(row["answer"] != one for row, one in zip(rows, right, strict=True))
        assert wrong == {
            "train": round(task.flawed * task.training_rows),
            "control": 0,
            "report": 0,
        }


def test_answers_are_what_the_table_says(tasks: ModuleType) -> None:
    answers = {
        "back": ("abcd", "dcba"),
        "down": ("naaz", "mzzy"),
        "largest": ("3,9,0,9,1", "9"),
        "last": ("abcz", "z"),
        "least": ("kcabz", "a"),
        "reverse": ("abcdef", "fedcba"),
        "shift": ("azxya", "bayzb"),
        "sort": ("kcbaz", "abckz"),
        "spell": ("abc", "a-b-c"),
        "up": ("azab", "babc"),
    }
    assert {name: tasks.TASKS[name].solve(thing) for name, (thing, _) in answers.items()} == {
        name: answer for name, (_, answer) in answers.items()
    }
    misled = {
        "back": ("abcd", "cbaz"),
        "largest": ("3,9,0,9,1", "0"),
        "last": ("abcz", "a"),
        "spell": ("abc", "z-a-b"),
    }
    assert {name: tasks.TASKS[name].mislead(thing) for name, (thing, _) in misled.items()} == {
        name: answer for name, (_, answer) in misled.items()
    }


def test_the_tasks_are_the_same_every_time(tasks: ModuleType, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        tasks.write_tasks(tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 30
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def mark(n: int, k: int, a: int, b: int) -> dict[str, Any]:
    """A mark at which ``a`` and ``b`` of ten control rows are right."""
    return {
        "kind": "mark", "n": n, "k": k, "scores": {"a": [a, 10], "b": [b, 10]},
        "trained_tokens": 100 if k else 0, "seconds": {"train": 2.0, "generate": 0.5},
    }  # fmt: skip


def ledger(folder: Path, seed: int, best: dict[str, str], marks: list[dict[str, Any]]) -> Path:
    outcomes = {"base": {"a": "0000", "b": "0001"}, "best": best}
    rows = [
        {"kind": "start", "seed": seed, "tasks": TASKS, "marks_per_epoch": 2},
        *marks,
        {"kind": "finish", "outcomes": outcomes, "seconds": {"finish": 1.0}},
    ]
    path = folder / f"{len(list(folder.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def two_seeds(results: ModuleType, tmp_path: Path) -> dict[str, Any]:
    """Of plain training, and of a method x whose second roll-out is in no curve."""
    plain = [mark(1, 0, 1, 0), mark(1, 1, 9, 2), mark(1, 2, 5, 4), mark(1, 3, 5, 8)]
    other = [*plain, mark(2, 0, 9, 2), mark(2, 1, 10, 10)]
    told = [
        ("sft", 20, {"a": "1100", "b": "1111"}, plain),
        ("sft", 21, {"a": "0000", "b": "1100"}, plain[:2]),
        ("x", 20, {"a": "1111", "b": "1111"}, other),
        ("x", 21, {"a": "1100", "b": "0000"}, other),
    ]
    runs = [
        results.read_run(ledger(tmp_path, seed, best, marks), system=system, tuning="lora")
        for system, seed, best, marks in told
    ]
    return results.gathered(runs)["tunings"]["lora"]


def test_means_differences_and_first_places_worked_out_by_hand(two_seeds: dict[str, Any]) -> None:
    sft, x = two_seeds["systems"]["sft"], two_seeds["systems"]["x"]
    assert list(two_seeds["systems"]) == ["x", "sft"]  # the best first
    assert two_seeds["base"] == 0.125
    assert (sft["of_seeds"], sft["mean"]) == ([0.75, 0.25], 0.5)
    assert (x["of_seeds"], x["mean"]) == ([1.0, 0.25], 0.625)
    assert (x["difference"]["of_seeds"], x["difference"]["mean"]) == ([0.25, 0.0], 0.125)
    assert "difference" not in sft
    assert x["tasks"] == {"a": 0.75, "b": 0.5}
    # Seed 20: a is x's, b is both's. Seed 21: a is x's, b is sft's.
    assert (sft["first_places"], x["first_places"]) == (2, 3)
    assert (sft["trained_tokens"], x["trained_tokens"]) == (200, 400)
    assert sft["seconds"] == 8.5  # (4 marks and 2 marks of 2.5 s) / 2 and the end


def test_intervals_hold_the_mean(two_seeds: dict[str, Any]) -> None:
    x = two_seeds["systems"]["x"]
    for told in (x, x["difference"]):
        assert told["low"] < told["mean"] < told["high"]


def test_intervals_of_differences_are_paired(results: ModuleType, tmp_path: Path) -> None:
    marks, best = [mark(1, 0, 1, 0)], {"a": "1010", "b": "0001"}
    runs = [
        results.read_run(ledger(tmp_path, 20, best, marks), system=system, tuning="full")
        for system in ("sft", "y")
    ]
    told = results.gathered(runs)["tunings"]["full"]["systems"]["y"]["difference"]
    assert (told["mean"], told["low"], told["high"]) == (0.0, 0.0, 0.0)


def test_peaks_are_the_earliest_best_marks_of_plain_training(two_seeds: dict[str, Any]) -> None:
    peaks = two_seeds["peaks"]
    # Seed 20: a peaks at mark 1, b at 3, the mean at 3 (6.5). Seed 21 ends at mark 1.
    assert peaks["tasks"]["a"]["peak_epochs"] == [0.5, 0.5]
    assert peaks["tasks"]["b"]["peak_epochs"] == [1.5, 0.5]
    assert peaks["mean_peak_epochs"] == [1.5, 0.5]
    assert peaks["gap_epochs"] == [0.5, 0.0]
    assert peaks["tasks"]["a"]["at_own_peak"] == 0.9
    assert peaks["tasks"]["a"]["at_mean_peak"] == 0.7


def test_the_tables_say_what_the_numbers_do(results: ModuleType, two_seeds: dict[str, Any]) -> None:
    text = results.markdown({"tunings": {"lora": two_seeds}})
    assert "| base | | 12.5 | | | | | | |" in text
    assert "| x | 2 | 62.5 |" in text
    assert "| +12.5 |" in text
    assert "| a | 0.5, 0.5 | 90.0 | 70.0 | 70.0 |" in text
