"""What methods ask for beside scores at the end of a roll-out: losses of single training rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from msft_lite.core import MILLION, Rollout
from msft_lite.data.sampler import permutation
from msft_lite.data.task import Example, Task, TokenCount
from msft_lite.train.trainer import Trainer

Losses = Mapping[str, Sequence[int]]  # millionths of a nat, per task


class Auditor:
    """Measures losses under the weights that the trainer holds; leaves it as it was."""

    def __init__(
        self, trainer: Trainer, tasks: Mapping[str, Task], *, seed: int, batch_rows: int
    ) -> None:
        """Takes the parts.

        Args:
            trainer: holds the weights.
            tasks: whose training rows are measured.
            seed: chooses the rows of a probe.
            batch_rows: rows of a probe: as many as an optimizer step has.
        """
        self._trainer = trainer
        self._tasks = tasks
        self._seed = seed
        self._batch_rows = batch_rows

    def row(self, n: int, request: Rollout, key: str) -> Mapping[str, Any]:
        """Returns the ledger's row for what ``request``, which is roll-out ``n``, asks for.

        Args:
            n: number of the roll-out.
            request: its ``audit`` is not ``none``.
            key: name of the data order.

        Raises:
            TrainError: a loss is not finite, or memory ran out.
        """
        started = time.monotonic()
        if request.audit == "pool":
            before, after, work, read = self._pool()
        else:
            before, after, work, read = self._probe(request, key)
        return {
            "kind": "audit",
            "n": n,
            "audit": request.audit,
            "before": before,
            "after": after,
            **work.columns("trained"),
            **read.columns("read"),
            "seconds": {"audit": time.monotonic() - started},
        }

    def _pool(self) -> tuple[Losses, Losses, TokenCount, TokenCount]:
        rows = {name: task.train for name, task in self._tasks.items()}
        every = [example for examples in rows.values() for example in examples]
        losses = iter(_millionths(self._trainer.losses(every)))
        after = {name: [next(losses) for _ in examples] for name, examples in rows.items()}
        return {}, after, TokenCount(), TokenCount.of(every)

    def _probe(self, request: Rollout, key: str) -> tuple[Losses, Losses, TokenCount, TokenCount]:
        batches = {task: self._batch(task, key) for task in request.mixture.tasks}
        found = self._trainer.probe(batches)
        before = {task: _millionths(losses) for task, (losses, _) in found.items()}
        after = {task: _millionths(losses) for task, (_, losses) in found.items()}
        work = TokenCount.of(example for batch in batches.values() for example in batch)
        return before, after, work, work + work

    def _batch(self, task: str, key: str) -> list[Example]:
        rows = self._tasks[task].train
        order = permutation(len(rows), self._seed, key, "probe", self._trainer.steps, task)
        return [rows[row] for row in order[: self._batch_rows]]


def _millionths(losses: Sequence[float]) -> list[int]:
    return [round(loss * MILLION) for loss in losses]
