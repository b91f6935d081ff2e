"""A task as the rest of the program sees it: token ids to train on, questions to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RowId = tuple[str, int]  # task name and index of the row in the task's training split


@dataclass(frozen=True, slots=True)
class Example:
    """One training row: the loss is on ``answer`` alone, which ends with the end-of-text token."""

    task: str
    row: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One row to evaluate: ``prompt``, shots included, is continued and graded by ``gold``."""

    task: str
    row: int
    prompt: tuple[int, ...]
    gold: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task ready for use.

    Attributes:
        train: rows to train on; ``train[i].row == i``.
        control: rows that steer the run.
        report: rows that are read once, at the end.
        max_new_tokens: most tokens the engine may generate for a question.
        grade: tells whether a generated text answers ``gold``.
        digest: sha256 of everything above that comes from data, so that a resume on other rows is
            refused.
        notes: what was left out or shortened while it was built, for the user to read.
    """

    name: str
    train: tuple[Example, ...]
    control: tuple[Question, ...]
    report: tuple[Question, ...]
    max_new_tokens: int
    grade: Callable[[str, str], bool]
    digest: str
    notes: tuple[str, ...] = ()
