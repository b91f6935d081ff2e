"""The order of rows, by hand."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

import pytest

from msft_lite.core import Clock, Mixture, RowId
from msft_lite.data.sampler import Cursor, draw, interval, permutation
from msft_lite.errors import DataError, SnapshotError


def test_permutation_is_pinned() -> None:
    # A change of these numbers would break the resume of every run that exists.
    assert permutation(10, 20, "rollout 1", "add", 0) == [0, 4, 7, 6, 9, 2, 3, 5, 1, 8]
    assert permutation(0, 1) == []


def test_permutation_depends_on_every_part_of_its_label() -> None:
    labels = [(20, "k", "add", 0), (21, "k", "add", 0), (20, "l", "add", 0), (20, "k", "add", 1)]
    labels += [(20, "k", "ad", 0), (20, "ka", "dd", 0)]
    orders = {tuple(permutation(50, *label)) for label in labels}
    assert len(orders) == len(labels)
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_first_interval_of_two_tasks() -> None:
    clock = Clock({"add": 10, "sort": 8}, batch_rows=2)
    batches, cursor = interval(
        Cursor.start("k"), seed=1, mixture=Mixture.of(["add", "sort"]), clock=clock
    )
    # 10 / 4 = 2.5 rows, rounded up, and 2: five rows over three steps.
    assert [len(batch) for batch in batches] == [1, 2, 2]
    assert cursor == Cursor(
        "k", 1, {"add": 3, "sort": 2}, {"add": Fraction(5, 2), "sort": Fraction(2)}, steps=3
    )


def test_an_epoch_is_each_row_once() -> None:
    clock = Clock({"add": 10, "sort": 7}, batch_rows=4)
    cursor, seen = Cursor.start("k"), []
    for _ in range(4):
        batches, cursor = interval(cursor, seed=1, mixture=Mixture.of(["add", "sort"]), clock=clock)
        seen += [row for batch in batches for row in batch]
    assert sorted(seen) == [("add", i) for i in range(10)] + [("sort", i) for i in range(7)]


def test_keys_and_intervals_give_other_orders() -> None:
    clock, mixture = Clock({"add": 400}, batch_rows=100), Mixture.of(["add"])
    one, after = interval(Cursor.start("1"), seed=1, mixture=mixture, clock=clock)
    two, _ = interval(Cursor.start("2"), seed=1, mixture=mixture, clock=clock)
    other_seed, _ = interval(Cursor.start("1"), seed=2, mixture=mixture, clock=clock)
    next_one, _ = interval(after, seed=1, mixture=mixture, clock=clock)
    assert len({one, two, other_seed, next_one}) == 4


@pytest.mark.parametrize("is_independent", [False, True])
def test_drawing_leaves_the_cursor_as_it_was(is_independent: bool) -> None:
    clock = Clock({"add": 10, "sort": 8}, batch_rows=2)
    mixture = Mixture(Mixture.of(["add", "sort"]).share, iid=is_independent)
    _, cursor = draw(Cursor.start("k"), 3, seed=1, mixture=mixture, clock=clock)
    before = cursor.to_json()
    once = draw(cursor, 3, seed=1, mixture=mixture, clock=clock)
    assert cursor.to_json() == before
    assert draw(cursor, 3, seed=1, mixture=mixture, clock=clock) == once


def test_too_few_rows_for_the_steps_is_refused() -> None:
    clock = Clock({"add": 5}, batch_rows=1)
    with pytest.raises(DataError, match="too few rows: a mark interval draws 1 rows for 2"):
        interval(Cursor.start("k"), seed=1, mixture=Mixture.of(["add"]), clock=clock)


def test_cursor_survives_json() -> None:
    cursor = Cursor("k", 3, {"add": 7}, {"add": Fraction(22, 3)})
    assert cursor.to_json()["owed"] == {"add": "22/3"}
    assert Cursor.from_json(cursor.to_json()) == cursor


WHOLE_CURSOR = Cursor("k", 1, {"add": 2}, {"add": Fraction(2)}).to_json()


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        [],
        {},
        {"key": "k", "intervals": 1, "drawn": {}},
        WHOLE_CURSOR | {"skip": None},
        WHOLE_CURSOR | {"since": "0"},
        WHOLE_CURSOR | {"steps": 1.5},
        WHOLE_CURSOR | {"drawn": {"add": None}},
        WHOLE_CURSOR | {"drawn": {"add": float("inf")}},
        WHOLE_CURSOR | {"owed": {"add": "1/0"}},
        WHOLE_CURSOR | {"owed": {"add": "many"}},
    ],
)
def test_damaged_cursor_is_refused(damaged: object) -> None:
    with pytest.raises(SnapshotError, match="data cursor is damaged"):
        Cursor.from_json(damaged)


# Rows drawn independently.

TILTED = Mixture((("b", Fraction(1, 2)), ("a", Fraction(1)), ("c", Fraction(2))), iid=True)
SIZES = {"b": 48, "a": 32, "c": 16}  # chances 24, 32 and 32 of 88


def independent(mixture: Mixture, clock: Clock, steps: int, seed: int = 1) -> list[RowId]:
    batches, _ = draw(Cursor.start("k"), steps, seed=seed, mixture=mixture, clock=clock)
    return [row for batch in batches for row in batch]


def chi_square(counts: Iterable[tuple[int, float]]) -> float:
    """The statistic of counts found and expected."""
    return sum((found - mean) ** 2 / mean for found, mean in counts)


def test_independent_rows_are_pinned() -> None:
    # A change of these numbers would break the resume of every run that draws so.
    pinned = ["b46", "a17", "a2", "a2", "a7", "a21", "b24", "a9"]
    rows = independent(TILTED, Clock(SIZES, batch_rows=8), steps=1)
    assert [f"{task}{row}" for task, row in rows] == pinned


def test_an_independent_step_has_the_rows_of_the_pace() -> None:
    # A quarter of 40 rows, 10, in ceil(7.5) + ceil(2.5) = 11 rows' worth of steps: 3. After s
    # steps floor(10 s / 3) rows are drawn: 3, 6, 10, 13, ...
    clock = Clock({"a": 30, "b": 10}, batch_rows=4)
    mixture = Mixture((("b", Fraction(3)), ("a", Fraction(1, 9))), iid=True)
    batches, cursor = draw(Cursor.start("k"), 7, seed=1, mixture=mixture, clock=clock)
    assert [len(batch) for batch in batches] == [3, 3, 4, 3, 3, 4, 3]
    assert cursor == Cursor("k", 0, {}, {}, steps=7)
    (batch,), cursor = draw(cursor, 1, seed=1, mixture=mixture, clock=clock)
    assert (len(batch), cursor.steps) == (3, 8)


def test_independent_tasks_are_as_frequent_as_share_times_size() -> None:
    # 400 steps of 24 / 3 rows. The bound of 2 degrees of freedom is passed by one seed in a
    # thousand; this seed is fixed.
    rows = independent(TILTED, Clock(SIZES, batch_rows=8), steps=400)
    assert len(rows) == 3200
    chances = {"b": 24 / 88, "a": 32 / 88, "c": 32 / 88}
    found = Counter(task for task, _ in rows)
    assert chi_square((found[task], 3200 * chances[task]) for task in chances) < 13.8
    # So are two rows that follow one another: 8 degrees of freedom, one seed in a thousand.
    pairs = Counter((x, y) for (x, _), (y, _) in itertools.pairwise(rows))
    both = itertools.product(chances, chances)
    assert chi_square((pairs[x, y], 3199 * chances[x] * chances[y]) for x, y in both) < 26.1


def test_independent_rows_of_a_task_are_equally_frequent() -> None:
    # 31 degrees of freedom, passed by one seed in a thousand.
    rows = independent(TILTED, Clock(SIZES, batch_rows=8), steps=400)
    found = Counter(row for task, row in rows if task == "a")
    assert set(found) == set(range(32))
    assert chi_square((found[row], found.total() / 32) for row in range(32)) < 61.1


def test_a_task_without_chance_is_never_drawn_independently() -> None:
    shares = (("b", Fraction(0)), ("a", Fraction(1)), ("c", Fraction(0)))
    rows = independent(Mixture(shares, iid=True), Clock(SIZES, batch_rows=8), steps=100)
    assert {task for task, _ in rows} == {"a"}


def test_seed_key_and_step_give_other_independent_rows() -> None:
    clock = Clock(SIZES, batch_rows=8)
    one, after = draw(Cursor.start("1"), 3, seed=1, mixture=TILTED, clock=clock)
    two, _ = draw(Cursor.start("2"), 3, seed=1, mixture=TILTED, clock=clock)
    other_seed, _ = draw(Cursor.start("1"), 3, seed=2, mixture=TILTED, clock=clock)
    then, _ = draw(after, 3, seed=1, mixture=TILTED, clock=clock)
    assert len({one, two, other_seed, then}) == 4


def test_too_few_rows_for_independent_steps_are_refused() -> None:
    # 9 / 4 rows for ceil(5 / 4) + ceil(4 / 4) = 3 steps
    clock, mixture = Clock({"a": 5, "b": 4}, batch_rows=1), Mixture.of(["a", "b"])
    with pytest.raises(DataError, match="too few rows: a mark interval draws 2 rows for 3"):
        independent(Mixture(mixture.share, iid=True), clock, steps=1)
    assert independent(Mixture(mixture.share, iid=True), Clock({"a": 8, "b": 4}, 1), steps=3)


# Rows that are skipped.


def drawn(cursor: Cursor, skip: set[RowId], intervals: int) -> tuple[list[RowId], Cursor]:
    clock, rows = Clock({"b": 8, "a": 12}, batch_rows=4), list[RowId]()
    mixture = Mixture(Mixture.of(["b", "a"]).share, skip=frozenset(skip))
    for _ in range(intervals):
        steps = clock.steps_per_mark(mixture)
        batches, cursor = draw(cursor, steps, seed=1, mixture=mixture, clock=clock)
        rows += [row for batch in batches for row in batch]
    return rows, cursor


def test_a_pass_is_each_row_that_is_not_skipped_once() -> None:
    skip = {("b", 1), ("a", 0), ("a", 1), ("a", 11), ("elsewhere", 0)}
    rows, cursor = drawn(Cursor.start("k"), skip, intervals=4)
    left = [("b", row) for row in range(8)] + [("a", row) for row in range(12)]
    assert sorted(rows) == sorted(set(left) - skip)
    assert cursor.drawn == {"b": 7, "a": 9}
    again, _ = drawn(cursor, skip, intervals=4)
    assert sorted(again) == sorted(rows)
    assert again != rows


def test_a_change_of_the_skipped_rows_begins_a_new_pass() -> None:
    # After one interval of four 2 of 8 and 3 of 12 rows are drawn. Then two more are left out, and
    # the next four intervals draw each of the others, those that were drawn already too.
    first, cursor = drawn(Cursor.start("k"), set(), intervals=1)
    assert len(first) == 5
    skip = {("b", 0), ("a", 3)}
    rows, cursor = drawn(cursor, skip, intervals=4)
    whole = {("b", row) for row in range(8)} | {("a", row) for row in range(12)}
    assert sorted(rows) == sorted(whole - skip)
    assert (cursor.intervals, cursor.since, cursor.drawn) == (5, 1, {"b": 7, "a": 11})
    # and back: again a pass of its own, in another order than the first
    rows, cursor = drawn(cursor, set(), intervals=4)
    assert sorted(rows) == sorted(whole)
    assert (cursor.since, cursor.skip) == (5, "")
    assert rows != drawn(Cursor.start("k"), set(), intervals=4)[0]


def test_equal_skipped_rows_do_not_begin_a_new_pass() -> None:
    skip = {("b", 0), ("a", 3)}
    half, cursor = drawn(Cursor.start("k"), skip, intervals=2)
    rest, _ = drawn(cursor, set(skip), intervals=2)
    assert half + rest == drawn(Cursor.start("k"), skip, intervals=4)[0]


def test_a_task_of_which_all_is_skipped_gives_no_row() -> None:
    rows, _ = drawn(Cursor.start("k"), {("b", row) for row in range(8)}, intervals=4)
    assert sorted(rows) == sorted(("a", row) for row in range(12))


def test_cursor_with_skipped_rows_survives_json() -> None:
    _, cursor = drawn(Cursor.start("k"), set(), intervals=1)
    _, cursor = drawn(cursor, {("b", 0)}, intervals=1)
    assert (cursor.since, cursor.steps, len(cursor.skip)) == (1, 4, 64)
    assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor
