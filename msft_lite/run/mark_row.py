"""What the ledger records of a mark: scores, losses, and what everything cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msft_lite.data.task import TokenCount
from msft_lite.ledger import score_columns
from msft_lite.run.evaluator import Evaluation
from msft_lite.run.position import Mark, Partway
from msft_lite.train.trainer import StepResult


class LossMeter:
    """Adds up the losses of the steps of one mark interval."""

    def __init__(self, partway: Partway | None) -> None:
        """Starts at zero, or goes on after the first steps of an interval."""
        self.work = partway.work if partway else TokenCount()
        self._sums = dict(partway.loss_sums) if partway else {}
        self._counts = dict(partway.loss_tokens) if partway else {}

    def add(self, result: StepResult) -> None:
        """Adds one optimizer step."""
        self.work += result.work
        for task, loss in result.losses.items():
            self._sums[task] = self._sums.get(task, 0.0) + loss.loss_sum
            self._counts[task] = self._counts.get(task, 0) + loss.tokens

    def means(self) -> dict[str, float]:
        """Returns the mean loss of an answer token per task, tasks in alphabetical order."""
        return {task: self._sums[task] / self._counts[task] for task in sorted(self._sums)}

    def partway(self, steps: int, seconds: float) -> Partway:
        """Returns what was added up over ``steps`` steps, not yet saved."""
        return Partway(steps, self.work, dict(self._sums), dict(self._counts), seconds)


def mark_row(
    n: int, mark: Mark, evaluation: Evaluation, *, waited_seconds: float
) -> Mapping[str, Any]:
    """Returns the row of a mark of roll-out ``n``, without what depends on the machine's memory.

    Args:
        n: number of the roll-out.
        mark: as it was trained.
        evaluation: what came of it; without scores where the mark is not saved.
        waited_seconds: time spent waiting for an engine that was still starting.
    """
    return {
        "kind": "mark",
        "n": n,
        "k": mark.k,
        "step": mark.step,
        "snapshot": mark.snapshot,
        **score_columns(evaluation.scores),
        "train_loss": dict(mark.train_loss),
        **mark.work.columns("trained"),
        **evaluation.read.columns("read"),
        "prompt_tokens": evaluation.prompt_tokens,
        "cached_tokens": evaluation.cached_tokens,
        "generated_tokens": evaluation.generated_tokens,
        "seconds": {
            "train": mark.train_seconds,
            "swap": evaluation.swap_seconds,
            "generate": evaluation.generate_seconds,
            "snapshot": mark.snapshot_seconds,
            "wait": waited_seconds,
        },
    }
