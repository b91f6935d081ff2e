"""A task as text: rows read, split and divided, with its shots and every default filled in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from msft_lite.data.grade import grader
from msft_lite.data.metric import LOSS
from msft_lite.data.row_sources import given_rows
from msft_lite.data.rows import Row
from msft_lite.data.sampler import permutation
from msft_lite.data.settings import TaskSettings
from msft_lite.data.splits import (
    Given,
    Rows,
    Samples,
    Splits,
    TooFewRows,
    normalised,
    split_rows,
)
from msft_lite.data.tasks import preset
from msft_lite.data.tasks.items import shot_rows
from msft_lite.data.tasks.preset import Preset
from msft_lite.errors import DataError

PRESET_SHOTS = 5  # as in the paper
MAX_NEW_TOKENS = 512  # as in the paper
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class TaskRows:
    """A task as text.

    Attributes:
        settings: with every default filled in; of a task that was split off, with its own name.
        splits: rows to train on, to steer by and to report.
        shots: solved rows to show before each question; none of them repeats a held-out row.
        preset: the benchmark that it is, if it is one.
        notes: what was left out, for the user to read.
    """

    settings: TaskSettings
    splits: Splits
    shots: Rows
    preset: Preset | None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.settings.name


def task_rows(
    settings: TaskSettings, *, seed: int, least_train_rows: int = 1
) -> tuple[TaskRows, ...]:
    """Returns the task, or with ``split_by`` one task of every value of that column.

    The latter are called ``<task>-<value>`` and stand in the order of their values. All splits are
    divided by the column, and each task is then split on its own: what the source does not have is
    carved from the task's own training rows. A value that is left without enough rows is no task;
    a note tells which those are.

    Args:
        settings: where the rows come from and how they are scored.
        seed: chooses the rows of the splits and the shots.
        least_train_rows: training rows that a task split off must have.

    Raises:
        DataError: a source, a row or a setting cannot be used.
    """
    known = preset(settings.preset) if settings.preset else None
    settings = resolved(settings, known)
    given = given_rows(settings, known)
    if settings.split_by is None:
        return (_task(settings, known, given, seed=seed),)
    return _split_off(settings, known, given, seed=seed, least_train_rows=least_train_rows)


def resolved(settings: TaskSettings, known: Preset | None) -> TaskSettings:
    """Returns ``settings`` with the defaults of the preset, or of own rows, filled in."""
    shots = settings.num_fewshot
    return replace(
        settings,
        grade=settings.grade or (known.grade if known else "marked"),
        max_new_tokens=1
        if settings.score == "logprob"
        else settings.max_new_tokens or (known.max_new_tokens if known else MAX_NEW_TOKENS),
        num_fewshot=(PRESET_SHOTS if known else 0) if shots is None else shots,
    )


def overlaps(tasks: Sequence[TaskRows]) -> tuple[str, ...]:
    """Returns a note on every task whose training rows repeat held-out rows of another.

    Such rows are not left out: a task would then depend on which others are trained with it.
    """
    notes: list[str] = []
    trained = {task.name: _first_places(task.splits.train) for task in tasks}
    for task in tasks:
        for split, rows in (("control", task.splits.control), ("report", task.splits.report)):
            if split == "control" and rows == task.splits.report:
                continue
            held_out = _first_places(rows)
            for other, places in trained.items():
                shared = [prompt for prompt in places if prompt in held_out]
                if other != task.name and shared:
                    notes.append(
                        f"{other}: {len(shared)} training rows repeat {split} rows of "
                        f"{task.name}, the first at {places[shared[0]]} and {held_out[shared[0]]}"
                    )
    return tuple(notes)


def _first_places(rows: Rows) -> dict[str, str]:
    """Returns where each normalised prompt stands first."""
    places: dict[str, str] = {}
    for row in rows:
        places.setdefault(normalised(row.prompt), row.where)
    return places


def _split_off(
    settings: TaskSettings,
    known: Preset | None,
    given: Given,
    *,
    seed: int,
    least_train_rows: int,
) -> tuple[TaskRows, ...]:
    groups = sorted({row.group for row in given.train})
    tasks: list[TaskRows] = []
    left_out: list[str] = []
    for group, name in zip(groups, _names(settings, groups), strict=True):
        part = _of_group(given, group)
        try:
            task = _task(replace(settings, name=name), known, part, seed=seed)
        except TooFewRows:
            left_out.append(f"{group} ({len(part.train)})")
            continue
        if len(task.splits.train) < least_train_rows:
            left_out.append(f"{group} ({len(part.train)})")
        else:
            tasks.append(task)
    if not tasks:
        raise DataError(
            f"task {settings.name!r}: none of the {len(groups)} values of {settings.split_by!r} "
            f"has {least_train_rows} training rows and held-out rows; take split_by out"
        )
    if left_out:
        note = f"left out, too few rows to train on or to score: {', '.join(left_out)}"
        tasks[0] = replace(tasks[0], notes=(note, *tasks[0].notes))
    return tuple(tasks)


def _of_group(given: Given, group: str) -> Given:
    def only(rows: Rows | None) -> Rows | None:
        return None if rows is None else tuple(row for row in rows if row.group == group)

    return Given(only(given.train) or (), only(given.control), only(given.report))


def _names(settings: TaskSettings, groups: Sequence[str]) -> list[str]:
    names: list[str] = []
    for group in groups:
        name = f"{settings.name}-{_NOT_IN_NAMES.sub('-', group.lower()).strip('-')}"
        if name in names or name.endswith("-"):
            other = groups[names.index(name)] if name in names else "nothing"
            raise DataError(
                f"task {settings.name!r}: the values {group!r} and {other!r} of "
                f"{settings.split_by!r} would both be called {name!r}; rename one"
            )
        names.append(name)
    return names


def _task(settings: TaskSettings, known: Preset | None, given: Given, *, seed: int) -> TaskRows:
    splits = split_rows(
        settings.name,
        given,
        samples=Samples(settings.train_samples, settings.control_samples, settings.report_samples),
        seed=seed,
        steer_on=settings.steer_on,
        on_overlap=settings.on_overlap,
    )
    if settings.metric != LOSS:
        _check_golds(settings, (*splits.control, *splits.report))
    if settings.score == "logprob":
        _check_options(settings, (*splits.control, *splits.report))
    shots = _shots(settings, known, splits, seed=seed)
    return TaskRows(settings, splits, shots, known, splits.notes)


def _check_golds(settings: TaskSettings, rows: Sequence[Row]) -> None:
    """Raises if a row's own answer would not be graded right."""
    rule = grader(settings.grade or "marked", settings.grade_pattern)
    for row in rows:
        gold = rule.gold_of(row.answer)
        if not gold or not rule.grade(row.answer, gold):
            raise DataError(
                f"{row.where}: the answer {row.answer[:60]!r} cannot be scored: grade "
                f"{settings.grade!r} finds nothing in it to look for"
            )


def _check_options(settings: TaskSettings, rows: Sequence[Row]) -> None:
    """Raises if a row has no options whose letters could be compared."""
    for row in rows:
        if not row.options:
            raise DataError(
                f'task {settings.name!r}: score = "logprob" compares the letters of choices, and '
                f"{row.where} has no answer that is a letter of its choices and nothing else: "
                f'{row.answer[:60]!r}; take score = "generate" for this task'
            )


def _shots(
    settings: TaskSettings, known: Preset | None, splits: Splits, *, seed: int
) -> tuple[Row, ...]:
    """Returns the preset's shots, or training rows, which no held-out row repeats."""
    wanted = settings.num_fewshot or 0
    fixed = known is not None and settings.fewshot_source == "fixed"
    rows = shot_rows(known) if known is not None and fixed else splits.train
    if wanted > len(rows):
        cure = 'set fewshot_source = "train" for more' if fixed else "lower it"
        what = "fixed shots" if fixed else "training rows"
        raise DataError(
            f"task {settings.name!r}: num_fewshot = {wanted}, but it has {len(rows)} {what}; {cure}"
        )
    if fixed:
        return rows[:wanted]
    order = permutation(len(rows), seed, "shots", settings.name)
    return tuple(rows[i] for i in order[:wanted])
