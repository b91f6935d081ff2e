"""A task as the rest of the program sees it: token ids to train on, questions to answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msft_lite.data.metric import Metric
from msft_lite.data.settings import Score

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
class TokenCount:
    """How much rows are worth to compute on, padding left out.

    Attributes:
        tokens: prompts and answers.
        answer_tokens: those that carry loss.
        squared_tokens: the sum of the squares of the rows' lengths, which attention grows with.
    """

    tokens: int = 0
    answer_tokens: int = 0
    squared_tokens: int = 0

    @staticmethod
    def of(examples: Iterable[Example]) -> TokenCount:
        """Returns the count of ``examples``."""
        rows = [(len(e.prompt) + len(e.answer), e.trained_tokens) for e in examples]
        return TokenCount(
            sum(length for length, _ in rows),
            sum(answer for _, answer in rows),
            sum(length**2 for length, _ in rows),
        )

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(
            self.tokens + other.tokens,
            self.answer_tokens + other.answer_tokens,
            self.squared_tokens + other.squared_tokens,
        )

    def columns(self, prefix: str) -> dict[str, int]:
        """Returns the keys of a ledger row: ``<prefix>_tokens`` and its two companions."""
        return {
            f"{prefix}_tokens": self.tokens,
            f"{prefix}_answer_tokens": self.answer_tokens,
            f"{prefix}_squared_tokens": self.squared_tokens,
        }


NO_TOKENS = TokenCount()


@dataclass(frozen=True, slots=True)
class Options:
    """The answers between which the likeliest is looked for; they differ in one token.

    Attributes:
        shared: ids that every answer begins with.
        letters: the id that follows in each, in the order of the choices.
    """

    shared: tuple[int, ...]
    letters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One row to evaluate.

    Attributes:
        prompt: shots included; it is continued and the text scored against ``gold``.
        options: if there are any, the likeliest of them is scored in place of a text.
        example: the row as it would be trained on, without shots, for its loss; None where its
            answer does not fit the limit of training rows.
    """

    task: str
    row: int
    prompt: tuple[int, ...]
    gold: str
    example: Example | None = None
    options: Options | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task ready for use.

    Attributes:
        train: rows to train on; ``train[i].row == i``.
        control: rows that steer the run.
        report: rows that are read once, at the end; the control rows where those are reported.
        max_new_tokens: most tokens the engine may generate for a question.
        metric: what a generated text is worth.
        score: how answers come about, `TaskSettings.score`.
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
    score: Score = "generate"
    domain: str = ""
    notes: tuple[str, ...] = ()
