"""Roll-outs that merely go on are told as one; what they cost is where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from msft_lite.errors import LedgerError
from msft_lite.report.plain import is_news
from msft_lite.report.spending import Work
from msft_lite.report.story import Story
from msft_lite.report.telling import advance, tell

RATES = {
    "body_forward": 10, "body_backward": 20, "head_forward": 3, "head_backward": 4,
    "attention_forward": 1, "attention_backward": 2, "recompute": False,
}  # fmt: skip


def start(tasks: Sequence[str] = ("a", "b")) -> dict[str, Any]:
    rows = {task: {"train": 40, "control": 10, "report": 10} for task in tasks}
    return {
        "kind": "start", "format": 1, "method": "dynamix", "seed": 1, "tasks": list(tasks),
        "rows": rows, "marks_per_epoch": 4, "flops": RATES, "model_bytes": 1000,
    }  # fmt: skip


def rollout(n: int, begin: str, marks: list[int], **changes: object) -> dict[str, Any]:
    return {
        "kind": "rollout", "n": n, "start": begin, "tasks": ["a", "b"],
        "share": {"a": "1", "b": "1"}, "marks": marks, "fresh": n == 1, "score": True, **changes,
    }  # fmt: skip


def mark(n: int, k: int, step: int, snapshot: str, right: int | None = None) -> dict[str, Any]:
    scores = {} if right is None else {"a": [right, 10], "b": [5, 10]}
    texts = {} if right is None else {"a": "1" * right + "0" * (10 - right), "b": "1" * 5 + "0" * 5}
    trained = 100 * step if k else 0
    return {
        "kind": "mark", "n": n, "k": k, "step": step, "snapshot": snapshot, "scores": scores,
        "outcomes": texts, "train_loss": {"a": 1.0} if k else {}, "trained_tokens": trained,
        "trained_answer_tokens": trained // 10, "trained_squared_tokens": trained // 100,
        "prompt_tokens": 0 if right is None else 50, "cached_tokens": 0 if right is None else 20,
        "generated_tokens": 0 if right is None else 7, "seconds": {"train": float(step)},
        "disk_bytes": 500 * k, "written_bytes": 500 if k and right is not None else 0,
        "peak_bytes": 1,
    }  # fmt: skip


def audit(n: int) -> dict[str, Any]:
    return {
        "kind": "audit", "n": n, "audit": "probe", "before": {"a": [5]}, "after": {"a": [4]},
        "trained_tokens": 60, "trained_answer_tokens": 6, "trained_squared_tokens": 36,
        "read_tokens": 120, "read_answer_tokens": 12, "read_squared_tokens": 72,
        "seconds": {"audit": 2.0},
    }  # fmt: skip


# A mark interval of three steps; probes every two. Roll-out 2 ends between marks.
SEGMENTS = [
    start(),
    rollout(1, "root", [2], score=False, audit="probe", iid=True),
    mark(1, 0, 0, "root", 4), mark(1, 1, 2, "live"), audit(1),
    rollout(2, "live", [1], iid=True),
    mark(2, 0, 0, "live"), mark(2, 1, 1, "s3", 6),
    rollout(3, "s3", [1], score=False, audit="probe", iid=True),
    mark(3, 0, 0, "s3", 6), mark(3, 1, 1, "live"), audit(3),
    rollout(4, "live", [2], iid=True),
    mark(4, 0, 0, "live"), mark(4, 1, 2, "s6", 8),
]  # fmt: skip


def test_segments_between_two_marks_are_one_rollout() -> None:
    story = tell(SEGMENTS)
    (told,) = story.rollouts
    assert (told.steps, [m.snapshot for m in told.marks]) == ((3, 6), ["root", "s3", "s6"])
    assert [m.row for m in told.marks] == [(1, 0), (2, 1), (4, 1)]
    assert [m.k for m in told.marks] == [0, 1, 2]
    assert [m.spent.steps for m in told.marks] == [0, 3, 6]
    assert [m.spent.epochs for m in told.marks] == [0, Fraction(1, 4), Fraction(1, 2)]
    assert (story.requests, told.is_complete, told.end_step) == (4, True, 6)


def test_what_unscored_segments_and_probes_cost_is_the_next_marks() -> None:
    told = tell(SEGMENTS).rollouts[0]
    second = told.marks[1].spending
    assert second.trained == Work(200 + 100, 20 + 10, 2 + 1)
    assert (second.probed, second.audited) == (Work(60, 6, 36), Work(120, 12, 72))
    assert second.seconds == {"train": 3.0, "audit": 2.0}


def test_operations_and_copies_of_the_whole() -> None:
    totals = tell(SEGMENTS).totals()
    # trained 600 tokens, 60 with loss, 6 squared; two probes; 3 + 1 evaluations are recorded
    assert totals.flops is not None
    assert totals.flops.model == 30 * 600 + 7 * 60 + 3 * 6
    assert totals.flops.attention == 3 * 6
    assert totals.flops.probe == 2 * (30 * 60 + 7 * 6 + 3 * 36 + 10 * 120 + 3 * 12 + 72)
    assert totals.flops.evaluation == 10 * 4 * (30 + 7) + 3 * 4 * 7
    assert totals.copies == 0.5  # 500 bytes at either mark, of 1,000
    assert totals.spending.written_bytes == 1000


def test_only_what_a_reader_wants_to_know_is_news() -> None:
    story: Story | None = None
    news: list[str] = []
    for row in SEGMENTS:
        before, story = story, advance(story, row, where="here")
        if is_news(before, story):
            news.append(row["kind"])
    assert news == ["start", "rollout", "mark", "mark", "mark"]


def test_a_segment_in_progress_counts_its_steps() -> None:
    told = tell(SEGMENTS[:10]).rollouts[0]
    assert (told.steps, told.end_step, told.is_complete) == ((3,), 4, False)


def test_a_rollout_on_other_tasks_or_afresh_is_another_one() -> None:
    rows = [*SEGMENTS, rollout(5, "s6", [2], tasks=["a"], share={"a": "1"}), mark(5, 0, 0, "s6", 8)]
    assert len(tell(rows).rollouts) == 2
    rows = [*SEGMENTS, rollout(5, "s6", [2], fresh=True), mark(5, 0, 0, "s6", 8)]
    assert len(tell(rows).rollouts) == 2


@pytest.mark.parametrize(
    ("cut", "extra", "told"),
    [
        (3, mark(1, 1, 2, "s2", 4), "mark 1 has the snapshot 's2'"),
        (7, mark(2, 1, 1, "live"), "mark 1 has the snapshot 'live'"),
        (3, audit(1), "an audit before the last mark of roll-out 1"),
        (5, rollout(3, "live", [1]), "roll-out 3 where roll-out 2 is due"),
    ],
)
def test_damage_is_named(cut: int, extra: dict[str, Any], told: str) -> None:
    with pytest.raises(LedgerError, match=told):
        tell([*SEGMENTS[:cut], extra])
