"""Budget, scale and granularity: differences to sft."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from msft_lite.report.story import Story
from msft_lite.report.studies.budget import budget
from msft_lite.report.studies.granularity import granularity
from msft_lite.report.studies.scale import cells_of, scale

Returned = Callable[..., Story]


@pytest.fixture
def swept(returned: Returned) -> dict[str, Story]:
    """sft 50 % for 12 TFLOPs, C = 1 55 % for half of it, C = 3 47.5 % for half as much again."""
    flops = 10**9  # a token takes 3 GFLOPs, a mark has 1,000 tokens
    return {
        "sft": returned({"a": 10, "b": 10}, flops=flops),
        "msft-budget-1": returned({"a": 12, "b": 10}, method="msft", marks=2, flops=flops),
        "msft-budget-3": returned({"a": 9, "b": 10}, method="msft", marks=6, flops=flops),
    }


def test_a_budget_has_its_score_and_compute_against_sft(swept: dict[str, Story]) -> None:
    study = budget(swept)
    (grid,) = study.grids
    rows = [(row[0], row[1][:4], row[2][:4], *row[3:]) for row in grid.rows]
    assert rows == [
        ("sft", "50.0", "-", "12.00", "-", "1.00"),
        ("msft, C = 1", "55.0", "+5.0", "6.00", "-6.00", "0.50"),
        ("msft, C = 3", "47.5", "-2.5", "18.00", "+6.00", "1.50"),
    ]
    assert grid.columns[3] == "Spent, TFLOPs"
    assert study.headline == ("mean score against sft: +5.0 at C = 1, -2.5 at C = 3; best at C = 1")
    line = next(x for x in study.lines if x.measure == "difference to sft")
    assert line.value == pytest.approx(0.05)
    assert line.low is not None and line.high is not None
    # Two of 20 rows of a changed, b none: the mean moves by 0 to a few rows of 40.
    assert 0 <= line.low <= 0.05 < line.high <= 5 / 40


def test_without_rates_the_compute_is_tokens(returned: Returned) -> None:
    stories = {
        "sft": returned({"a": 10}),
        "msft-budget-1": returned({"a": 10}, method="msft", marks=2),
    }
    (grid,) = budget(stories).grids
    assert grid.columns[3] == "Spent, million tokens trained, rolled-back ones included"
    assert grid.rows[1][5] == "0.50"


def test_scale_takes_the_mean_of_the_cells_differences(returned: Returned) -> None:
    stories = {
        "1-tasks-40-rows/sft": returned({"a": 10}),
        "1-tasks-40-rows/msft": returned({"a": 12}, method="msft"),
        "2-tasks-80-rows/sft": returned({"a": 10, "b": 10}),
        "2-tasks-80-rows/msft": returned({"a": 10, "b": 11}, method="msft"),
    }
    assert [(c.tasks, c.rows, c.name) for c in cells_of(stories)] == [
        (1, 40, "1 task, 40 rows"), (2, 80, "2 tasks, 80 rows"),
    ]  # fmt: skip
    study = scale(stories)
    assert study.headline == "msft against sft: +6.2 in the mean of 2 sizes"
    (grid,) = study.grids
    assert [(row[0], row[1], row[2][:4], row[3][:4], row[4][:5]) for row in grid.rows] == [
        ("1", "40", "50.0", "60.0", "+10.0"),
        ("2", "80", "50.0", "52.5", "+2.5 "),
    ]
    found = [(x.run, x.value) for x in study.lines if x.measure == "difference to sft"]
    assert found == [
        ("1-tasks-40-rows/msft", pytest.approx(0.1)),
        ("2-tasks-80-rows/msft", pytest.approx(0.025)),
    ]


def test_granularity_shows_every_part(returned: Returned) -> None:
    study = granularity(
        {
            "sft": returned({"bones": 10, "nerves": 10}),
            "ies": returned({"bones": 10, "nerves": 11}, method="ies"),
            "msft": returned({"bones": 13, "nerves": 9}, method="msft"),
        }
    )
    assert study.headline == "mean over 2 tasks against sft: ies +2.5, msft +5.0"
    found = {
        (x.run, x.task): round(x.value, 6) for x in study.lines if x.measure == "difference to sft"
    }
    assert found == {
        ("ies", "bones"): 0.0, ("ies", "nerves"): 0.05, ("ies", ""): 0.025,
        ("msft", "bones"): 0.15, ("msft", "nerves"): -0.05, ("msft", ""): 0.05,
    }  # fmt: skip
    assert [grid.rows[0][0] for grid in study.grids] == ["sft", "bones", "bones"]
