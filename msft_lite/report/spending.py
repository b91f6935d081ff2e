"""What training, probing and evaluating cost, as counts that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from msft_lite.report.fields import Fields


@dataclass(frozen=True, slots=True)
class Work:
    """Rows that a model computed on.

    Attributes:
        tokens: prompts and answers, without padding.
        answer_tokens: those that carry loss.
        squared_tokens: the sum of the squares of the rows' lengths.
    """

    tokens: int = 0
    answer_tokens: int = 0
    squared_tokens: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.answer_tokens + other.answer_tokens,
            self.squared_tokens + other.squared_tokens,
        )


@dataclass(frozen=True, slots=True)
class Spending:
    """What a stretch of a run cost.

    Attributes:
        trained: rows of optimizer steps.
        read: rows whose loss was computed to score the control rows.
        probed: rows of steps that were undone, which methods probe tasks with.
        audited: rows whose loss was computed because a method asked for it.
        prompt_tokens: of the questions asked.
        cached_tokens: those of them that the engine's prefix cache served.
        generated_tokens: of the answers.
        written_bytes: of snapshots and crash copies.
        seconds: by kind.
    """

    trained: Work = field(default_factory=Work)
    read: Work = field(default_factory=Work)
    probed: Work = field(default_factory=Work)
    audited: Work = field(default_factory=Work)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    written_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    def __add__(self, other: Spending) -> Spending:
        kinds = dict.fromkeys([*self.seconds, *other.seconds])
        return Spending(
            trained=self.trained + other.trained,
            read=self.read + other.read,
            probed=self.probed + other.probed,
            audited=self.audited + other.audited,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            generated_tokens=self.generated_tokens + other.generated_tokens,
            written_bytes=self.written_bytes + other.written_bytes,
            seconds={k: self.seconds.get(k, 0.0) + other.seconds.get(k, 0.0) for k in kinds},
        )


NOTHING = Spending()


def work_of(row: Fields, kind: Literal["trained", "read"]) -> Work:
    """Returns the work of a mark or audit row: what was trained on, or what was only read.

    Raises:
        LedgerError: a count is no whole number.
    """
    kinds = ("tokens", "answer_tokens", "squared_tokens")
    return Work(*(count(row, f"{kind}_{what}") for what in kinds))


def count(row: Fields, key: str) -> int:
    """Returns a whole number; 0 where the row has no such key, as old rows have none."""
    return row.whole(key) if key in row.values else 0
