from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from msft_lite.report.page.spending import disk_held, training_spent
from msft_lite.report.telling import tell

Builder = Any
FLOPS = {
    "body_forward": 2, "body_backward": 4, "head_forward": 1, "head_backward": 2,
    "attention_forward": 0.5, "attention_backward": 1, "recompute": True,
}  # fmt: skip


def one_roll_out(build: Callable[..., Builder]) -> Builder:
    """Marks 0, 1 and 2; 1,000 tokens are trained to each of the last two."""
    return build(["a"]).rollout({"a": [1, 2, 3]})


def marks_of(run: Builder) -> Any:
    return tell(run.rows).marks


def test_without_a_price_tokens_are_counted(three_tasks: Builder) -> None:
    spent = training_spent(marks_of(three_tasks), three_tasks.rows)
    assert (spent.name, spent.unit) == ("tokens trained", "tokens")
    # Three roll-outs of four marks; rolled-back ones count, mark 0 trains nothing.
    thousands = [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12]
    assert spent.values == tuple(1000 * k for k in thousands)


def test_flops_are_those_of_forward_and_backward(build: Callable[..., Builder]) -> None:
    run = one_roll_out(build)
    run.rows[0]["flops"] = FLOPS
    for row in run.rows[2:]:
        row |= {"trained_answer_tokens": 100, "trained_squared_tokens": 10}
    spent = training_spent(marks_of(run), run.rows)
    assert spent.unit == "FLOPs"
    # (2 + 4) a token, (1 + 2) an answer token, 1.5 a squared one: mark 0 315, then 6,315 each.
    assert spent.values == (315, 6630, 12945)


def test_work_of_marks_that_are_not_scored_is_added_to_the_next(
    build: Callable[..., Builder],
) -> None:
    run = one_roll_out(build)
    marks = marks_of(run)
    live = {**run.rows[3], "scores": {}, "outcomes": {}, "snapshot": "live", "trained_tokens": 7}
    rows = [*run.rows[:3], live, live, *run.rows[3:]]
    assert training_spent(marks, rows).values == (0, 1014, 2014)


def test_a_story_may_leave_out_repeated_marks(three_tasks: Builder) -> None:
    marks = [mark for mark in marks_of(three_tasks) if not (mark.n > 1 and mark.k == 0)]
    spent = training_spent(marks, three_tasks.rows)
    assert len(spent.values) == 13
    assert spent.values[5] == 5000


def test_disk_is_in_copies_of_the_model_or_in_gib(build: Callable[..., Builder]) -> None:
    run = one_roll_out(build)
    for row, disk_bytes in zip(run.rows[2:], (0, 2**30, 3 * 2**29), strict=True):
        row["disk_bytes"] = disk_bytes
    held = disk_held(marks_of(run), run.rows)
    assert held is not None
    assert (held.unit, held.values) == ("GiB", (0, 1, 1.5))
    run.rows[0]["model_bytes"] = 2**29
    held = disk_held(marks_of(run), run.rows)
    assert held is not None
    assert (held.name, held.values) == ("disk, in copies of the model", (0, 2, 3))


def test_old_ledgers_say_nothing_of_disk(three_tasks: Builder) -> None:
    assert disk_held(marks_of(three_tasks), three_tasks.rows) is None
    assert disk_held((), ()) is None


@pytest.mark.parametrize("value", ["12", None, True, -5, [1]])
def test_a_count_of_another_kind_is_no_count(build: Callable[..., Builder], value: object) -> None:
    run = one_roll_out(build)
    marks = marks_of(run)
    run.rows[3]["trained_tokens"] = value
    assert training_spent(marks, run.rows).values == (0, 0, 1000)
