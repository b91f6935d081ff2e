"""mSFT: train, find the task that over-fits first, roll back to its peak, drop it, repeat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb
from typing import Literal

from msft_lite.core import (
    ROOT,
    Clock,
    Drop,
    Method,
    Mixture,
    Point,
    Rollout,
    Score,
    Trace,
    Verdict,
    best_point,
)


@dataclass(frozen=True, slots=True)
class MsftOptions:
    """Options of `msft`. The defaults are the released code's behaviour.

    Attributes:
        budget: epochs of a roll-out, the paper's compute budget C (1, 3 and 5 were swept).
        start_counts: whether mark 0 may be a task's peak, so that a task that only gets worse
            leaves without having been trained in that stage.
        keep_optimizer: moments, learning-rate position and data order go on across stages
            instead of starting afresh; weights are rolled back all the same.
        drop_all_tied: every task that shares the earliest peak leaves, not only the first by name.
        max_stages: most roll-outs; None for the guard of twice the tasks plus 2.
        detector: ``peak`` takes any fall after the peak for over-fitting (the paper's);
            ``significant`` asks for a fall that an exact one-sided sign test over the rows
            confirms (ours); where rows are right or wrong that is McNemar's test.
        alpha: level of that test.
    """

    budget: int = 3
    start_counts: bool = True
    keep_optimizer: bool = False
    drop_all_tied: bool = False
    max_stages: int | None = None
    detector: Literal["peak", "significant"] = "peak"
    alpha: float = 0.05


def msft(clock: Clock, options: MsftOptions) -> Method:
    """Runs Algorithm 1 of Koh et al., arXiv 2603.21606.

    Returns the checkpoint with the best mean score over every evaluation of every stage,
    rolled-back ones included; the earliest of equals.

    Deviations: stages in which nobody over-fits count towards a guard of 2N+2 stages instead of
    the released code's 10, so that a long list of tasks is not cut short; the verdict says when
    it ended the run. ``detector="significant"`` is ours.
    """
    active, head = list(clock.tasks), ROOT
    drops: tuple[Drop, ...] = ()
    seen: list[Point] = []
    most_stages = options.max_stages or 2 * len(active) + 2
    for stage in range(most_stages):
        mixture = Mixture.of(active)
        marks = clock.marks(mixture, clock.epochs(options.budget))
        fresh = stage == 0 or not options.keep_optimizer
        trace = yield Rollout(head, mixture, marks, fresh, drops)
        seen.extend(trace.points)
        drops = overfitted(trace, active, options)
        head = drops[0].rolled_back_to if drops else trace.end.snapshot
        active = [task for task in active if task not in {drop.task for drop in drops}]
        if not active:
            return Verdict(best_point(seen).snapshot, drops)
    note = f"stopped after {most_stages} stages with tasks still active: {', '.join(active)}"
    return Verdict(best_point(seen).snapshot, drops, note)


def overfitted(trace: Trace, active: Iterable[str], options: MsftOptions) -> tuple[Drop, ...]:
    """Returns the tasks that leave after ``trace``, all with one peak mark; () if nobody does.

    A task over-fitted if its earliest best mark lies strictly before the last mark. Of those the
    ones with the earliest peak are candidates; ties go to the first by name unless
    ``options.drop_all_tied``.
    """
    peaks = {task: trace.peak(task, start_counts=options.start_counts) for task in active}
    fallen = sorted(
        (peak.mark, task)
        for task, peak in peaks.items()
        if peak.mark < trace.end.mark and confirmed(peak, trace.end, task, options)
    )
    earliest = [task for mark, task in fallen if mark == fallen[0][0]]
    leaving = earliest if options.drop_all_tied else earliest[:1]
    return tuple(
        Drop(task, peaks[task].mark, peaks[task].snapshot, reason(peaks[task], trace.end, task))
        for task in leaving
    )


def confirmed(peak: Point, end: Point, task: str, options: MsftOptions) -> bool:
    """Returns whether the detector accepts the fall of ``task`` from its peak to the end."""
    if options.detector == "peak":
        return True
    return fall_probability(peak.scores[task], end.scores[task]) < options.alpha


def fall_probability(before: Score, after: Score) -> float:
    """Returns the one-sided p-value of the exact paired sign test for a fall on the same rows.

    The chance that, of the rows whose worth changed, at least as many as observed lost some, were
    both directions equally likely. By how much does not count. 1.0 where no row changed.

    Source: Dixon and Mood (1946): binomial with p = 1/2 over the changed rows. Where rows are right
    or wrong it is the exact conditional form of McNemar (1947).
    """
    pairs = list(zip(before.rows, after.rows, strict=True))
    lost = sum(now < then for then, now in pairs)
    changed = sum(now != then for then, now in pairs)
    return sum(comb(changed, k) for k in range(lost, changed + 1)) / 2**changed


def reason(peak: Point, end: Point, task: str) -> str:
    """Returns the sentence that the ledger and the report show for a drop."""
    return (
        f"best at mark {peak.mark} with {peak.scores[task].text}, "
        f"at the last mark {end.mark} {end.scores[task].text}"
    )
