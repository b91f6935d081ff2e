"""The tables: what stands in them, and what they own up to."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from msft_lite.report.compare import Comparison, compare, print_comparison
from msft_lite.report.compare.cost_grids import compute_grid, disk_grid, flops_unit, time_grid
from msft_lite.report.compare.grids import (
    all_grids,
    differences_grid,
    domains_grid,
    methods_grid,
    scores_grid,
)
from msft_lite.report.several import fitted
from msft_lite.report.story import Story
from msft_lite.report.tables import Grid, markdown_table, narrow_width, rich_grid

Make = Callable[..., Story]


def printed(comparison: Comparison, width: int) -> str:
    stream = StringIO()
    print_comparison(comparison, Console(file=stream, width=width))
    return stream.getvalue()


def test_the_methods_table(three: Comparison) -> None:
    grid = methods_grid(three)
    assert grid.title == "Systems, 4 tasks (report split)"
    assert grid.columns[5] == "Against sft"
    sft, msft, sro = grid.rows
    assert sft[:2] == ("sft", "20")
    assert sft[2].startswith("60.0 [")
    assert sft[3:] == ("31.6", "1.33", "-")
    assert msft[2].startswith("* 62.5 [") and sro[2].startswith("* 62.5 [")
    assert (msft[4], sro[4]) == ("1.83", "0.83")
    assert msft[5].startswith("+2.5 [-")


def test_what_the_intervals_are_is_said(three: Comparison) -> None:
    notes = " ".join(methods_grid(three).notes)
    assert "paired bootstrap (2,000 resamples)" in notes
    assert "too narrow where few rows differ, and empty where none does" in notes
    assert "not corrected for several comparisons" in notes
    assert "chance, and here are 2." in notes
    assert "k systems that tie have 1/k each" in notes
    assert "sample standard deviation" in notes
    assert "what another seed would change is not in the intervals" in notes
    assert "here are 8." in differences_grid(three).notes[0]
    assert any("here are 4." in note for note in domains_grid(three).notes)


def test_where_training_ended_stands_below_the_table(story: Make) -> None:
    run = story({"a": "0111"}, last={"a": "0001"}, method="continual")
    notes = methods_grid(compare({"continual": [run]})).notes
    assert "Means where training ended, not of the returned point: continual 25.0 %." in notes


def test_scores_by_task_mark_the_best(three: Comparison) -> None:
    grid = scores_grid(three)
    assert grid.columns == ("Task ", "Rows", "sft", "msft", "sro")
    assert [cell.startswith("* ") for cell in grid.rows[0][2:]] == [False, True, True]
    assert [cell.startswith("* ") for cell in grid.rows[1][2:]] == [True, True, True]
    assert grid.rows[3][1:3] == ("10", "* 90.0 [59.6, 98.2]")
    assert grid.rows[-1][:2] == ("mean over tasks", "40")


def test_differences_leave_out_the_reference(three: Comparison) -> None:
    grid = differences_grid(three)
    assert grid.title.startswith("Differences to sft by task in percentage points")
    assert grid.columns == ("Task ", "msft", "sro")
    assert grid.rows[1][1] == "0.0 [0.0, 0.0]"
    assert grid.rows[2][1].startswith("+20.0 [")


def test_domains_stand_with_their_tasks(three: Comparison) -> None:
    grid = domains_grid(three)
    assert [row[0] for row in grid.rows] == ["words", "", "", "sums", "", ""]
    assert grid.rows[0][2].startswith("65.0 [") and grid.rows[1][2].startswith("* 70.0 [")
    assert grid.rows[1][3].startswith("+5.0 [")
    assert "words: a, b; sums: c, d." in grid.notes


def test_compute(three: Comparison) -> None:
    grid = compute_grid(three)
    assert grid.columns[2:5] == ("Training PFLOPs", "Probe PFLOPs", "Evaluation TFLOPs")
    assert grid.rows[1] == ("msft", "2,000", "4.00", "1.00", "1.00", "2", "1 min 10 s")
    assert "Rolled-back steps count as spent" in grid.notes[0]
    assert not any("dash" in note for note in grid.notes)


def test_time_by_kind_the_longest_first(three: Comparison) -> None:
    grid = time_grid(three)
    assert grid.columns == ("System ", "train", "generate", "finish", "sum")
    assert grid.rows[0] == ("sft", "1 min 00 s", "8.0 s", "2.0 s", "1 min 10 s")


def test_disk_in_copies_of_the_model(three: Comparison) -> None:
    grid = disk_grid(three)
    assert grid.columns[3] == "Copies, sft = 1"
    assert grid.rows[0] == ("sft", "1000.0 MiB", "2.00", "1.00")
    assert grid.rows[1] == ("msft", "2.0 GiB", "4.00", "2.00")


def test_what_no_ledger_says_is_a_dash(story: Make) -> None:
    found = compare({"x": [story({"a": "10"})]})
    grid = compute_grid(found)
    assert grid.rows[0] == ("x", "1,000", "-", "-", "-", "2", "1 min 10 s")
    assert grid.columns[2] == "Training FLOPs"
    assert "A dash: not in the ledger." in grid.notes
    assert disk_grid(found).rows[0] == ("x", "-", "-", "-")


@pytest.mark.parametrize(
    ("most", "unit"),
    [(2.28e17, ("P", 1e15)), (1e12, ("T", 1e12)), (9.9e11, ("G", 1e9)), (3e6, ("M", 1e6)),
     (5.0, ("", 1.0))],
)  # fmt: skip
def test_flops_have_the_unit_of_the_largest(most: float, unit: tuple[str, float]) -> None:
    assert flops_unit([None, most, 1.0]) == unit
    assert flops_unit([None]) == ("", 1.0)


def test_the_papers_protocol_is_said_in_every_table_of_scores(story: Make) -> None:
    domain = {"a": "words", "b": "sums"}
    runs = {
        name: [story({"a": "10", "b": "01"}, steer_on="report", domain=domain, method=name)]
        for name in ("sft", "msft")
    }
    found = compare(runs)
    for make in (methods_grid, domains_grid, scores_grid, differences_grid):
        grid = make(found)
        assert "(report split, steered on)" in grid.title
        assert any("optimistic" in note for note in grid.notes), grid.title


def test_seeds_are_told_with_what_was_resampled(story: Make) -> None:
    runs = {
        "sft": [story({"a": "0011"}, seed=seed) for seed in (1, 2)],
        "msft": [story({"a": "0111"}, method="msft", seed=1)],
    }
    found = compare(runs)
    grid = methods_grid(found)
    assert (grid.rows[0][1], grid.rows[1][1]) == ("1, 2", "1")
    notes = " ".join(grid.notes)
    assert "A resample draws seeds with replacement, once for all tasks" in notes
    assert "too small by a factor of about sqrt((n - 1) / n)" in notes
    assert "not in their intervals: msft." in notes
    assert "Of several seeds: the mean over them." in compute_grid(found).notes


def test_losses_and_their_deviation_are_written_as_losses(story: Make) -> None:
    rows = {"a": [-2_000_000, -1_000_000], "b": [-500_000, -500_000]}
    metric = dict.fromkeys(rows, "loss")
    found = compare({"x": [story(rows, metric=metric)]})
    grid = methods_grid(found)
    assert grid.columns[2] == "Mean loss"
    assert grid.rows[0][2].startswith("* 1.0000 [")
    assert grid.rows[0][3] == "0.7071"
    assert any("lower is better" in note for note in grid.notes)


def test_metrics_of_several_kinds_share_a_scale_from_0_to_1(story: Make) -> None:
    rows = {"a": "10", "b": [250_000, 250_000]}
    found = compare({"x": [story(rows, metric={"a": "accuracy", "b": "f1"})]})
    grid = scores_grid(found)
    assert grid.title == "Scores by task (report split)"
    assert grid.rows[0][2].startswith("* 50.0 [") and grid.rows[1][2].startswith("* 25.0 [")
    assert grid.rows[2][2].startswith("* 0.375 [")
    assert "The tasks' metrics differ: their mean counts each from 0 to 1." in grid.notes


def test_one_system_alone_has_no_table_of_differences(story: Make) -> None:
    titles = [grid.title for grid in all_grids(compare({"x": [story({"a": "10"})]}))]
    assert not any("Differences" in title for title in titles)


def test_a_table_that_is_too_wide_is_printed_in_parts(three: Comparison) -> None:
    grid = scores_grid(three)
    assert fitted(grid, width=200) == (grid,)
    first, second = fitted(grid, width=50)
    assert (first.columns, second.columns) == (("Task ", "Rows", "sft", "msft"), ("Task ", "sro"))
    assert first.title.endswith("part 1 of 2")
    assert (first.notes, second.notes) == ((), grid.notes)
    assert first.has_total


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_printed_is_wider_than_the_terminal(three: Comparison, width: int) -> None:
    text = printed(three, width)
    assert text.startswith("Comparison of 3 systems on 4 tasks (report split)\n")
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for value in ("[59.6, 98.2]", "mean over tasks", "Copies, sft = 1"):
        assert value in text


@pytest.mark.parametrize("cells", [("1.0 [0.5, 1.5]", "x"), ("-3.0", "1.25 [1.00, 2.00]")])
def test_the_narrow_width_is_what_the_terminal_needs(cells: tuple[str, str]) -> None:
    grid = Grid("t", ("Name ", "Report rows", "Value"), (("n", *cells),))
    width = narrow_width(grid)
    stream = StringIO()
    Console(file=stream, width=width).print(rich_grid(grid, width=width))
    text = stream.getvalue()
    assert "…" not in text
    for cell in cells:
        assert all(part in text for part in cell.partition(" [")[::2])
    assert max(len(line.rstrip()) for line in text.splitlines()) == width


def test_hostile_labels_act_neither_on_the_terminal_nor_on_markdown(story: Make) -> None:
    label = "[red]|<b>_*`\x1b[31m\n$y$"
    runs: dict[str, Any] = {
        label: [story({"a": "10"})],
        "msft": [story({"a": "11"}, method="msft")],
    }
    found = compare(runs)
    text = printed(found, 120)
    assert "\x1b" not in text and "[red]" in text
    for grid in all_grids(found):
        table = markdown_table(grid)
        assert "<b>" not in table and "\x1b" not in table and "\n$y" not in table
