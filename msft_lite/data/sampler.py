"""Which rows are trained on, in which batches: pure functions of counters.

Nothing here holds state or draws from a random generator. The order of a task's rows is a
function of (seed, key, task, pass), the order within a mark interval of (seed, key, interval), so
a run that is resumed, or cut into rollouts elsewhere, sees the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from msft_lite.core import Clock, Mixture, RowId
from msft_lite.errors import DataError, SnapshotError
from msft_lite.ledger import rows_digest

Batch = tuple[RowId, ...]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the data of one order has been drawn.

    Attributes:
        key: names the order; another key gives other permutations.
        intervals: mark intervals drawn so far.
        drawn: rows drawn so far, per task, since the rows that are skipped last changed.
        owed: rows that should have been drawn by now, per task, before rounding.
        skip: digest of the rows that are skipped; empty if none are.
        since: intervals drawn before that last changed.
        steps: optimizer steps drawn so far.
    """

    key: str
    intervals: int
    drawn: Mapping[str, int]
    owed: Mapping[str, Fraction]
    skip: str = ""
    since: int = 0
    steps: int = 0

    @staticmethod
    def start(key: str) -> Cursor:
        """Returns the cursor of the order ``key`` before its first row."""
        return Cursor(key, 0, {}, {})

    def skipping(self, rows: Collection[RowId]) -> Cursor:
        """Returns the cursor for passes without ``rows``: a new pass begins where they change."""
        skip = rows_digest(rows)
        if skip == self.skip:
            return self
        return replace(self, drawn={}, owed={}, skip=skip, since=self.intervals)

    def to_json(self) -> dict[str, object]:
        """Returns the cursor as JSON values; fractions are strings such as ``"450/7"``."""
        return {
            "key": self.key,
            "intervals": self.intervals,
            "drawn": dict(self.drawn),
            "owed": {task: str(rows) for task, rows in self.owed.items()},
            "skip": self.skip,
            "since": self.since,
            "steps": self.steps,
        }

    @staticmethod
    def from_json(value: object) -> Cursor:
        """Returns the cursor that `to_json` wrote.

        Raises:
            SnapshotError: ``value`` is not what `to_json` writes.
        """
        match value:
            case {
                "key": str(key), "intervals": int(intervals), "drawn": dict(d), "owed": dict(o),
                "skip": str(skip), "since": int(since), "steps": int(steps),
            }:  # fmt: skip
                try:
                    drawn = {str(task): int(rows) for task, rows in d.items()}
                    owed = {str(task): Fraction(rows) for task, rows in o.items()}
                except (TypeError, ValueError, ArithmeticError):
                    pass
                else:
                    return Cursor(key, intervals, drawn, owed, skip, since, steps)
        raise SnapshotError(
            f"the stored data cursor is damaged: {value!r}; delete the crash copy to start again "
            "from the last snapshot"
        )


def permutation(count: int, *label: str | int) -> list[int]:
    """Returns the numbers below ``count`` in the order that ``label`` names.

    The order is by SHA-256 of label and number, so it is the same in every version of Python.
    """
    base = hashlib.sha256(json.dumps(label).encode())

    def place(number: int) -> bytes:
        digest = base.copy()
        digest.update(number.to_bytes(8, "little"))
        return digest.digest()

    return sorted(range(count), key=place)


def draw(
    cursor: Cursor, steps: int, *, seed: int, mixture: Mixture, clock: Clock
) -> tuple[tuple[Batch, ...], Cursor]:
    """Returns the batches of the next ``steps`` optimizer steps and the cursor after them.

    Args:
        cursor: where the order stands.
        steps: those of a whole mark interval, unless rows are drawn independently.
        seed: of the run.
        mixture: what to draw.
        clock: sizes of the tasks and length of an epoch.

    Raises:
        DataError: a mark interval holds fewer rows than batches.
    """
    if mixture.iid:
        return _independent(cursor, steps, seed=seed, mixture=mixture, clock=clock)
    return interval(cursor, seed=seed, mixture=mixture, clock=clock)


def interval(
    cursor: Cursor, *, seed: int, mixture: Mixture, clock: Clock
) -> tuple[tuple[Batch, ...], Cursor]:
    """Returns the batches of one mark interval and the cursor after it.

    There are ``clock.steps_per_mark(mixture)`` batches; their sizes differ by one at most, none
    is empty and none over ``clock.batch_rows``. After k intervals of one mixture each task was
    drawn exactly ``round(k * share * size / marks_per_epoch)`` times (halves go up), size being
    its rows that are not skipped, and no row twice before every one of them was drawn once. A task
    that leaves or joins the mixture does not change the sequence of another.

    Raises:
        DataError: the interval holds fewer rows than batches.
    """
    cursor = cursor.skipping(mixture.skip)
    drawn, owed = dict(cursor.drawn), dict(cursor.owed)
    left = clock.rows_left(mixture)
    rows: list[RowId] = []
    for task, share in mixture.share:
        before = drawn.get(task, 0)
        owed[task] = owed.get(task, Fraction(0)) + share * left[task] / clock.marks_per_epoch
        drawn[task] = _round_half_up(owed[task])
        label = (seed, cursor.key, task, *([cursor.since] if cursor.since else []))
        passes = _Passes(task, label, clock.sizes[task], left[task], mixture.skip)
        rows += passes.rows(before, drawn[task])
    shuffled = [rows[i] for i in permutation(len(rows), seed, cursor.key, cursor.intervals)]
    batches = _spread(shuffled, clock.steps_per_mark(mixture))
    return batches, replace(
        cursor,
        intervals=cursor.intervals + 1,
        drawn=drawn,
        owed=owed,
        steps=cursor.steps + len(batches),
    )


@dataclass(frozen=True, slots=True)
class _Passes:
    """The endless sequence of a task's passes.

    Attributes:
        label: names the order.
        size: training rows of the task.
        left: those of them that are not skipped; a pass has as many.
        skip: rows of any task that are left out.
    """

    task: str
    label: tuple[str | int, ...]
    size: int
    left: int
    skip: frozenset[RowId]

    def rows(self, start: int, stop: int) -> list[RowId]:
        """Returns rows ``start`` to ``stop`` of the sequence."""
        rows: list[RowId] = []
        while start < stop:
            number, first = divmod(start, self.left)
            last = min(self.left, first + stop - start)
            rows += self._pass(number)[first:last]
            start += last - first
        return rows

    def _pass(self, number: int) -> list[RowId]:
        order = [(self.task, row) for row in permutation(self.size, *self.label, number)]
        return [row for row in order if row not in self.skip] if self.skip else order


def _independent(
    cursor: Cursor, steps: int, *, seed: int, mixture: Mixture, clock: Clock
) -> tuple[tuple[Batch, ...], Cursor]:
    """Returns batches of rows each of which is drawn without regard to the others.

    They are as large as those of one pass over every task, and depend on the number of the step
    alone, however many steps are asked for at a time.

    Raises:
        DataError: a step would get no row.
    """
    whole, steps_per_mark = sum(clock.sizes.values()), clock.steps_per_mark(mixture)
    _check_rows(whole // clock.marks_per_epoch, steps_per_mark)
    pace = Fraction(whole, clock.marks_per_epoch * steps_per_mark)  # rows of a step
    edges = [math.floor(pace * step) for step in range(cursor.steps, cursor.steps + steps + 1)]
    ladder = list(itertools.accumulate(share * clock.sizes[task] for task, share in mixture.share))
    label = (seed, cursor.key)
    batches = tuple(
        tuple(_independent_row(label, number, clock, mixture, ladder) for number in range(*both))
        for both in itertools.pairwise(edges)
    )
    return batches, replace(cursor, steps=cursor.steps + steps)


def _independent_row(
    label: tuple[int, str], number: int, clock: Clock, mixture: Mixture, ladder: Sequence[Fraction]
) -> RowId:
    """Returns row ``number`` of the order ``label``; ``ladder`` adds up the tasks' weights."""
    digest = hashlib.sha256(json.dumps([*label, "independent", number]).encode()).digest()
    which, where = (int.from_bytes(digest[i : i + 8], "little") for i in (0, 8))
    task = mixture.tasks[bisect_right(ladder, ladder[-1] * which / 2**64)]
    return task, where * clock.sizes[task] >> 64


def _spread(rows: list[RowId], count: int) -> tuple[Batch, ...]:
    _check_rows(len(rows), count)
    edges = [len(rows) * step // count for step in range(count + 1)]
    return tuple(tuple(rows[first:last]) for first, last in itertools.pairwise(edges))


def _check_rows(rows: int, steps: int) -> None:
    if rows < steps:
        raise DataError(
            f"the tasks hold too few rows: a mark interval draws {rows} rows for {steps} "
            "optimizer steps; give the tasks more rows or make the batch larger "
            "(train.per_device_train_batch_size, train.gradient_accumulation_steps)"
        )


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))
