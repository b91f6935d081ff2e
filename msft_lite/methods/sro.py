"""Single roll-out search: find each task's best mark in one run, then stop each there."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from msft_lite.core import (
    ROOT,
    Clock,
    Drop,
    Method,
    Mixture,
    Point,
    Rollout,
    Trace,
    Verdict,
    best_point,
)


@dataclass(frozen=True, slots=True)
class SroOptions:
    """Options of `sro` and `soft_sro`.

    Attributes:
        epochs: length of the search, as long as `sft` trains.
    """

    epochs: int = 10


def sro(clock: Clock, options: SroOptions) -> Method:
    """Trains all tasks together from the base and stops each after as much as the search says.

    One optimizer goes through; a task that is stopped leaves the mixture and nothing is rolled
    back. When mark k ends, every task has been drawn as often as in k marks of the search. Returns
    the checkpoint with the best mean score of the second training, its start included.

    Source: the baseline SRO SFT of Koh et al., arXiv 2603.21606, which names the idea. Inferred:
    the search is `sft`; mark 0 is no best mark, or its task would never be trained; training ends
    with the task that is stopped last.
    """
    stops = yield from search(clock, options.epochs)
    head, now = ROOT, 0
    seen: list[Point] = []
    drops: tuple[Drop, ...] = ()
    for until in sorted(set(stops.values())):
        mixture = Mixture.of(task for task in clock.tasks if stops[task] >= until)
        marks = clock.marks(mixture, until - now)
        trace = yield Rollout(head, mixture, marks, fresh=now == 0, drops=drops, keep="best")
        seen.extend(trace.points)
        head, now = trace.end.snapshot, until
        leaving = [task for task in mixture.tasks if stops[task] == until]
        reason = f"its best mark in the search was mark {until}"
        drops = tuple(Drop(task, trace.end.mark, head, reason) for task in leaving)
    return Verdict(best_point(seen).snapshot, drops)


def soft_sro(clock: Clock, options: SroOptions) -> Method:
    """Trains from the base on rows drawn in proportion to what the search gives each task.

    With c_i the best mark of task i and D_i its rows, each row is one of task i with the chance
    p_i = c_i |D_i| / sum_j c_j |D_j|, and as many rows are drawn as `sro` draws, to within one
    step. Marks are as many steps apart as those of the search. Returns the checkpoint with the best
    mean score of the second training.

    Source: the baseline Soft SRO SFT of Koh et al., arXiv 2603.21606; all details are inferred.
    """
    stops = yield from search(clock, options.epochs)
    whole = sum(clock.sizes.values())
    marks_worth = Fraction(sum(stops[task] * clock.sizes[task] for task in clock.tasks), whole)
    share = tuple((task, stops[task] / marks_worth) for task in clock.tasks)
    mixture = Mixture(share, iid=True)
    steps = clock.steps_per_mark(mixture)
    total = ceil(steps * marks_worth)
    marks = (*range(steps, total, steps), total)
    trace = yield Rollout(ROOT, mixture, marks, fresh=True, keep="best")
    return Verdict(best_point(trace.points).snapshot)


def search(clock: Clock, epochs: int) -> Generator[Rollout, Trace, dict[str, int]]:
    """Trains all tasks as `sft` does and returns the earliest best mark of each, never mark 0."""
    mixture = Mixture.of(clock.tasks)
    marks = clock.marks(mixture, clock.epochs(epochs))
    trace = yield Rollout(ROOT, mixture, marks, fresh=True, keep="none")
    return {task: trace.peak(task, start_counts=False).mark for task in clock.tasks}
