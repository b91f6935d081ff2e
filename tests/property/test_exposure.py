"""Law 11 (exposure) and law 1 as far as it concerns the data (seam)."""

from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from msft_lite.core import Clock, Mixture
from msft_lite.data.sampler import Batch, Cursor, interval

SHARES = st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(2, 3), Fraction(7, 5)])


@st.composite
def situations(draw: st.DrawFn) -> tuple[Mixture, Clock]:
    """A mixture with enough rows for its batches, and its clock."""
    names = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True))
    marks = draw(st.sampled_from([1, 2, 4]))
    sizes = {name: draw(st.integers(2 * marks, 60)) for name in names}
    mixture = Mixture(tuple((name, draw(SHARES)) for name in names))
    return mixture, Clock(sizes, draw(st.integers(2, 16)), marks)


def draw_intervals(
    cursor: Cursor, count: int, *, mixture: Mixture, clock: Clock, seed: int = 0
) -> tuple[list[tuple[Batch, ...]], Cursor]:
    intervals: list[tuple[Batch, ...]] = []
    for _ in range(count):
        batches, cursor = interval(cursor, seed=seed, mixture=mixture, clock=clock)
        intervals.append(batches)
    return intervals, cursor


def rows_of(intervals: list[tuple[Batch, ...]], task: str) -> list[int]:
    return [r for batches in intervals for batch in batches for t, r in batch if t == task]


@given(situations(), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_task_is_drawn_as_often_as_its_share_says(
    situation: tuple[Mixture, Clock], count: int, seed: int
) -> None:
    mixture, clock = situation
    intervals, _ = draw_intervals(Cursor.start("k"), count, mixture=mixture, clock=clock, seed=seed)
    for done in range(1, count + 1):
        for task, share in mixture.share:
            owed = done * share * clock.sizes[task] / clock.marks_per_epoch
            assert len(rows_of(intervals[:done], task)) == math.floor(owed + Fraction(1, 2))


@given(situations(), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_no_row_is_drawn_twice_in_a_pass(situation: tuple[Mixture, Clock], count: int) -> None:
    mixture, clock = situation
    intervals, _ = draw_intervals(Cursor.start("k"), count, mixture=mixture, clock=clock)
    for task in mixture.tasks:
        passes, rest = divmod(len(rows_of(intervals, task)), clock.sizes[task])
        times = Counter(rows_of(intervals, task))
        assert all(times[row] - passes in (0, 1) for row in range(clock.sizes[task]))
        assert sum(times[row] > passes for row in range(clock.sizes[task])) == rest


@given(situations(), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_batches_are_even_full_enough_and_as_many_as_the_clock_says(
    situation: tuple[Mixture, Clock], count: int
) -> None:
    mixture, clock = situation
    intervals, _ = draw_intervals(Cursor.start("k"), count, mixture=mixture, clock=clock)
    for batches in intervals:
        sizes = [len(batch) for batch in batches]
        assert len(batches) == clock.steps_per_mark(mixture)
        assert max(sizes) - min(sizes) <= 1
        assert 1 <= min(sizes) <= max(sizes) <= clock.batch_rows


@given(situations(), st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_two_rollouts_in_a_row_draw_what_one_draws(
    situation: tuple[Mixture, Clock], first: int, second: int
) -> None:
    mixture, clock = situation
    start = Cursor.start("k")
    whole, end = draw_intervals(start, first + second, mixture=mixture, clock=clock)
    head, middle = draw_intervals(start, first, mixture=mixture, clock=clock)
    stored = Cursor.from_json(json.loads(json.dumps(middle.to_json())))
    tail, last = draw_intervals(stored, second, mixture=mixture, clock=clock)
    assert stored == middle
    assert (head + tail, last) == (whole, end)


@given(situations(), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_a_task_that_leaves_does_not_disturb_the_others(
    situation: tuple[Mixture, Clock], before: int, after: int
) -> None:
    mixture, clock = situation
    rest = Mixture(mixture.share[1:])
    head, middle = draw_intervals(Cursor.start("k"), before, mixture=mixture, clock=clock)
    tail, _ = draw_intervals(middle, after if rest.share else 0, mixture=rest, clock=clock)
    for task in rest.tasks:
        alone = Mixture(tuple(entry for entry in rest.share if entry[0] == task))
        lone, _ = draw_intervals(Cursor.start("k"), before + after, mixture=alone, clock=clock)
        # Order within an interval depends on its company; which rows are in it does not.
        together = [sorted(rows_of([batches], task)) for batches in head + tail]
        assert together == [sorted(rows_of([batches], task)) for batches in lone]
