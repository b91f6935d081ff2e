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
class Position:
    """Where a roll-out stands; with the trainer's state it is all that a resume needs.

    Attributes:
        n: number of the roll-out.
        cursor: where the data order stands.
        pending: marks that are saved but not yet in the ledger, oldest first.
        latest: the last mark that was trained up to.
    """

    n: int
    cursor: Cursor
    pending: tuple[Mark, ...]
    latest: Mark

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object that `from_json` reads."""
        return {
            "n": self.n,
            "cursor": self.cursor.to_json(),
            "pending": [asdict(mark) for mark in self.pending],
            "latest": asdict(self.latest),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Position:
        """Returns the position that `to_json` wrote."""
        return Position(
            n=value["n"],
            cursor=Cursor.from_json(value["cursor"]),
            pending=tuple(Mark.from_json(mark) for mark in value["pending"]),
            latest=Mark.from_json(value["latest"]),
        )
