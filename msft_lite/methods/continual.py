"""Continual fine-tuning: one task after another, each from where the one before was best."""

from __future__ import annotations

from dataclasses import dataclass

from msft_lite.core import ROOT, Clock, Method, Mixture, Point, Rollout, Verdict, best_point


@dataclass(frozen=True, slots=True)
class ContinualOptions:
    """Options of `continual`.

    Attributes:
        epochs: passes over each task, so that all of them together train on as many rows as `sft`
            does in that many epochs.
    """

    epochs: int = 10


def continual(clock: Clock, options: ContinualOptions) -> Method:
    """Trains the tasks in the recipe's order, with a new optimizer each and no rehearsal.

    Returns the checkpoint with the best mean score of the whole run; the last task's best
    checkpoint, where training ended, is reported beside it.

    Source: Scialom et al. 2022, "Fine-tuned language models are continual learners", as the
    baseline of Koh et al., arXiv 2603.21606: each task starts from the previous one's own best
    checkpoint. Inferred, as neither says so: no rehearsal, the recipe's order, and a task that
    training only makes worse passes on the checkpoint that it started from.
    """
    head = ROOT
    seen: list[Point] = []
    for task in clock.tasks:
        mixture = Mixture.of([task])
        marks = clock.marks(mixture, clock.epochs(options.epochs))
        trace = yield Rollout(head, mixture, marks, fresh=True)
        seen.extend(trace.points)
        head = trace.peak(task).snapshot
    return Verdict(best_point(seen).snapshot, last=head)
