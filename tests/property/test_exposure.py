"""Law 11 (exposure) and law 1 as far as it concerns the data (seam)."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from msft_lite.core import MILLION, Clock, Method, Mixture, Point, Rollout, RowId, Score, Trace
from msft_lite.data.sampler import Batch, Cursor, draw, interval, permutation
from msft_lite.methods import build_method

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


@given(situations(), st.lists(st.integers(0, 9), max_size=4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_independent_draws_are_the_same_wherever_they_are_cut(
    situation: tuple[Mixture, Clock], cuts: list[int], seed: int
) -> None:
    mixture, clock = Mixture(situation[0].share, iid=True), situation[1]
    cursor = Cursor.start("k")
    whole, end = draw(cursor, sum(cuts), seed=seed, mixture=mixture, clock=clock)
    parts: list[Batch] = []
    for steps in cuts:
        batches, cursor = draw(cursor, steps, seed=seed, mixture=mixture, clock=clock)
        cursor = Cursor.from_json(json.loads(json.dumps(cursor.to_json())))
        parts += batches
    assert (tuple(parts), cursor) == (whole, end)


@given(situations(), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_independent_steps_follow_the_pace_of_all_tasks(
    situation: tuple[Mixture, Clock], steps: int
) -> None:
    mixture, clock = Mixture(situation[0].share, iid=True), situation[1]
    batches, _ = draw(Cursor.start("k"), steps, seed=0, mixture=mixture, clock=clock)
    per_mark = clock.marks_per_epoch * clock.steps_per_mark(mixture)
    for done in range(1, steps + 1):
        rows = sum(map(len, batches[:done]))
        assert rows == sum(clock.sizes.values()) * done // per_mark
    assert all(1 <= len(batch) <= clock.batch_rows for batch in batches)


@given(situations(), st.lists(st.sets(st.integers(0, 59)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_each_row_that_is_not_skipped_once(
    situation: tuple[Mixture, Clock], epochs: list[set[int]]
) -> None:
    (mixture, clock), cursor = situation, Cursor.start("k")
    clock = Clock(clock.sizes, sum(clock.sizes.values()), clock.marks_per_epoch)
    every = {(task, row) for task in mixture.tasks for row in range(clock.sizes[task])}
    for skipped in epochs:
        skip = frozenset(
            (task, row)
            for task in mixture.tasks
            # two rows a mark are left of every task, so that no step is without one
            for row in sorted({row % clock.sizes[task] for row in skipped})[
                : clock.sizes[task] - 2 * clock.marks_per_epoch
            ]
        )
        passes = Mixture(Mixture.of(mixture.tasks).share, skip=skip)
        intervals, cursor = draw_intervals(
            cursor, clock.marks_per_epoch, mixture=passes, clock=clock
        )
        rows = [row for batches in intervals for batch in batches for row in batch]
        assert sorted(rows) == sorted(every - skip)


# What methods that train in several roll-outs, or draw independently, draw in all.


def drawn_by(
    method: Method, clock: Clock, answer: Callable[[Rollout], Trace], *, searches: int = 0
) -> list[list[RowId]]:
    """Returns the rows of every mark that ``method`` trains to, after so many searches.

    Roll-outs that carry on do so with their cursor, as in a run. Every mark interval must have the
    steps that the request says.
    """
    marks: list[list[RowId]] = []
    cursor, request = Cursor.start("k"), next(method)
    for n in itertools.count():
        cursor = Cursor.start("k") if request.fresh else cursor
        for before, mark in itertools.pairwise((0, *request.marks)):
            batches, cursor = draw(
                cursor, mark - before, seed=0, mixture=request.mixture, clock=clock
            )
            assert len(batches) == mark - before
            if n >= searches:
                marks.append([row for batch in batches for row in batch])
        try:
            request = method.send(answer(request))
        except StopIteration:
            return marks
    raise AssertionError("a method ends")


def peaking(peaks: dict[str, int]) -> Callable[[Rollout], Trace]:
    """Answers with scores that are best at the given marks."""

    def answer(request: Rollout) -> Trace:
        return Trace(
            tuple(
                Point(k, f"s{k}", {t: Score("01" if k == at else "00") for t, at in peaks.items()})
                for k in range(len(request.marks) + 1)
            )
        )

    return answer


def quarters(situation: tuple[Mixture, Clock]) -> Clock:
    """The situation's tasks with rows enough for marks at quarters."""
    clock = situation[1]
    return Clock({task: 6 + size for task, size in clock.sizes.items()}, clock.batch_rows)


STOPS = st.lists(st.integers(1, 12), min_size=5, max_size=5)


@given(situations(), STOPS)
@settings(max_examples=60, deadline=None)
def test_sro_trains_every_task_for_exactly_its_marks(
    situation: tuple[Mixture, Clock], stops: list[int]
) -> None:
    clock = quarters(situation)
    stop = dict(zip(clock.tasks, stops, strict=False))
    method = build_method("sro", clock, {"epochs": 3})
    marks = drawn_by(method, clock, peaking(stop), searches=1)
    assert len(marks) == max(stop.values())
    for done in range(len(marks) + 1):
        found = Counter(task for rows in marks[:done] for task, _ in rows)
        for task, size in clock.sizes.items():
            owed = Fraction(min(done, stop[task]) * size, 4)
            assert found[task] == math.floor(owed + Fraction(1, 2))
    for task, size in clock.sizes.items():  # and as evenly as in one go
        times = Counter(row for rows in marks for t, row in rows if t == task)
        assert max(times.values()) - min(times[row] for row in range(size)) <= 1


@given(situations(), STOPS)
@settings(max_examples=60, deadline=None)
def test_soft_sro_draws_the_rows_of_sro_to_within_a_step(
    situation: tuple[Mixture, Clock], stops: list[int]
) -> None:
    clock = quarters(situation)
    stop = dict(zip(clock.tasks, stops, strict=False))
    method = build_method("soft_sro", clock, {"epochs": 3})
    rows = sum(map(len, drawn_by(method, clock, peaking(stop), searches=1)))
    owed = Fraction(sum(stop[task] * size for task, size in clock.sizes.items()), 4)
    assert math.floor(owed) <= rows < owed + clock.batch_rows


@given(situations(), st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_dynamix_draws_as_many_rows_as_sft_however_it_is_cut(
    situation: tuple[Mixture, Clock], period: int
) -> None:
    clock = quarters(situation)

    bare = peaking(dict.fromkeys(clock.tasks, 1))

    def answer(request: Rollout) -> Trace:
        losses = dict.fromkeys(clock.tasks, (10**6,))
        fallen = {task: (10**6 - 999 * size,) for task, size in clock.sizes.items()}
        return replace(bare(request), before=losses, after=fallen)

    method = build_method("dynamix", clock, {"epochs": 3, "period": period})
    marks = drawn_by(method, clock, answer)
    assert sum(map(len, marks)) == 3 * sum(clock.sizes.values())


@given(situations(), st.integers(0, 99), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_ies_draws_each_row_it_does_not_skip_once_an_epoch_and_no_step_is_empty(
    situation: tuple[Mixture, Clock], seed: int, bent: int
) -> None:
    clock, skipped = quarters(situation), list[frozenset[RowId]]()

    def answer(request: Rollout) -> Trace:
        skipped.append(request.mixture.skip)
        after: dict[str, tuple[int, ...]] = {}
        for task, size in clock.sizes.items():  # of ten rows about so many bend
            order = permutation(10 * size, seed, task, len(skipped))[:size]
            after[task] = tuple(MILLION * (number % 10 < bent) for number in order)
        return replace(peaking(dict.fromkeys(clock.tasks, 1))(request), after=after)

    marks = drawn_by(build_method("ies", clock, {"epochs": 6}), clock, answer)
    every = {(task, row) for task, size in clock.sizes.items() for row in range(size)}
    for epoch, skip in enumerate(skipped):
        rows = [row for batch in marks[4 * epoch : 4 * epoch + 4] for row in batch]
        assert sorted(rows) == sorted(every - skip)
