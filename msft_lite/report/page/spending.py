"""What every mark had cost by then, for the axes of the page: work of training, and disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from msft_lite.ledger import Row
from msft_lite.report.story import Mark

_PARTS = ("body", "head", "attention")
_COUNTS = ("trained_tokens", "trained_answer_tokens", "trained_squared_tokens")


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity at every mark of a story, in the marks' order.

    Attributes:
        name: the quantity, for an axis: ``tokens trained``.
        unit: short, for a tip: ``tokens``.
    """

    name: str
    unit: str
    values: tuple[float, ...]


def training_spent(marks: Iterable[Mark], rows: Iterable[Row]) -> Measure:
    """Returns the work of training behind every mark, rolled-back stretches included.

    It is in model FLOPs, forward and backward without recomputing, where the start row says what a
    token costs, else in tokens.
    """
    rows = tuple(rows)
    costs = _token_costs(rows)
    spent, values = 0.0, list[float]()
    for row in _scored(rows):
        spent += sum(row[name] * cost for name, cost in costs.items())
        values.append(spent)
    name, unit = ("training work", "FLOPs") if len(costs) > 1 else ("tokens trained", "tokens")
    return Measure(name, unit, _at_marks(marks, rows, values))


def disk_held(marks: Iterable[Mark], rows: Iterable[Row]) -> Measure | None:
    """Returns the disk that snapshots and crash copy took at every mark; None if not recorded.

    It is in copies of the model where the start row says how large one is, else in GiB.
    """
    rows = tuple(rows)
    held = [row["disk_bytes"] for row in _scored(rows)]
    if not any(held):
        return None
    copy_bytes = _number(rows[0].get("model_bytes")) if rows else 0.0
    divisor, name, unit = (
        (copy_bytes, "disk, in copies of the model", "copies")
        if copy_bytes
        else (2.0**30, "disk, GiB", "GiB")
    )
    return Measure(name, unit, _at_marks(marks, rows, [value / divisor for value in held]))


def _token_costs(rows: tuple[Row, ...]) -> dict[str, float]:
    """Returns what one of each kind of counted token costs; of trained tokens 1 if unknown."""
    flops = rows[0].get("flops") if rows else None
    if not isinstance(flops, Mapping):
        return {"trained_tokens": 1.0}
    known = cast("Mapping[str, object]", flops)
    return {
        count: _number(known.get(f"{part}_forward")) + _number(known.get(f"{part}_backward"))
        for count, part in zip(_COUNTS, _PARTS, strict=True)
    }


def _scored(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """Yields snapshot and counts of every scored mark; those of unscored ones are added on."""
    waiting = dict.fromkeys(_COUNTS, 0.0)
    for row in rows:
        if row["kind"] != "mark":
            continue
        waiting = {name: waiting[name] + _number(row.get(name)) for name in _COUNTS}
        if row.get("scores"):
            disk_bytes = _number(row.get("disk_bytes"))
            yield {**waiting, "snapshot": row.get("snapshot"), "disk_bytes": disk_bytes}
            waiting = dict.fromkeys(_COUNTS, 0.0)


def _at_marks(marks: Iterable[Mark], rows: Iterable[Row], values: list[float]) -> tuple[float, ...]:
    """Returns the values that belong to ``marks``, which are scored marks of ``rows`` in order.

    A story may leave out a scored mark that repeats the one before it.
    """
    snapshots = [row["snapshot"] for row in _scored(rows)]
    found, place = list[float](), 0
    for mark in marks:
        place = snapshots.index(mark.snapshot, place)
        found.append(values[place])
        place += 1
    return tuple(found)


def _number(value: object) -> float:
    """Returns a count of a row; 0 where an old ledger has none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return max(0.0, float(value))
