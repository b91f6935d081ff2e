"""The three splits of a task: to train on, to steer by, to report once."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from msft_lite.data.sampler import permutation
from msft_lite.data.sources import Row
from msft_lite.errors import DataError

Rows = tuple[Row, ...]
CARVED_CONTROL_ROWS = 200  # as many as the paper's held-out rows
SPLIT_SEED = 20  # not a run's own: runs of several seeds must be scored on the same rows
CARVED_REPORT_ROWS = 500  # narrows the 95 % interval at one half to 4.4 points


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
    """Three splits without a prompt in common, in file order, and what was left out."""

    train: Rows
    control: Rows
    report: Rows
    notes: tuple[str, ...] = ()


def normalised(prompt: str) -> str:
    """Returns ``prompt`` without differences of case, blanks and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def split_rows(task: str, given: Given, *, samples: Samples, seed: int) -> Splits:
    """Returns the splits of a task, the same for the same arguments.

    The report split is settled first, then the control split without the prompts of the report
    split, then the training split without the prompts of both. Prompts are compared by
    `normalised`.

    Raises:
        DataError: a split would be left without rows.
    """
    report, report_note = _held_out(
        task, "report", given=given, samples=samples, seed=seed, taken=()
    )
    reported = {normalised(row.prompt) for row in report}
    control, control_note = _held_out(
        task, "control", given=given, samples=samples, seed=seed, taken=reported
    )
    held_out = reported | {normalised(row.prompt) for row in control}
    carved = {row.where for row in report if given.report is None}
    carved |= {row.where for row in control if given.control is None}
    outside = [row for row in given.train if row.where not in carved]
    train = [row for row in outside if normalised(row.prompt) not in held_out]
    if not train:
        raise DataError(
            f"task {task!r}: no training rows are left of {len(given.train)}: {len(report)} report "
            f"and {len(control)} control rows take or repeat all of them; give more rows or lower "
            "data.control_samples and data.report_samples"
        )
    repeated = len(outside) - len(train)
    notes = [f"dropped {repeated} training rows that repeat held-out prompts"] if repeated else []
    notes += [note for note in (report_note, control_note) if note]
    notes += _shortage("train", samples.train, found=len(train))
    kept = _sample(train, samples.train, seed=seed, label=(task, "train"))
    return Splits(kept, control, report, tuple(notes))


def _held_out(
    task: str, name: str, *, given: Given, samples: Samples, seed: int, taken: Collection[str]
) -> tuple[Rows, str]:
    """Returns a held-out split without the prompts in ``taken``, and a note or nothing."""
    rows, size = (
        (given.report, samples.report) if name == "report" else (given.control, samples.control)
    )
    if size is not None and size < 1:
        raise DataError(f"task {task!r}: data.{name}_samples = {size}; it must be 1 or more")
    if rows is None:
        size = size or (CARVED_REPORT_ROWS if name == "report" else CARVED_CONTROL_ROWS)
        carved = _carve(task, name, train=given.train, size=size, seed=seed, taken=taken)
        return carved, f"carved {size} {name} rows from the training rows"
    free = [row for row in rows if normalised(row.prompt) not in taken]
    if not free:
        raise DataError(
            f"task {task!r}: every row of the {name} split is in the report split too, so the "
            "steering would be done on the reported rows; give other rows"
        )
    notes = _shortage(name, size, found=len(free))
    if len(free) < len(rows):
        notes.append(f"dropped {len(rows) - len(free)} {name} rows that repeat report prompts")
    return _sample(free, size, seed=seed, label=(task, name)), "; ".join(notes)


def _carve(
    task: str, name: str, *, train: Rows, size: int, seed: int, taken: Collection[str]
) -> Rows:
    """Returns ``size`` training rows with distinct prompts that are not in ``taken``."""
    first_of: dict[str, Row] = {}
    for row in train:
        first_of.setdefault(normalised(row.prompt), row)
    distinct = [row for prompt, row in first_of.items() if prompt not in taken]
    if size >= len(distinct):
        raise DataError(
            f"task {task!r}: cannot carve {size} {name} rows and leave rows to train on: it has "
            f"{len(distinct)} distinct rows to take from; set a lower data.{name}_samples or give "
            f"{name}_path"
        )
    return _sample(distinct, size, seed=seed, label=(task, name))


def _sample(rows: Sequence[Row], size: int | None, *, seed: int, label: tuple[str, str]) -> Rows:
    if size is None or size >= len(rows):
        return tuple(rows)
    chosen = permutation(len(rows), seed, "split", *label)[:size]
    return tuple(rows[i] for i in sorted(chosen))


def _shortage(name: str, wanted: int | None, *, found: int) -> list[str]:
    if wanted is None or wanted <= found:
        return []
    return [f"asked for {wanted} {name} rows, found {found}"]
