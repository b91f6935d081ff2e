"""What a roll-out is executed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msft_lite.core import Clock
from msft_lite.data.task import Task
from msft_lite.ledger import Ledger
from msft_lite.report.live import Watcher
from msft_lite.run.evaluator import Evaluator
from msft_lite.run.lending import Lender
from msft_lite.run.room import Room
from msft_lite.run.stop import StopFlag
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Parts:
    """What a `Roller` works with."""

    trainer: Trainer
    store: SnapshotStore
    evaluator: Evaluator
    ledger: Ledger
    tasks: Mapping[str, Task]
    watch: Watcher
    stop: StopFlag
    lender: Lender
    room: Room | None = None


@dataclass(frozen=True, slots=True)
class RollerSettings:
    """Settings of a `Roller`.

    Attributes:
        clock: sizes of the tasks and length of an epoch.
        seed: of the data order.
        crash_path: where the one crash copy lives.
        evaluate_at: ``mark`` evaluates every mark as soon as the engine is up, ``end`` all marks
            when the roll-out has been trained. The scores are the same.
        in_memory: no crash copy is kept, as snapshots are not on the disk either.
        dropped_every: at how many marks tasks outside the mixture are scored, see `scored_tasks`.
    """

    clock: Clock
    seed: int
    crash_path: Path
    evaluate_at: Literal["mark", "end"] = "mark"
    dropped_every: int = 1
    in_memory: bool = False
