"""The three splits of a task: to train on, to steer by, to report once."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from msft_lite.data.rows import Row
from msft_lite.data.sampler import permutation
from msft_lite.errors import DataError

Rows: TypeAlias = tuple[Row, ...]
CARVED_CONTROL_ROWS = 200  # as many as the paper's held-out rows
SPLIT_SEED = 20  # not a run's own: runs of several seeds must be scored on the same rows
CARVED_REPORT_ROWS = 500  # narrows the 95 % interval at one half to 4.4 points
MOST_PLACES = 3  # of repeated rows, in a message

_Keyed: TypeAlias = tuple[tuple[str, Row], ...]  # rows after their normalised prompts
_CARVED = {"control": CARVED_CONTROL_ROWS, "report": CARVED_REPORT_ROWS}
_T = TypeVar("_T")


class TooFewRows(DataError):
    """A split would be left without rows."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Most rows of each split, taken by seed; None takes all.

    Where a held-out split is carved, None takes `CARVED_CONTROL_ROWS` or `CARVED_REPORT_ROWS`.
    """

    train: int | None = None
    control: int | None = None
    report: int | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """The rows of each split as read; None is carved from ``train``."""

    train: Rows
    control: Rows | None = None
    report: Rows | None = None


@dataclass(frozen=True, slots=True)
class Splits:
    """Three splits in file order, and what was left out.

    No two of them have a prompt in common, but for control and report rows that are the same.
    """

    train: Rows
    control: Rows
    report: Rows
    notes: tuple[str, ...] = ()

    @property
    def held_out(self) -> Mapping[str, Rows]:
        """The rows to score by split; of the report rows alone where they steer too."""
        if self.control == self.report:
            return {"report": self.report}
        return {"control": self.control, "report": self.report}


@dataclass(frozen=True, slots=True)
class _Source:
    """What every split of a task is made with."""

    task: str
    train: _Keyed
    seed: int
    refuses: bool


def normalised(prompt: str) -> str:
    """Returns ``prompt`` without differences of case, blanks and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def split_rows(
    task: str,
    given: Given,
    *,
    samples: Samples,
    seed: int,
    steer_on: Literal["control", "report"] = "control",
    on_overlap: Literal["drop", "refuse"] = "drop",
) -> Splits:
    """Returns the splits of a task, the same for the same arguments.

    The report split is settled first, then the control split without the prompts of the report
    split, then the training split without the prompts of both: the held-out rows do not depend on
    ``samples.train``. Prompts are compared by `normalised`; repeats within a split stay. With
    ``steer_on="report"`` the control rows are the report rows.

    Raises:
        TooFewRows: a split would be left without rows.
        DataError: rows of one split repeat another's and ``on_overlap`` refuses that.
    """
    source = _Source(task, _keyed(given.train), seed, on_overlap == "refuse")
    report, notes = _held_out(source, "report", given.report, size=samples.report, taken={})
    control, held_out = report, _first_rows(report)
    if steer_on == "control":
        control, more = _held_out(
            source, "control", given.control, size=samples.control, taken=held_out
        )
        held_out |= _first_rows(control)
        notes += more
    train, more = _to_train_on(source, size=samples.train, taken=held_out)
    return Splits(_rows(train), _rows(control), _rows(report), (*notes, *more))


def listed(places: Sequence[str]) -> str:
    """Returns the first of ``places``, for a message."""
    rest = len(places) - MOST_PLACES
    return "; ".join(places[:MOST_PLACES]) + (f"; and {rest} more" if rest > 0 else "")


def _held_out(
    source: _Source,
    name: Literal["control", "report"],
    given: Rows | None,
    *,
    size: int | None,
    taken: Mapping[str, Row],
) -> tuple[_Keyed, list[str]]:
    """Returns a held-out split without the prompts in ``taken``, and notes on it."""
    if size is not None and size < 1:
        raise DataError(f"task {source.task!r}: data.{name}_samples = {size}; it must be 1 or more")
    if given is None:
        carved = _carved(source, name, size=size or _CARVED[name], taken=taken)
        return carved, [f"carved {len(carved)} {name} rows from the training rows"]
    if not given:
        raise TooFewRows(f"task {source.task!r}: its {name} split holds no rows; give it some")
    free, notes = _without(source, f"{name} rows that repeat report rows", _keyed(given), taken)
    if not free:
        raise TooFewRows(
            f"task {source.task!r}: every row of the {name} split is in the report split too, so "
            "the steering would be done on the reported rows; give other rows"
        )
    chosen = _sample(free, size, seed=source.seed, label=(source.task, name))
    return chosen, [*notes, *_told(name, chosen, size)]


def _to_train_on(
    source: _Source, *, size: int | None, taken: Mapping[str, Row]
) -> tuple[_Keyed, list[str]]:
    """Returns the training split without the prompts in ``taken``, and notes on it."""
    free, notes = _without(source, "training rows that repeat held-out rows", source.train, taken)
    if not free:
        raise TooFewRows(
            f"task {source.task!r}: no training rows are left of {len(source.train)}: the "
            f"{len(taken)} held-out prompts take or repeat all of them; give more rows or lower "
            "data.control_samples and data.report_samples"
        )
    chosen = _sample(free, size, seed=source.seed, label=(source.task, "train"))
    return chosen, [*notes, *_told("training", chosen, size)]


def _without(
    source: _Source, what: str, rows: _Keyed, taken: Mapping[str, Row]
) -> tuple[_Keyed, list[str]]:
    """Returns the rows whose prompts are not in ``taken``, and a note on those that repeat one.

    Raises:
        DataError: there are some that do, and they are refused.
    """
    free = tuple((prompt, row) for prompt, row in rows if prompt not in taken)
    # A carved row is in ``taken`` itself and repeats nothing.
    repeated = [
        f"{row.where} (as {taken[prompt].where})"
        for prompt, row in rows
        if prompt in taken and taken[prompt] is not row
    ]
    if repeated and source.refuses:
        raise DataError(
            f"task {source.task!r}: {len(repeated)} {what}: {listed(repeated)}; delete them, or "
            'leave them out with data.on_overlap = "drop"'
        )
    return free, [f"dropped {len(repeated)} {what}"] if repeated else []


def _carved(source: _Source, name: str, *, size: int, taken: Collection[str]) -> _Keyed:
    """Returns ``size`` training rows with distinct prompts that are not in ``taken``."""
    distinct = [entry for entry in _first_rows(source.train).items() if entry[0] not in taken]
    if size >= len(distinct):
        raise TooFewRows(
            f"task {source.task!r}: cannot carve {size} {name} rows and leave rows to train on: it "
            f"has {len(distinct)} distinct rows to take from; set a lower data.{name}_samples, or "
            f"give it {name} rows of its own"
        )
    return _sample(distinct, size, seed=source.seed, label=(source.task, name))


def _sample(
    rows: Sequence[_T], size: int | None, *, seed: int, label: tuple[str, str]
) -> tuple[_T, ...]:
    """Returns ``size`` of ``rows``, or all if there are no more, in their order."""
    if size is None or size >= len(rows):
        return tuple(rows)
    chosen = permutation(len(rows), seed, "split", *label)[:size]
    return tuple(rows[i] for i in sorted(chosen))


def _told(name: str, rows: _Keyed, wanted: int | None) -> list[str]:
    """Returns notes on rows that are missing from a split, and on repeats in it."""
    notes: list[str] = []
    if wanted is not None and wanted > len(rows):
        notes.append(f"asked for {wanted} {name} rows, found {len(rows)}")
    if repeats := len(rows) - len(_first_rows(rows)):
        notes.append(f"kept {repeats} {name} rows that repeat the prompt of an earlier one")
    return notes


def _keyed(rows: Rows) -> _Keyed:
    return tuple((normalised(row.prompt), row) for row in rows)


def _rows(keyed: _Keyed) -> Rows:
    return tuple(row for _, row in keyed)


def _first_rows(keyed: _Keyed) -> dict[str, Row]:
    """Returns the first row of every prompt, in order."""
    first: dict[str, Row] = {}
    for prompt, row in keyed:
        first.setdefault(prompt, row)
    return first
