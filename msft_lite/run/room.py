"""The room that a run's snapshots and crash copy may take on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msft_lite.errors import StorageError, resume_command
from msft_lite.run.disk import KEY, least_bytes, too_small
from msft_lite.run.workshop import Workshop
from msft_lite.snapshot.codec import size_bytes
from msft_lite.snapshot.crash import crash_copy_bytes
from msft_lite.snapshot.store import SnapshotStore

CRASH_STATE_BYTES = 1 << 16  # beside the moments: where the run stands


@dataclass(frozen=True, slots=True)
class Room:
    """A number of bytes that is never passed, not even while a file is being replaced.

    Attributes:
        store: whose snapshots count.
        crash_path: of the crash copy, which counts too; while it is replaced there are two.
        max_bytes: what all of them may take.
        snapshot_bytes: of a snapshot that is stored whole.
        crash_bytes: of the first crash copy.
    """

    store: SnapshotStore
    crash_path: Path
    max_bytes: int
    snapshot_bytes: int
    crash_bytes: int

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.crash_path.parent

    def is_short(self) -> bool:
        """Returns whether one more snapshot and the next crash copy might not fit."""
        crash = self.crash_path.stat().st_size if self.crash_path.exists() else self.crash_bytes
        needed = self.store.alive_bytes() + self.snapshot_bytes + 2 * crash
        return needed > self.max_bytes


def room_of(shop: Workshop) -> Room | None:
    """Returns the room that the recipe leaves; None where it sets no bound.

    Raises:
        StorageError: no mark can be saved within it.
    """
    most = shop.recipe.snapshots.max_bytes
    if most is None:
        return None
    snapshot = size_bytes(shop.trainer.capture())
    moments, _ = shop.trainer.state()
    crash = crash_copy_bytes(moments) + CRASH_STATE_BYTES
    if problem := too_small(most, snapshot, crash):
        way_on = resume_command(shop.folder.path, f"{KEY}={least_bytes(snapshot, crash)}")
        raise StorageError(f"{problem}; go on with: {way_on}")
    return Room(shop.store, shop.folder.crash_copy, most, snapshot, crash)
