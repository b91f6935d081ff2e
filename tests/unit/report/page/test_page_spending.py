from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msft_lite.report.page.spending import disk_held, training_spent
from msft_lite.report.story import Story
from msft_lite.report.telling import tell

Builder = Any
FLOPS = {
    "body_forward": 2, "body_backward": 4, "head_forward": 1, "head_backward": 2,
    "attention_forward": 1, "attention_backward": 2, "recompute": True,
}  # fmt: skip


def one_roll_out(build: Callable[..., Builder]) -> Builder:
    """Marks 0, 1 and 2; 1,000 tokens are trained to each of the last two."""
    return build(["a"]).rollout({"a": [1, 2, 3]})


def story_of(run: Builder) -> Story:
    return tell(run.rows)


def test_without_a_price_tokens_are_counted(three_tasks: Builder) -> None:
    spent = training_spent(story_of(three_tasks))
    assert (spent.name, spent.unit) == ("tokens trained", "tokens")
    # Three roll-outs of four marks; rolled-back ones count, mark 0 trains nothing.
    thousands = [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12]
    assert spent.values == tuple(1000 * k for k in thousands)


def test_flops_are_those_of_forward_and_backward(build: Callable[..., Builder]) -> None:
    run = one_roll_out(build)
    run.rows[0]["flops"] = FLOPS
    for row in run.rows[2:]:
        row |= {"trained_answer_tokens": 100, "trained_squared_tokens": 10}
    spent = training_spent(story_of(run))
    assert spent.unit == "FLOPs"
    # (2 + 4) a token, (1 + 2) an answer token, 3 a squared one: mark 0 330, then 6,330 each.
    assert spent.values == (330, 6660, 12990)


def test_disk_is_in_copies_of_the_model_or_in_gib(build: Callable[..., Builder]) -> None:
    run = one_roll_out(build)
    for row, disk_bytes in zip(run.rows[2:], (0, 2**30, 3 * 2**29), strict=True):
        row["disk_bytes"] = disk_bytes
    held = disk_held(story_of(run))
    assert held is not None
    assert (held.unit, held.values) == ("GiB", (0, 1, 1.5))
    run.rows[0]["model_bytes"] = 2**29
    held = disk_held(story_of(run))
    assert held is not None
    assert (held.name, held.values) == ("disk, in copies of the model", (0, 2, 3))


def test_old_ledgers_say_nothing_of_disk(three_tasks: Builder) -> None:
    assert disk_held(story_of(three_tasks)) is None
