from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from msft_lite.report.tables import (
    all_grids,
    control_grid,
    cost_grid,
    markdown_table,
    printed_grids,
    report_grid,
    rich_grid,
    rollout_grid,
)
from msft_lite.report.telling import tell
from msft_lite.report.wording import duration, markdown_text, size, visible

Builder = Any
Build = Callable[..., Builder]
HOSTILE = "[bold]x[/bold]|<b>_*`\x1b[31m\n$y$"


def printed(grid: Any, *, width: int = 140) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(rich_grid(grid, width=width))
    return stream.getvalue()


def test_the_report_grid_compares_base_and_returned_point(three_tasks: Builder) -> None:
    grid = report_grid(tell(three_tasks.rows))
    assert "roll-out 3, mark 4" in grid.title
    assert [row[0] for row in grid.rows] == ["a", "b", "c", "mean over tasks"]
    assert grid.rows[0][1:4] == ("20", "10.0 [2.8, 30.1]", "80.0 [58.4, 91.9]")
    assert grid.rows[0][4].startswith("+70.0 [+")
    assert grid.rows[3][1] == "60"
    assert grid.rows[3][2].startswith("16.7 [")
    assert grid.rows[3][3].startswith("66.7 [")
    assert grid.rows[3][4].startswith("+50.0 [+")
    assert "steered nothing" in grid.notes[1]


def test_the_papers_protocol_is_said_in_both_score_tables(three_tasks: Builder) -> None:
    three_tasks.rows[0]["steer_on"] = "report"
    story = tell(three_tasks.rows)
    assert "optimistic" in report_grid(story).notes[1]
    assert control_grid(story).title.startswith("Report split")


def test_rows_are_those_that_the_percentages_are_of(three_tasks: Builder) -> None:
    for task in three_tasks.rows[0]["rows"].values():
        task["report"] = 77
    grid = control_grid(tell(three_tasks.rows))
    assert (grid.columns[1], grid.rows[0][1], grid.rows[-1][1]) == ("Control rows", "20", "60")
    three_tasks.rows[0]["steer_on"] = "report"
    grid = control_grid(tell(three_tasks.rows))
    assert (grid.columns[1], grid.rows[0][1]) == ("Report rows", "77")


def test_a_terminal_gets_the_end_of_long_tables_and_the_whole_first_one(build: Build) -> None:
    names = [f"t{number:03}" for number in range(100)]
    ones = [1] * 100
    run = build(names).rollout({name: [1, 2] for name in names}).finish(1, 1, ones, ones)
    first, control, rollouts, _ = printed_grids(tell(run.rows))
    assert len(first.rows) == 101
    assert len(control.rows) == 40 and control.rows[-1][0] == "mean over tasks"
    assert control.notes[0] == "The last 40 of 101 rows; all of them are in report.md."
    assert len(rollouts.rows) == 1


def test_the_control_grid_tells_peaks_and_standings(three_tasks: Builder) -> None:
    rows = control_grid(tell(three_tasks.rows)).rows
    assert [(row[0], row[1], row[4], row[6]) for row in rows] == [
        ("a", "20", "r3 m4", "never over-fitted"),
        ("b", "20", "r1 m2", "dropped, peak r1 m2"),
        ("c", "20", "r2 m1", "dropped, peak r2 m1"),
        ("mean over tasks", "60", "r3 m4", ""),
    ]
    assert rows[1][2].startswith("15.0 [")
    assert rows[1][3].startswith("70.0 [")
    assert rows[1][5].startswith("65.0 [")


def test_the_rollout_grid_tells_roll_backs(three_tasks: Builder) -> None:
    assert rollout_grid(tell(three_tasks.rows)).rows == (
        ("1", "base", "3 of 3", "4 of 4", "20", "50.0", "mark 2", "b"),
        ("2", "r1 m2", "2 of 3", "4 of 4", "20", "55.0", "mark 1", "c"),
        ("3", "r2 m1", "1 of 3", "4 of 4", "20", "68.3", "-", "-"),
    )


def test_the_cost_grid_puts_the_longest_part_first(three_tasks: Builder) -> None:
    grid = cost_grid(tell(three_tasks.rows))
    assert grid.rows == (
        ("train", "2 min 00 s", "61.4"),
        ("generate", "1 min 08 s", "34.8"),
        ("swap", "7.5 s", "3.8"),
        ("sum", "3 min 16 s", "100.0"),
    )
    assert "60 optimizer steps, 25 of them rolled back" in grid.notes[0]
    assert "3.0 GiB" in grid.notes[0]


def test_every_beginning_of_a_run_has_tables(three_tasks: Builder) -> None:
    for count in range(1, len(three_tasks.rows)):
        grids = all_grids(tell(three_tasks.rows[:count]))
        assert len(grids) == 3
        assert all(len(row) == len(grid.columns) for grid in grids for row in grid.rows)
        assert "not finished" in grids[0].notes[-1]


def test_a_run_without_marks_shows_dashes(build: Build) -> None:
    rows = control_grid(tell(build(["a"]).rows)).rows
    assert rows[0] == ("a", "20", "-", "-", "-", "-", "active")
    assert cost_grid(tell(build(["a"]).rows)).rows == (("sum", "0.0 s", "0.0"),)


def test_a_narrow_terminal_breaks_before_an_interval_and_loses_nothing(
    three_tasks: Builder,
) -> None:
    grid = control_grid(tell(three_tasks.rows))
    wide, narrow = printed(grid, width=140), printed(grid, width=80)
    assert "15.0 [5.2, 36.0]" in wide
    assert "15.0 [5.2, 36.0]" not in narrow
    assert "[5.2, 36.0]" in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    assert "never" in narrow and "over-fitted" in narrow


def test_hostile_names_are_shown_and_do_nothing(build: Build) -> None:
    run = build([HOSTILE, "b"]).rollout({HOSTILE: [5, 3], "b": [1, 2]})
    run.drop(HOSTILE, 0, reason=HOSTILE)
    story = tell(run.rows)
    text = "".join(printed(grid) for grid in all_grids(story))
    assert "\x1b" not in text
    assert "[bold]x[/bold]|<b>_*`\\x1b[31m $y$" in text
    markdown = "".join(markdown_table(grid) for grid in all_grids(story))
    assert "<b>" not in markdown
    row = next(line for line in markdown.splitlines() if "bold" in line)
    assert row.replace("\\|", "").count("|") == 8, "seven cells have eight bars"


def test_markdown_marks_the_sum_and_aligns_numbers(three_tasks: Builder) -> None:
    lines = markdown_table(cost_grid(tell(three_tasks.rows))).splitlines()
    assert lines[:4] == [
        "## Where the time went", "", "| Part | Time | Share % |", "| :-- | --: | --: |",
    ]  # fmt: skip
    assert "| **sum** | **3 min 16 s** | **100.0** |" in lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.7, "1 h 00 min"),
     (7500, "2 h 05 min")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**60, "5242880.0 TiB")],
)
def test_size(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_visible_spells_out_what_would_act() -> None:
    assert visible("a\nb\tc\x1b[0m\u202e\ud800é") == "a b\\tc\\x1b[0m\\u202e\\ud800é"
    assert markdown_text("![x](y)<i>") == "\\!\\[x\\](y)\\<i\\>"
