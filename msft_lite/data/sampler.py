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
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from msft_lite.core import Clock, Mixture
from msft_lite.data.task import RowId
from msft_lite.errors import DataError, SnapshotError

Batch = tuple[RowId, ...]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the data of one order has been drawn.

    Attributes:
        key: names the order; another key gives other permutations.
        intervals: mark intervals drawn so far.
        drawn: rows drawn so far, per task.
        owed: rows that should have been drawn so far, per task, before rounding.
    """

    key: str
    intervals: int
    drawn: Mapping[str, int]
    owed: Mapping[str, Fraction]

    @staticmethod
    def start(key: str) -> Cursor:
        """Returns the cursor of the order ``key`` before its first row."""
        return Cursor(key, 0, {}, {})

    def to_json(self) -> dict[str, object]:
        """Returns the cursor as JSON values; fractions are strings such as ``"450/7"``."""
        return {
            "key": self.key,
            "intervals": self.intervals,
            "drawn": dict(self.drawn),
            "owed": {task: str(rows) for task, rows in self.owed.items()},
        }

    @staticmethod
    def from_json(value: object) -> Cursor:
        """Returns the cursor that `to_json` wrote.

        Raises:
            SnapshotError: ``value`` is not what `to_json` writes.
        """
        match value:
            case {"key": str(key), "intervals": int(intervals), "drawn": dict(d), "owed": dict(o)}:
                try:
                    drawn = {str(task): int(rows) for task, rows in d.items()}
                    owed = {str(task): Fraction(rows) for task, rows in o.items()}
                except (TypeError, ValueError, ArithmeticError):
                    pass
                else:
                    return Cursor(key, intervals, drawn, owed)
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


def interval(
    cursor: Cursor, *, seed: int, mixture: Mixture, clock: Clock
) -> tuple[tuple[Batch, ...], Cursor]:
    """Returns the batches of one mark interval and the cursor after it.

    There are ``clock.steps_per_mark(mixture)`` batches; their sizes differ by one at most, none
    is empty and none over ``clock.batch_rows``. After k intervals of one mixture each task was
    drawn exactly ``round(k * share * size / marks_per_epoch)`` times (halves go up), and no row
    twice before every row of its task was drawn once. A task that leaves or joins the mixture
    does not change the sequence of another.

    Raises:
        DataError: the interval holds fewer rows than batches.
    """
    drawn, owed = dict(cursor.drawn), dict(cursor.owed)
    rows: list[RowId] = []
    for task, share in mixture.share:
        size, before = clock.sizes[task], drawn.get(task, 0)
        owed[task] = owed.get(task, Fraction(0)) + share * size / clock.marks_per_epoch
        drawn[task] = _round_half_up(owed[task])
        order = (seed, cursor.key, task)
        rows += [(task, row) for row in _sequence(order, size, before, drawn[task])]
    shuffled = [rows[i] for i in permutation(len(rows), seed, cursor.key, cursor.intervals)]
    batches = _spread(shuffled, clock.steps_per_mark(mixture))
    return batches, Cursor(cursor.key, cursor.intervals + 1, drawn, owed)


def _sequence(order: tuple[int, str, str], size: int, start: int, stop: int) -> list[int]:
    """Returns rows ``start`` to ``stop`` of a task's endless sequence of permuted passes."""
    rows: list[int] = []
    while start < stop:
        this_pass, first = divmod(start, size)
        last = min(size, first + stop - start)
        rows += permutation(size, *order, this_pass)[first:last]
        start += last - first
    return rows


def _spread(rows: list[RowId], count: int) -> tuple[Batch, ...]:
    if len(rows) < count:
        raise DataError(
            f"the tasks hold too few rows: a mark interval draws {len(rows)} rows for {count} "
            "optimizer steps; give the tasks more rows or make the batch larger "
            "(train.per_device_train_batch_size, train.gradient_accumulation_steps)"
        )
    edges = [len(rows) * step // count for step in range(count + 1)]
    return tuple(tuple(rows[first:last]) for first, last in itertools.pairwise(edges))


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))
