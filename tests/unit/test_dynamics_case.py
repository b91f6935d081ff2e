"""The case of ten tasks: what its tasks promise."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

CASES = Path(__file__).parents[2] / "benchmarks" / "cases"


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(CASES)
    return importlib.import_module("dynamics_tasks")


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
