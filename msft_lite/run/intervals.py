"""Trains from one mark to the next: the same bits whether for the first time or once more."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from msft_lite.core import LIVE, Clock, Rollout, RowId
from msft_lite.data.sampler import Cursor, draw
from msft_lite.data.task import Example, Task
from msft_lite.ledger import rows_digest
from msft_lite.report.live import Watcher
from msft_lite.run.mark_row import LossMeter
from msft_lite.run.position import Mark, Position
from msft_lite.train.trainer import Trainer


def order_key(request: Rollout) -> str:
    """Returns the name of a fresh roll-out's data order and dropout masks.

    It depends on the request alone, so that training from a snapshot is the same whatever ran
    before it.
    """
    mixture = request.mixture
    named = (request.start, [(task, str(share)) for task, share in mixture.share])
    special = (rows_digest(mixture.skip), mixture.iid)
    text = repr(named) if special == ("", False) else repr((*named, *special))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Intervals:
    """Draws rows and takes optimizer steps; saves and records nothing."""

    def __init__(
        self,
        trainer: Trainer,
        tasks: Mapping[str, Task],
        watch: Watcher,
        *,
        clock: Clock,
        seed: int,
        stop_requested: Callable[[], bool],
    ) -> None:
        """Takes the parts.

        Args:
            trainer: holds weights and moments.
            tasks: whose training rows are drawn.
            watch: is told of every step.
            clock: sizes of the tasks and length of an epoch.
            seed: of the data order.
            stop_requested: tells after a step whether the run was asked to end.
        """
        self._trainer = trainer
        self._tasks = tasks
        self._watch = watch
        self._clock = clock
        self._seed = seed
        self._stop_requested = stop_requested

    def renew(self, request: Rollout) -> Cursor:
        """Returns the start of a new data order, with a new optimizer in place."""
        key = order_key(request)
        self._trainer.renew(key)
        return Cursor.start(key)

    def train(self, request: Rollout, position: Position) -> Position:
        """Returns where the next mark is, its weights, not yet saved, in the trainer.

        Where the run is asked to end before that, the trainer is left after the step in progress,
        and what is returned tells so by `Position.partway`.

        Raises:
            TrainError: a loss is not finite, or memory ran out.
        """
        latest, partway = position.latest, position.partway
        taken = partway.steps if partway else 0
        batches, cursor = draw(
            position.cursor,
            request.marks[latest.k] - latest.step,
            seed=self._seed,
            mixture=request.mixture,
            clock=self._clock,
        )
        started = time.monotonic() - (partway.seconds if partway else 0.0)
        meter = LossMeter(partway)
        for batch in batches[taken:]:
            meter.add(self._trainer.step(self._examples(batch)))
            taken += 1
            self._watch.progress(
                n=position.n,
                step=latest.step + taken,
                steps=request.marks[-1],
                losses=meter.means(),
            )
            if taken < len(batches) and self._stop_requested():
                return replace(position, partway=meter.partway(taken, time.monotonic() - started))
        mark = Mark(
            k=latest.k + 1,
            step=latest.step + len(batches),
            snapshot=LIVE,
            train_loss=meter.means(),
            work=meter.work,
            train_seconds=time.monotonic() - started,
        )
        return Position(position.n, cursor, position.pending, mark)

    def _examples(self, batch: Sequence[RowId]) -> list[Example]:
        return [self._tasks[task].train[row] for task, row in batch]
