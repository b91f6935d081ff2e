"""Plain multi-task supervised fine-tuning: one roll-out over everything."""

from __future__ import annotations

from dataclasses import dataclass

from msft_lite.core import ROOT, Clock, Method, Mixture, Rollout, Verdict, best_point


@dataclass(frozen=True, slots=True)
class SftOptions:
    """Options of `sft`.

    Attributes:
        epochs: length of the run. 10 in the paper (inferred from its figures).
    """

    epochs: int = 10


def sft(clock: Clock, options: SftOptions) -> Method:
    """Trains the full mixture and returns the checkpoint with the best mean score.

    Source: the baseline of Koh et al., arXiv 2603.21606, common setting. The untouched base
    competes as mark 0, as it does for every method here.
    """
    mixture = Mixture.of(clock.tasks)
    marks = clock.marks(mixture, clock.epochs(options.epochs))
    trace = yield Rollout(ROOT, mixture, marks, fresh=True, keep="best")
    return Verdict(best_point(trace.points).snapshot)
