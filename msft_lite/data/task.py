"""A task as the rest of the program sees it: token ids to train on, questions to answer."""

from __future__ import annotations

from dataclasses import dataclass

from msft_lite.data.metric import Metric

RowId = tuple[str, int]  # task name and index of the row in the task's training split
Span = tuple[int, int]  # first index, and one past the last


@dataclass(frozen=True, slots=True)
class Example:
    """One row to compute a loss on.

    Attributes:
        prompt: ids before the first that carries loss.
        answer: the ids after them; they end with the end-of-text token.
        silent: stretches of ``answer`` without loss, in order: what others say in a chat.
    """

    task: str
    row: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    silent: tuple[Span, ...] = ()

    @property
    def trained_tokens(self) -> int:
        return len(self.answer) - sum(stop - start for start, stop in self.silent)


@dataclass(frozen=True, slots=True)
class Question:
    """One row to evaluate.

    Attributes:
        prompt: shots included; it is continued and the text scored against ``gold``.
        example: the row as it would be trained on, without shots, for its loss; None where its
            answer does not fit the limit of training rows.
    """

    task: str
    row: int
    prompt: tuple[int, ...]
    gold: str
    example: Example | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task ready for use.

    Attributes:
        train: rows to train on; ``train[i].row == i``.
        control: rows that steer the run.
        report: rows that are read once, at the end; the control rows where those are reported.
        max_new_tokens: most tokens the engine may generate for a question.
        metric: what a generated text is worth.
        digest: sha256 of everything above that comes from data, so that a resume on other rows is
            refused.
        domain: what a preset belongs to, for the report.
        notes: what was left out or shortened while it was built, for the user to read.
    """

    name: str
    train: tuple[Example, ...]
    control: tuple[Question, ...]
    report: tuple[Question, ...]
    max_new_tokens: int
    metric: Metric
    digest: str
    domain: str = ""
    notes: tuple[str, ...] = ()
