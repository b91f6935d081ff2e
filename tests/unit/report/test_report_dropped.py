"""Runs in which tasks that left are scored at some marks only."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from msft_lite.errors import LedgerError
from msft_lite.report import print_report, write_report
from msft_lite.report.live import Moment, screen
from msft_lite.report.plain import line_of
from msft_lite.report.story import Story
from msft_lite.report.telling import tell

Builder = Any
EVERY = 3


@pytest.fixture
def some(three_tasks: Builder) -> Builder:
    """The run of ``three_tasks`` with b, and later c, left out at marks 1 and 2 of a roll-out."""
    three_tasks.rows[0]["dropped_every"] = EVERY
    tasks: list[str] = []
    for row in three_tasks.rows:
        if row["kind"] == "rollout":
            tasks = row["tasks"]
        if row["kind"] == "mark" and row["k"] in (1, 2):
            for key in ("scores", "outcomes"):
                row[key] = {task: row[key][task] for task in tasks}
    return three_tasks


def story_at(rows: list[Any], n: int, k: int) -> Story:
    """The story up to that mark."""
    place = next(
        i for i, r in enumerate(rows) if r["kind"] == "mark" and (r["n"], r["k"]) == (n, k)
    )
    return tell(rows[: place + 1])


def test_everything_is_drawn_and_the_best_mean_is_of_whole_marks(
    some: Builder, tmp_path: Path
) -> None:
    folder = some.write(tmp_path)
    write_report(folder)
    told = json.loads((folder / "summary.json").read_text())
    second = told["rollouts"][1]["marks"]
    assert [mark["mean"] is None for mark in second] == [False, True, True, False, False]
    assert set(second[1]["scores"]) == {"a", "c"}
    out = StringIO()
    print_report(folder, Console(file=out, width=120))
    assert "Roll-outs" in out.getvalue()


def test_a_mark_that_is_not_whole_has_no_mean_and_is_no_best(some: Builder) -> None:
    story = story_at(some.rows, 3, 2)
    now = story.marks[-1]
    assert (now.is_whole, set(now.scores)) == (False, {"a"})
    # With all scores mark 2 of roll-out 3 would have the best mean so far, 37/60.
    assert story.best is not None
    assert (story.best.n, story.best.k) == (2, 3)
    assert line_of(story, "mark").startswith(
        "roll-out 3, mark 2 of 4 (epoch 1.25): (a 65.0); loss a "
    )
    out = StringIO()
    Console(file=out, width=120).print(screen(story, Moment(3, 10, {}), lines=40))
    rows = {line.split()[0]: line.split() for line in out.getvalue().splitlines() if line.strip()}
    assert rows["mean"][1] == "-"
    assert rows["b"][2] == "-"


@pytest.mark.parametrize(("n", "k", "task"), [(2, 1, "c"), (2, 3, "b"), (3, 4, "b")])
def test_a_score_that_is_due_and_missing_is_damage(
    some: Builder, n: int, k: int, task: str
) -> None:
    (row,) = [r for r in some.rows if r["kind"] == "mark" and (r["n"], r["k"]) == (n, k)]
    for key in ("scores", "outcomes"):
        row[key] = {name: value for name, value in row[key].items() if name != task}
    with pytest.raises(LedgerError, match="names the tasks"):
        tell(some.rows)
