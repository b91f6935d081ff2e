"""How the others' best moments shift when the task that peaks first is taken out: two branches."""

from __future__ import annotations

from dataclasses import dataclass

from msft_lite.core import (
    ROOT,
    Clock,
    Drop,
    Method,
    Mixture,
    Point,
    Rollout,
    Verdict,
    best_point,
)


@dataclass(frozen=True, slots=True)
class ShiftOptions:
    """Options of `shift`.

    Attributes:
        epochs: length of the first roll-out, and of what leads to the end of either branch.
    """

    epochs: int = 10


def shift(clock: Clock, options: ShiftOptions) -> Method:
    """Trains all tasks, goes back to the first peak and goes on from it with and without its task.

    Roll-out 1 finds the task with the earliest best mark (never mark 0; ties by name). Roll-outs 2
    and 3 start there with a new optimizer each and are as long as what was left: 2 with all tasks,
    3 without that one. What is looked at is where the other tasks' best marks lie in 2 and in 3; a
    mark is a quarter of a pass over each task in both. Returns the best mean checkpoint of all.

    Source: the bifurcation of Koh et al., arXiv 2603.21606, that shows that best moments found in
    one search go stale. Inferred: the new optimizers, and the length of the branches.
    """
    mixture = Mixture.of(clock.tasks)
    count = clock.epochs(options.epochs)
    trace = yield Rollout(ROOT, mixture, clock.marks(mixture, count), fresh=True)
    seen: list[Point] = [*trace.points]
    peaks = {task: trace.peak(task, start_counts=False) for task in clock.tasks}
    mark, task = min((peak.mark, task) for task, peak in peaks.items())
    others = Mixture.of(other for other in clock.tasks if other != task)
    if mark == count or not others.tasks:
        why = "no task is best before the last mark" if others.tasks else "there is one task alone"
        return Verdict(best_point(seen).snapshot, note=f"no branches: {why}")
    start = peaks[task].snapshot
    drops: tuple[Drop, ...] = ()
    for branch in (mixture, others):
        trace = yield Rollout(start, branch, clock.marks(branch, count - mark), True, drops)
        seen.extend(trace.points)
        drops = (Drop(task, 0, start, f"best first, at mark {mark} of roll-out 1"),)
    return Verdict(best_point(seen).snapshot)
