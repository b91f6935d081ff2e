"""Where a roll-out stands: what the crash copy records beside the trainer's moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from msft_lite.data.sampler import Cursor
from msft_lite.data.task import NO_TOKENS, TokenCount

Place: TypeAlias = tuple[int, int]  # number of a roll-out, and of a mark on it


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark that is trained and saved; it waits for its evaluation.

    Attributes:
        k: number of the mark; 0 is the start of the roll-out.
        step: optimizer steps since the start.
        snapshot: id of the saved weights, or `LIVE` where none are saved.
        train_loss: mean loss of an answer token since the mark before, per active task.
        work: tokens trained since the mark before.
        train_seconds: time spent in optimizer steps since the mark before.
        snapshot_seconds: time spent in capturing and saving.
        snapshot_bytes: written of snapshots since the mark before was saved.
    """

    k: int
    step: int
    snapshot: str
    train_loss: Mapping[str, float]
    work: TokenCount = NO_TOKENS
    train_seconds: float = 0.0
    snapshot_seconds: float = 0.0
    snapshot_bytes: int = 0

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Mark:
        """Returns the mark whose ``asdict`` is ``value``."""
        return Mark(**{**value, "work": TokenCount(**value["work"])})


@dataclass(frozen=True, slots=True)
class Partway:
    """Steps after a mark that were taken before a run was asked to end.

    Attributes:
        steps: optimizer steps since the mark.
        snapshot: id of the weights after them; empty until they are saved.
        work: tokens trained.
        loss_sums: summed loss of answer tokens per task.
        loss_tokens: how many these are.
        seconds: time spent.
    """

    steps: int
    work: TokenCount
    loss_sums: Mapping[str, float]
    loss_tokens: Mapping[str, int]
    seconds: float
    snapshot: str = ""

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Partway:
        """Returns what ``asdict`` made ``value`` of."""
        return Partway(**{**value, "work": TokenCount(**value["work"])})


NO_STEPS = Partway(0, NO_TOKENS, {}, {}, 0.0)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a roll-out stands; with the trainer's state it is all that a resume needs.

    Attributes:
        n: number of the roll-out.
        cursor: where the data order stands at the latest mark.
        pending: marks that are saved but not yet in the ledger, oldest first.
        latest: the last mark that was trained up to.
        partway: the steps since then, where the run was asked to end between two marks; none of
            them where it was at a mark that is not saved.
    """

    n: int
    cursor: Cursor
    pending: tuple[Mark, ...]
    latest: Mark
    partway: Partway | None = None

    @property
    def snapshot(self) -> str:
        """Id of the weights that the trainer's state belongs to."""
        return self.latest.snapshot if self.partway is None else self.partway.snapshot

    @property
    def first_unrecorded(self) -> int:
        """Number of the first mark that was not in the ledger; all before it were."""
        return self.pending[0].k if self.pending else self.latest.k + 1

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object that `from_json` reads."""
        return {
            "n": self.n,
            "cursor": self.cursor.to_json(),
            "pending": [asdict(mark) for mark in self.pending],
            "latest": asdict(self.latest),
            "partway": self.partway and asdict(self.partway),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Position:
        """Returns the position that `to_json` wrote."""
        return Position(
            n=value["n"],
            cursor=Cursor.from_json(value["cursor"]),
            pending=tuple(Mark.from_json(mark) for mark in value["pending"]),
            latest=Mark.from_json(value["latest"]),
            partway=Partway.from_json(partway) if (partway := value.get("partway")) else None,
        )
