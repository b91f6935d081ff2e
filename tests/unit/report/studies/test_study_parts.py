"""Decomposition and loss: what a run of msft is made of, beside sft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from msft_lite.errors import LedgerError
from msft_lite.report.intervals import Estimate
from msft_lite.report.story import Story
from msft_lite.report.studies.decomposition import decomposition, decomposition_of
from msft_lite.report.studies.loss import loss, losses_of
from msft_lite.report.telling import tell

Returned = Callable[..., Story]


def values(*estimates: Estimate) -> list[float]:
    return [round(estimate.value, 6) for estimate in estimates]


def test_the_parts_of_a_gain_add_up(three_tasks: Any, returned: Returned) -> None:
    # b left at 14 and is returned with 13, c left at 12 and is returned with 11.
    found = decomposition_of(returned({"a": 12, "b": 10, "c": 12}), tell(three_tasks.rows))
    assert [(d.task, d.stage, d.peak.k, d.is_before) for d in found.departures] == [
        ("b", 1, 2, True), ("c", 2, 1, True),
    ]  # fmt: skip
    b, c, mean = found.parts["b"], found.parts["c"], found.mean
    assert values(b.avoided, b.afterwards, b.gain) == [0.2, -0.05, 0.15]
    assert values(c.avoided, c.afterwards, c.gain) == [0.0, -0.05, -0.05]
    assert mean is not None
    assert values(mean.avoided, mean.afterwards, mean.gain) == [0.1, -0.05, 0.05]
    # Counts of the builder are nested: one row of b and one of c went wrong, none came right.
    assert -0.2 <= mean.afterwards.low < -0.05 < mean.afterwards.high <= 0


def test_the_table_has_sums_and_means(three_tasks: Any, returned: Returned) -> None:
    sft = returned({"a": 12, "b": 10, "c": 12})
    study = decomposition({"sft": sft, "msft": tell(three_tasks.rows)})
    assert study.headline == (
        "over the dropped tasks +5.0 against sft: +10.0 from avoided over-fitting and -5.0 after "
        "they left"
    )
    (grid,) = study.grids
    rows = [(*row[:4], *(cell.partition(" ")[0] for cell in row[4:])) for row in grid.rows]
    assert rows == [
        ("b", "1", "70.0", "65.0", "+20.0", "-5.0", "+15.0"),
        ("c", "2", "60.0", "55.0", "0.0", "-5.0", "-5.0"),
        ("sum over dropped tasks", "", "", "", "+20.0", "-10.0", "+10.0"),
        ("mean over dropped tasks", "", "", "", "+10.0", "-5.0", "+5.0"),
    ]
    assert "Of 3 tasks 1 never left and are not shown." in grid.notes


def test_what_left_after_the_returned_point_is_not_summed(
    three_tasks: Any, returned: Returned
) -> None:
    rows = three_tasks.rows
    rows[-1] |= {"n": 2, "k": 3, "snapshot": "s2.3"}  # a 9, b 13, c 10; c left in roll-out 2
    study = decomposition({"sft": returned({"a": 12, "b": 10, "c": 12}), "msft": tell(rows)})
    (grid,) = study.grids
    assert [row[1] for row in grid.rows[:2]] == ["1", "2 (not before)"]
    assert grid.rows[-1][5].startswith("-5.0")  # b alone
    assert any(note.endswith("not in sum and mean: c.") for note in grid.notes)


def test_where_all_left_after_it_there_is_no_mean(three_tasks: Any, returned: Returned) -> None:
    rows = three_tasks.rows
    rows[-1] |= {"n": 1, "k": 4, "snapshot": "s1.4"}
    study = decomposition({"sft": returned({"a": 12, "b": 10, "c": 12}), "msft": tell(rows)})
    assert study.headline == "no task left before the returned point"
    assert len(study.grids[0].rows) == 2


def test_a_run_that_dropped_nothing_cannot_be_taken_apart(returned: Returned) -> None:
    stories = {"sft": returned({"a": 1}), "msft": returned({"a": 2}, method="msft")}
    with pytest.raises(LedgerError, match=r"msft dropped no task.*method\.budget"):
        decomposition(stories)


def set_losses(run: Any, n: int, losses: dict[str, list[float]], tokens: int) -> None:
    """Gives the marks of roll-out ``n`` those losses and so many tokens each."""
    for row in run.rows:
        if row["kind"] == "mark" and row["n"] == n and row["k"]:
            row["train_loss"] = {task: of[row["k"] - 1] for task, of in losses.items()}
            row["trained_tokens"] = tokens


@pytest.fixture
def lossy(build: Callable[..., Any]) -> dict[str, Story]:
    """sft with marks at 1 to 4 kilotokens; msft at 1, 2 with a and b, at 2.5, 3, 3.5 with a.

    Loss of sft: a 4 3 2 1, b 2 2 1 1. Of msft: a 4 3 then 2 2.5 1, b 2 1.
    """
    sft = build(["a", "b"], method="sft").rollout({"a": [1] * 5, "b": [1] * 5})
    set_losses(sft, 1, {"a": [4, 3, 2, 1], "b": [2, 2, 1, 1]}, 1000)
    msft = build(["a", "b"]).rollout({"a": [1, 1, 1], "b": [1, 2, 1]}).drop("b", 1)
    msft.rollout({"a": [1] * 4, "b": [1] * 4}, start="s1.1", tasks=["a"])
    set_losses(msft, 1, {"a": [4, 3], "b": [2, 1]}, 1000)
    set_losses(msft, 2, {"a": [2, 2.5, 1]}, 500)
    return {
        "sft": tell(sft.finish(1, 1, [1, 1], [1, 1]).rows),
        "msft": tell(msft.finish(2, 1, [1, 1], [1, 1]).rows),
    }


def test_losses_are_compared_on_the_same_tasks_at_the_same_compute(
    lossy: dict[str, Story],
) -> None:
    found = losses_of(lossy["sft"], lossy["msft"])
    assert found.unit == "million tokens"
    places = [place for stage in found.stages for place in stage.places]
    assert [place.spent for place in places] == pytest.approx([0.001, 0.002, 0.0025, 0.003, 0.0035])
    assert [place.loss for place in places] == [3, 2, 2, 2.5, 1]
    # a of sft lies at 2.5 between 3 and 2, at 2, and at 1.5 between 2 and 1.
    assert [place.other for place in places] == pytest.approx([3, 2.5, 2.5, 2, 1.5])
    study = loss(lossy)
    assert study.headline.endswith("at 3 of 5 marks and the same at 1")
    (grid,) = study.grids
    assert [row[3:] for row in grid.rows] == [
        ("2.0000", "2.5000", "-0.5000", "b"), ("1.0000", "1.5000", "-0.5000", "-"),
    ]  # fmt: skip


def test_beyond_the_end_of_sft_there_is_nothing_to_compare(lossy: dict[str, Story]) -> None:
    found = losses_of(lossy["msft"], lossy["sft"])  # the other way round
    assert [place.other is None for place in found.stages[0].places] == [False, False, True, True]


def test_with_rates_the_compute_is_operations(returned: Returned) -> None:
    sft = returned({"a": 1}, flops=10**9)
    found = losses_of(sft, sft)
    assert found.unit == "TFLOPs"
    assert [place.spent for place in found.sft] == pytest.approx([3, 6, 9, 12])
