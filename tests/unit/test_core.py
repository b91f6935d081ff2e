"""The vocabulary: scores, clocks, peaks and the rule of live snapshots."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msft_lite.core import (
    LIVE,
    ROOT,
    Clock,
    Keep,
    Mixture,
    Point,
    Rollout,
    Score,
    Trace,
    best_point,
    live_snapshots,
    scored_tasks,
)


def point(mark: int, **scores: int) -> Point:
    marks = {task: Score("1" * n + "0" * (9 - n)) for task, n in scores.items()}
    return Point(mark, f"s{mark}", marks)


def asking(*tasks: str) -> Rollout:
    return Rollout(ROOT, Mixture.of(tasks), (1, 2, 3), fresh=True)


def test_score_counts_outcomes() -> None:
    score = Score("0110")
    assert (score.correct, score.total, score.value) == (2, 4, Fraction(1, 2))


def test_mean_is_exact_and_over_all_tasks() -> None:
    assert point(0, a=1, b=2, c=6).mean() == Fraction(1, 3)


def test_peak_is_the_earliest_best_with_and_without_the_start() -> None:
    trace = Trace((point(0, a=5), point(1, a=2), point(2, a=4), point(3, a=4)))
    assert trace.peak("a").mark == 0
    assert trace.peak("a", start_counts=False).mark == 2
    assert trace.end.mark == 3


def test_best_point_is_the_earliest_best_mean() -> None:
    points = [point(0, a=1, b=1), point(1, a=3, b=2), point(2, a=2, b=3)]
    assert best_point(points).mark == 1


def test_a_mark_interval_has_enough_steps_for_its_rows_in_any_phase() -> None:
    clock = Clock({"a": 30, "b": 10}, batch_rows=4)
    # at most ceil(7.5) + ceil(2.5) = 11 rows in a quarter: 3 steps
    assert clock.marks(Mixture.of(["a", "b"]), 4) == (3, 6, 9, 12)
    soft = Mixture((("a", Fraction(2, 3)), ("b", Fraction(1))))  # 5 + 3 = 8 rows: 2 steps
    assert clock.marks(soft, 2) == (2, 4)


def test_a_mark_interval_is_at_least_one_step() -> None:
    assert Clock({"a": 4}, batch_rows=64).marks(Mixture.of(["a"]), 2) == (1, 2)


def test_live_snapshots_by_hand() -> None:
    points = [point(0, a=1, b=9), point(1, a=5, b=2), point(2, a=5, b=3), point(3, a=4, b=1)]
    elsewhere = Point(7, "run best", points[0].scores)
    # start, a's earliest peak, b's peak without the start, the latest and the run's best
    alive = live_snapshots(points, asking("a", "b"), elsewhere)
    assert alive == {"s0", "s1", "s2", "s3", "run best"}
    assert live_snapshots(points, asking("a"), points[0]) == {"s0", "s1", "s3"}
    assert live_snapshots(iter(points[:1]), asking("a"), points[0]) == {"s0"}


@pytest.mark.parametrize(
    ("keep", "best", "alive"),
    [("best", 1, {"s1", "s3"}), ("none", 1, {"s1", "s3"}), ("none", None, {"s3"})],
)
def test_where_no_peak_is_asked_for_only_the_latest_and_the_best_are_live(
    keep: Keep, best: int | None, alive: set[str]
) -> None:
    points = [point(0, a=1, b=9), point(1, a=5, b=2), point(2, a=5, b=3), point(3, a=4, b=1)]
    request = replace(asking("a", "b"), keep=keep)
    assert live_snapshots(points, request, None if best is None else points[best]) == alive


def test_an_unscored_point_is_no_best_one() -> None:
    assert best_point([Point(0, LIVE, {}), point(1, a=1), Point(2, LIVE, {})]).mark == 1


def test_skipped_rows_make_an_interval_shorter_and_independent_draws_do_not() -> None:
    clock = Clock({"a": 30, "b": 10}, batch_rows=4)
    skip = frozenset(("a", row) for row in range(20))
    assert clock.rows_left(Mixture.of(["a", "b"])) == {"a": 30, "b": 10}
    less = Mixture(Mixture.of(["a", "b"]).share, skip=skip)
    assert clock.rows_left(less) == {"a": 10, "b": 10}
    assert clock.steps_per_mark(less) == 2  # ceil(2.5) + ceil(2.5) = 6 rows
    nothing = Mixture(less.share[:1], skip=frozenset(("a", row) for row in range(30)))
    assert clock.steps_per_mark(nothing) == 1
    uneven = (("a", Fraction(1, 9)), ("b", Fraction(1)))
    assert clock.steps_per_mark(Mixture(uneven)) == 1  # ceil(0.84) + ceil(2.5) = 4 rows
    assert clock.steps_per_mark(Mixture(uneven, iid=True)) == 3  # as for both tasks, passed once


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=9))
def test_a_peak_of_the_whole_was_live_all_the_time(columns: list[tuple[int, int]]) -> None:
    points = [point(k, a=a, b=b) for k, (a, b) in enumerate(columns)]
    whole = Trace(tuple(points))
    asked = {whole.peak(t, start_counts=s).snapshot for t in "ab" for s in (True, False)}
    alive: set[str] = set()
    for seen in range(1, len(points) + 1):
        so_far = points[:seen]
        kept = live_snapshots(so_far, asking("a", "b"), best_point(so_far))
        assert kept <= alive | {so_far[-1].snapshot}, "a snapshot that was removed is asked for"
        alive = set(kept)
    assert asked | {whole.end.snapshot, best_point(points).snapshot} <= alive


def test_tasks_outside_the_mixture_are_scored_now_and_then() -> None:
    request = replace(asking("a", "c"), marks=(2, 4, 6, 8, 10))

    def scored(mark: int, dropped_every: int) -> str:
        return "".join(scored_tasks(request, mark, "bca", dropped_every=dropped_every))

    assert [scored(k, 1) for k in range(6)] == ["bca"] * 6
    assert [scored(k, 2) for k in range(6)] == ["bca", "ca", "bca", "ca", "bca", "bca"]
    assert [scored(k, 9) for k in range(6)] == ["bca", "ca", "ca", "ca", "ca", "bca"]


def test_a_point_without_all_scores_is_no_best_one() -> None:
    points = [point(0, a=1, b=1), point(1, a=9), point(2, a=2, b=1), point(3, a=2, b=1)]
    assert best_point(points).mark == 2
