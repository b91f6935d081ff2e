"""The order of rows, by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from msft_lite.core import Clock, Mixture
from msft_lite.data.sampler import Cursor, interval, permutation
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


def test_too_few_rows_for_the_steps_is_refused() -> None:
    clock = Clock({"add": 5}, batch_rows=1)
    with pytest.raises(DataError, match="too few rows: a mark interval draws 1 rows for 2"):
        interval(Cursor.start("k"), seed=1, mixture=Mixture.of(["add"]), clock=clock)


def test_cursor_survives_json() -> None:
    cursor = Cursor("k", 3, {"add": 7}, {"add": Fraction(22, 3)})
    assert cursor.to_json()["owed"] == {"add": "22/3"}
    assert Cursor.from_json(cursor.to_json()) == cursor


@pytest.mark.parametrize(
    "damaged",
    [
        None,
        [],
        {},
        {"key": "k", "intervals": 1, "drawn": {}},
        {"key": "k", "intervals": 1, "drawn": {}, "owed": {"add": "1/0"}},
        {"key": "k", "intervals": 1, "drawn": {}, "owed": {"add": "many"}},
        {"key": "k", "intervals": 1, "drawn": {"add": None}, "owed": {}},
        {"key": "k", "intervals": 1, "drawn": {"add": float("inf")}, "owed": {}},
    ],
)
def test_damaged_cursor_is_refused(damaged: object) -> None:
    with pytest.raises(SnapshotError, match="data cursor is damaged"):
        Cursor.from_json(damaged)
