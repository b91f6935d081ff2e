"""What a run may take of the disk, told before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from msft_lite.report.wording import bytes_text, counted

KEY = "snapshots.max_bytes"


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """Snapshots and crash copies, at most, were every snapshot stored whole.

    Attributes:
        snapshot_bytes: of one snapshot.
        crash_bytes: of the crash copy; while it is replaced there are two.
        alive: most snapshots at a time.
        max_bytes: what the recipe allows; None where it sets no bound.
    """

    snapshot_bytes: int
    crash_bytes: int
    alive: int
    max_bytes: int | None

    @property
    def wanted_bytes(self) -> int:
        """What keeps every point until it is decided."""
        return self.snapshot_bytes * self.alive + 2 * self.crash_bytes

    @property
    def most_bytes(self) -> int:
        """What the run takes at most."""
        return min(self.wanted_bytes, self.max_bytes or self.wanted_bytes)

    @property
    def problem(self) -> str:
        """What is wrong with the recipe's bound, or nothing."""
        return too_small(self.max_bytes, self.snapshot_bytes, self.crash_bytes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the recipe's bound comes to, if it is one."""
        if self.problem or self.max_bytes is None or self.wanted_bytes <= self.max_bytes:
            return ()
        held = (self.max_bytes - 2 * self.crash_bytes) // self.snapshot_bytes
        return (
            f"{KEY} = {self.max_bytes:,} holds {counted(held, 'snapshot')} stored whole where up "
            f"to {self.alive} may be asked for: what is not kept is trained again when it is",
        )

    def shortage(self, folder: Path) -> str:
        """Returns a warning if the disk of ``folder`` has less free than may be needed."""
        place = next((path for path in (folder, *folder.parents) if path.exists()), None)
        if place is None or (free := shutil.disk_usage(place).free) >= self.most_bytes:
            return ""
        return (
            f"disk: {bytes_text(free)} free in {place}, and snapshots and crash copies may take "
            f"{bytes_text(self.most_bytes)}; free some room, or set {KEY}"
        )


def least_bytes(snapshot_bytes: int, crash_bytes: int) -> int:
    """Returns the least bound: a mark is written beside the mark before, crash copies too."""
    return 2 * (snapshot_bytes + crash_bytes)


def too_small(max_bytes: int | None, snapshot_bytes: int, crash_bytes: int) -> str:
    """Returns what is wrong with a bound within which no mark can be saved, or nothing."""
    least = least_bytes(snapshot_bytes, crash_bytes)
    if max_bytes is None or least <= max_bytes:
        return ""
    return (
        f"{KEY} = {max_bytes:,}: a mark needs {bytes_text(least)}, as its snapshot "
        f"({bytes_text(snapshot_bytes)}) and its crash copy ({bytes_text(crash_bytes)}) are "
        f"written beside those of the mark before; set {KEY}={least} or more"
    )
