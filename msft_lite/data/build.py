"""Builds a `Task` from rows of text: tokenise, fit to the limits, and say what was left out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from msft_lite.data.chat import as_chat
from msft_lite.data.grade import Grader, grader
from msft_lite.data.metric import Metric, build_metric
from msft_lite.data.options import encode_options
from msft_lite.data.prompts import Encoder, Pair, encode_rows, fit_pair, fit_prompts
from msft_lite.data.rows import Row
from msft_lite.data.settings import Limits, TaskSettings
from msft_lite.data.task import Example, Options, Question, Task
from msft_lite.data.task_rows import TaskRows
from msft_lite.errors import DataError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def build_task(rows: TaskRows, *, encoder: Encoder, limits: Limits) -> Task:
    """Returns the task ready for use; the same arguments give the same digest.

    Args:
        rows: of the task, split, with its shots and with every setting filled in.
        encoder: of the model to train.
        limits: what longer rows and prompts are cut to.

    Raises:
        DataError: a row or a setting cannot be used.
        ModelError: the tokenizer lacks something.
    """
    settings = rows.settings
    assert settings.grade is not None, "rows come with it"
    assert settings.max_new_tokens is not None, "rows come with it"
    rule = grader(settings.grade, settings.grade_pattern)
    metric = build_metric(settings.metric, rule)
    train, notes = _examples(settings, rows.splits.train, encoder=encoder, limits=limits)
    report, report_notes = _questions(rows, "report", rule=rule, encoder=encoder, limits=limits)
    control, control_notes = report, []
    if settings.steer_on == "control":
        control, control_notes = _questions(
            rows, "control", rule=rule, encoder=encoder, limits=limits
        )
    return Task(
        name=settings.name,
        train=train,
        control=control,
        report=report,
        max_new_tokens=settings.max_new_tokens,
        metric=metric,
        digest=_digest(settings, metric, train=train, control=control, report=report),
        score=settings.score,
        domain=rows.preset.domain if rows.preset else "",
        notes=(*rows.notes, *notes, *control_notes, *report_notes),
    )


def check_tasks(
    tasks: Sequence[Task], marks_per_epoch: int, *, batch_rows: int | None = None
) -> None:
    """Raises if the tasks cannot be trained on together.

    Args:
        tasks: all tasks of a run.
        marks_per_epoch: evaluations in an epoch; a task needs a row for each.
        batch_rows: rows of an optimizer step, if known.

    Raises:
        DataError: two tasks share a name, a name cannot be a file name, or a task has too few rows.
    """
    if not tasks:
        raise DataError("no tasks; add a [[tasks]] table to the recipe")
    seen: set[str] = set()
    for task in tasks:
        _check_name(task.name)
        if task.name in seen:
            raise DataError(f"two tasks are called {task.name!r}; give each a name of its own")
        seen.add(task.name)
        rows = len(task.train)
        if rows < marks_per_epoch:
            raise DataError(
                f"task {task.name!r} has {rows} training rows; it needs {marks_per_epoch} or more, "
                "one for each evaluation of an epoch"
            )
        # With one row a step, steps and rows of a mark must be equal: no rounding can be spread.
        if batch_rows == 1 and rows % marks_per_epoch:
            raise DataError(
                f"task {task.name!r} has {rows} training rows, which do not divide evenly by the "
                f"{marks_per_epoch} evaluations of an epoch; with one row an optimizer step they "
                f"must: set train_samples = {rows - rows % marks_per_epoch} or raise "
                "train.gradient_accumulation_steps to 2"
            )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DataError(
            f"task name {name!r}: use letters, digits, '_', '.' and '-', a letter or digit first"
        )


def _examples(
    settings: TaskSettings, rows: Sequence[Row], *, encoder: Encoder, limits: Limits
) -> tuple[tuple[Example, ...], list[str]]:
    """Returns the rows to train on, and notes on those that were changed or left out."""
    pairs, altered = encode_rows(_in_form(rows, settings), encoder)
    drops = settings.on_too_long == "drop"
    considered = [p for p in pairs if p.length <= limits.max_length] if drops else pairs
    fitted = _fitted(considered, encoder, limits)
    kept = [pair for pair in fitted if pair is not None]
    if not kept:
        deed, room = ("dropping rows over", "all") if drops else ("truncation to", "a token")
        raise DataError(
            f"task {settings.name!r}: no answer tokens after {deed} max_length = "
            f"{limits.max_length}: none of its {len(rows)} rows has an answer that fits beside "
            f"{room} of its prompt; raise train.max_length"
        )
    too_long, left_out = len(pairs) - len(considered), fitted.count(None)
    cut = sum(pair != before for pair, before in zip(fitted, considered, strict=True)) - left_out
    examples = tuple(_example(settings.name, row, pair) for row, pair in enumerate(kept))
    return examples, _counts(
        (left_out, f"dropped {left_out} training rows whose answer does not fit max_length"),
        (too_long, f"dropped {too_long} training rows longer than max_length"),
        (cut, f"cut the prompts of {cut} training rows to fit max_length"),
        (
            altered,
            f"{altered} earlier answers in training rows carry no loss: the chat template does "
            "not show them as they were said",
        ),
    )


def _questions(
    task: TaskRows, split: str, *, rule: Grader, encoder: Encoder, limits: Limits
) -> tuple[tuple[Question, ...], list[str]]:
    """Returns the questions of ``control`` or ``report``, and notes on what was cut."""
    settings = task.settings
    given = task.splits.control if split == "control" else task.splits.report
    golds = [rule.gold_of(row.answer) for row in given]
    rows = _in_form(given, settings)
    prompts, lost_shots, cut = fit_prompts(
        rows,
        _in_form(task.shots, settings),
        encoder,
        max_prompt_length=limits.max_prompt_length,
    )
    pairs = _fitted(encode_rows(rows, encoder)[0], encoder, limits)
    examples = [pair and _example(settings.name, row, pair) for row, pair in enumerate(pairs)]
    options: Sequence[Options | None] = [None] * len(given)
    if settings.score == "logprob":
        options = encode_options(given, encoder, as_chats=settings.apply_chat_template)
    questions = tuple(
        Question(settings.name, row, *parts)
        for row, parts in enumerate(zip(prompts, golds, examples, options, strict=True))
    )
    silent = pairs.count(None)
    return questions, _counts(
        (lost_shots, f"left shots out of {lost_shots} {split} prompts to fit max_prompt_length"),
        (cut, f"cut {cut} {split} prompts to fit max_prompt_length"),
        (silent, f"{silent} {split} rows have no loss: their answer does not fit max_length"),
    )


def _in_form(rows: Sequence[Row], settings: TaskSettings) -> tuple[Row, ...]:
    return tuple(as_chat(row) for row in rows) if settings.apply_chat_template else tuple(rows)


def _fitted(pairs: Sequence[Pair], encoder: Encoder, limits: Limits) -> list[Pair | None]:
    start = encoder.start
    return [fit_pair(pair, max_length=limits.max_length, start=start) for pair in pairs]


def _example(task: str, row: int, pair: Pair) -> Example:
    return Example(task, row, pair.prompt, pair.answer, pair.silent)


def _counts(*counted: tuple[int, str]) -> list[str]:
    return [note for count, note in counted if count]


def _digest(
    settings: TaskSettings,
    metric: Metric,
    *,
    train: Sequence[Example],
    control: Sequence[Question],
    report: Sequence[Question],
) -> str:
    """Returns the SHA-256 over everything that training and scoring take from the data."""
    scoring = (
        settings.name,
        settings.grade,
        settings.grade_pattern,
        settings.max_new_tokens,
        metric.name,
        metric.digest,
    )
    digest = hashlib.sha256(repr(scoring).encode())
    for example in train:
        digest.update(repr(_content(example)).encode())
    for split in (control, report):
        digest.update(repr(len(split)).encode())
        for question in split:
            example = question.example and _content(question.example)
            options = () if question.options is None else (question.options,)
            digest.update(repr((question.prompt, question.gold, example, *options)).encode())
    return digest.hexdigest()


def _content(example: Example) -> tuple[object, ...]:
    return example.prompt, example.answer, example.silent
