"""Builds a `Task` from files or the hub: read, split, tokenise, and say what was left out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msft_lite.data.grade import grader
from msft_lite.data.prompts import (
    PromptParts,
    encode_rows,
    fit_prompts,
    fit_training,
    start_token,
)
from msft_lite.data.sampler import permutation
from msft_lite.data.sources import Row, read_hub, read_jsonl
from msft_lite.data.splits import Given, Samples, Splits, split_rows
from msft_lite.data.task import Example, Question, Task
from msft_lite.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Where the rows of a task come from and how they are answered and scored.

    The training rows come from ``path`` or from ``dataset`` and ``split``. A held-out split comes
    from its path, else from its split of ``dataset``, else it is carved from the training rows.

    Attributes:
        dataset: ``owner/name`` on the hub, ``owner/name:configuration``, or a local folder.
        train_samples: most training rows; None takes all. Likewise for the held-out splits, but
            where they are carved None takes 200 control and 500 report rows.
        grade: ``exact`` or ``marked``.
        max_new_tokens: most tokens to generate for a question.
        num_fewshot: training rows shown before each question.
    """

    name: str
    path: Path | None = None
    dataset: str | None = None
    split: str = "train"
    control_path: Path | None = None
    control_split: str | None = None
    report_path: Path | None = None
    report_split: str | None = None
    train_samples: int | None = None
    control_samples: int | None = None
    report_samples: int | None = None
    grade: str = "marked"
    max_new_tokens: int = 64
    num_fewshot: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of a training row (prompt and answer) and of a prompt to evaluate."""

    max_length: int
    max_prompt_length: int


def build_task(
    settings: TaskSettings, *, tokenizer: PreTrainedTokenizerBase, limits: Limits, seed: int
) -> Task:
    """Returns the task ready for use; the same arguments and files give the same digest.

    Args:
        settings: source and protocol of the task.
        tokenizer: of the model to train.
        limits: what longer rows and prompts are cut to.
        seed: chooses the rows of the splits and the shots.

    Raises:
        DataError: a source, a row or a setting cannot be used.
        ModelError: the tokenizer has no end-of-text token.
    """
    splits = _splits(settings, seed)
    train, train_notes = _examples(settings, splits.train, tokenizer=tokenizer, limits=limits)
    shots = _shots(settings, splits.train, seed=seed)
    control, control_notes = _questions(
        settings, "control", rows=splits.control, shots=shots, tokenizer=tokenizer, limits=limits
    )
    report, report_notes = _questions(
        settings, "report", rows=splits.report, shots=shots, tokenizer=tokenizer, limits=limits
    )
    return Task(
        name=settings.name,
        train=train,
        control=control,
        report=report,
        max_new_tokens=settings.max_new_tokens,
        grade=grader(settings.grade).grade,
        digest=_digest(settings, train, control=control, report=report),
        notes=(*splits.notes, *train_notes, *control_notes, *report_notes),
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


def _splits(settings: TaskSettings, seed: int) -> Splits:
    _check(settings)
    given = Given(
        train=_read(settings.dataset, settings.path, split=settings.split) or (),
        control=_read(settings.dataset, settings.control_path, split=settings.control_split),
        report=_read(settings.dataset, settings.report_path, split=settings.report_split),
    )
    samples = Samples(settings.train_samples, settings.control_samples, settings.report_samples)
    splits = split_rows(settings.name, given, samples=samples, seed=seed)
    rows = (*splits.train, *splits.control, *splits.report)
    plain = next((row for row in rows if not row.messages), None)
    chat = next((row for row in rows if row.messages), None)
    if plain and chat:
        raise DataError(
            f"task {settings.name!r} mixes two forms of rows: {plain.where} has prompt and answer, "
            f"{chat.where} has messages; keep one"
        )
    return splits


def _check(settings: TaskSettings) -> None:
    name = settings.name
    _check_name(name)
    if (settings.path is None) == (settings.dataset is None):
        found = "neither" if settings.path is None else "both"
        raise DataError(f"task {name!r}: give path or dataset; found {found}")
    for key, value in (
        ("control_split", settings.control_split),
        ("report_split", settings.report_split),
    ):
        if value is not None and settings.dataset is None:
            raise DataError(f"task {name!r}: {key} = {value!r} needs dataset; with path use a file")
    for key, number, least in (
        ("train_samples", settings.train_samples, 1),
        ("max_new_tokens", settings.max_new_tokens, 1),
        ("num_fewshot", settings.num_fewshot, 0),
    ):
        if number is not None and number < least:
            raise DataError(f"task {name!r}: {key} = {number}; it must be {least} or more")
    grader(settings.grade)


def _read(dataset: str | None, path: Path | None, *, split: str | None) -> tuple[Row, ...] | None:
    if path is not None:
        return read_jsonl(path)
    if split is not None and dataset is not None:
        return read_hub(dataset, split)
    return None


def _examples(
    settings: TaskSettings,
    rows: Sequence[Row],
    *,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
) -> tuple[tuple[Example, ...], list[str]]:
    pairs, shortened, left_out = fit_training(
        encode_rows(rows, tokenizer),
        max_length=limits.max_length,
        start=start_token(tokenizer),
    )
    if not pairs:
        raise DataError(
            f"task {settings.name!r}: no answer tokens after truncation to max_length = "
            f"{limits.max_length}: none of its {len(rows)} rows has an answer that fits beside a "
            "token of its prompt; raise train.max_length"
        )
    examples = tuple(
        Example(settings.name, row, pair.prompt, pair.answer) for row, pair in enumerate(pairs)
    )
    return examples, _counts(
        (left_out, f"dropped {left_out} training rows whose answer does not fit max_length"),
        (shortened, f"cut the prompts of {shortened} training rows to fit max_length"),
    )


def _shots(settings: TaskSettings, train: Sequence[Row], *, seed: int) -> tuple[Row, ...]:
    if settings.num_fewshot > len(train):
        raise DataError(
            f"task {settings.name!r}: num_fewshot = {settings.num_fewshot}, but it has "
            f"{len(train)} training rows; lower it"
        )
    order = permutation(len(train), seed, "shots", settings.name)
    return tuple(train[row] for row in order[: settings.num_fewshot])


def _questions(
    settings: TaskSettings,
    split: str,
    *,
    rows: Sequence[Row],
    shots: tuple[Row, ...],
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits,
) -> tuple[tuple[Question, ...], list[str]]:
    golds = [_gold(settings, row) for row in rows]
    prompts, lost_shots, cut = fit_prompts(
        [PromptParts(row, shots) for row in rows],
        tokenizer,
        max_prompt_length=limits.max_prompt_length,
    )
    questions = tuple(
        Question(settings.name, row, prompt, gold)
        for row, (prompt, gold) in enumerate(zip(prompts, golds, strict=True))
    )
    return questions, _counts(
        (lost_shots, f"left shots out of {lost_shots} {split} prompts to fit max_prompt_length"),
        (cut, f"cut {cut} {split} prompts to fit max_prompt_length"),
    )


def _gold(settings: TaskSettings, row: Row) -> str:
    gold = grader(settings.grade).gold_of(row.answer)
    if not gold:
        raise DataError(
            f"{row.where}: the answer {row.answer[:60]!r} cannot be scored: grade "
            f"{settings.grade!r} finds nothing in it to look for"
        )
    return gold


def _counts(*counted: tuple[int, str]) -> list[str]:
    return [note for count, note in counted if count]


def _digest(
    settings: TaskSettings,
    train: Sequence[Example],
    *,
    control: Sequence[Question],
    report: Sequence[Question],
) -> str:
    """Returns the SHA-256 over everything that training and scoring take from the data."""
    digest = hashlib.sha256(repr((settings.name, settings.grade, settings.max_new_tokens)).encode())
    for example in train:
        digest.update(repr((example.prompt, example.answer)).encode())
    for split in (control, report):
        digest.update(repr(len(split)).encode())
        for question in split:
            digest.update(repr((question.prompt, question.gold)).encode())
    return digest.hexdigest()
