"""A made-up world of learning curves that answers a method's requests and counts their cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from msft_lite.core import (
    LIVE,
    MILLION,
    ROOT,
    Clock,
    Drop,
    Point,
    Rollout,
    Score,
    Trace,
    Verdict,
    best_point,
    live_snapshots,
    scored_tasks,
)

SCORED_ROWS = 4_000  # so fine that neighbours on an assumed curve differ up to 150 epochs
EARLIEST_PEAK = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class Tally:
    """What driving a method with assumed curves came to.

    Attributes:
        stages: roll-outs.
        steps: optimizer steps.
        rows: training rows drawn, per task.
        probed_rows: rows of steps that are undone.
        read_rows: training rows whose loss the method asks for.
        evaluations: snapshots that are scored on the control rows.
        scored: how many of them each task is scored at.
        snapshots_written: in all.
        snapshots_alive: most at a time.
        drops: tasks in the order they leave.
    """

    stages: int
    steps: int
    rows: Mapping[str, int]
    probed_rows: int
    read_rows: int
    evaluations: int
    scored: Mapping[str, int]
    snapshots_written: int
    snapshots_alive: int
    drops: tuple[str, ...]


class AssumedWorld:
    """Answers roll-outs from assumed curves, and counts; records nothing, so recalls nothing."""

    def __init__(
        self, clock: Clock, epochs: int, *, deferred: bool, dropped_every: int = 1
    ) -> None:
        """Takes the tasks, the peak of the last of them and when evaluation takes place."""
        self._clock = clock
        self._deferred = deferred
        self._dropped_every = dropped_every
        self._peaks = dict(zip(clock.tasks, assumed_peaks(len(clock.tasks), epochs), strict=True))
        self._reach = 4 * epochs
        nothing = dict.fromkeys(clock.tasks, Fraction(0))
        self._seen = {ROOT: nothing}  # epochs of each task that lie behind a snapshot
        self._best: Point | None = None
        self._scored: set[tuple[str, str]] = set()  # snapshot and task
        self._drops: list[str] = []
        self._rows = dict.fromkeys(clock.tasks, 0)
        self._probed = self._read = 0
        self._stages = self._rollouts = self._steps = self._written = 0
        self._alive: frozenset[str] = frozenset()
        self._most_alive = 0

    def execute(self, request: Rollout) -> Trace:
        """Returns the assumed reply to ``request``."""
        self._leave(request.drops)
        self._stages += request.fresh
        self._rollouts += 1
        self._steps += request.marks[-1]
        points = [self._point(request, 0, request.start)]
        self._alive = frozenset({request.start, *self._best_of(points[0], request)})
        for mark in range(1, len(request.marks) + 1):
            points.append(self._point(request, mark, self._train(request, mark)))
            if request.score:
                self._save(points, request)
        self._scored |= {(point.snapshot, task) for point in points for task in point.scores}
        return Trace(tuple(points), *self._audited(request))

    def _save(self, points: Sequence[Point], request: Rollout) -> None:
        """Counts the snapshot of the latest point, and those that are alive beside it."""
        self._written += 1
        self._alive |= {points[-1].snapshot}
        self._most_alive = max(self._most_alive, len(self._alive - {ROOT, LIVE}))
        self._best_of(points[-1], request)
        if not self._deferred:
            scored = [point for point in points if point.scores]
            self._alive = live_snapshots(scored, request, self._best)

    def _audited(self, request: Rollout) -> Sequence[Mapping[str, tuple[int, ...]]]:
        """Returns losses by which no row is mastered, and no task gains more than another."""
        tasks = request.mixture.tasks
        if request.audit == "probe":
            rows = sum(min(self._clock.batch_rows, self._clock.sizes[task]) for task in tasks)
            self._probed += rows
            self._read += 2 * rows
            return (dict.fromkeys(tasks, (MILLION,)), dict.fromkeys(tasks, (0,)))
        if request.audit == "pool":
            self._read += sum(self._clock.sizes.values())
            bent = self._rollouts**2 * MILLION
            return ({}, {task: (bent,) * self._clock.sizes[task] for task in tasks})
        return ()

    def recall(self, request: Rollout) -> Trace | None:
        """Returns None: every request is executed."""
        return None

    def conclude(self, verdict: Verdict) -> None:
        """Counts the last decisions."""
        self._leave(verdict.drops)

    def tally(self) -> Tally:
        """Returns what was counted."""
        return Tally(
            stages=self._stages,
            steps=self._steps,
            rows=self._rows,
            probed_rows=self._probed,
            read_rows=self._read,
            evaluations=len({snapshot for snapshot, _ in self._scored}),
            scored=Counter(task for _, task in self._scored),
            snapshots_written=self._written,
            snapshots_alive=self._most_alive,
            drops=tuple(self._drops),
        )

    def _leave(self, drops: Sequence[Drop]) -> None:
        self._drops += [drop.task for drop in drops]

    def _best_of(self, point: Point, request: Rollout) -> frozenset[str]:
        """Returns the best mean so far, ``point`` included if the run may return it."""
        if point.scores and request.keep != "none":
            self._best = best_point([self._best, point]) if self._best else point
        return frozenset({self._best.snapshot} if self._best else ())

    def _train(self, request: Rollout, mark: int) -> str:
        """Returns the snapshot at ``mark``, having counted its rows."""
        before = self._seen[request.start]
        behind = dict(before)
        intervals = self._intervals(request)
        for task, share in request.mixture.share:
            row_share = share * self._clock.sizes[task] / self._clock.marks_per_epoch
            rows = [round(sum(intervals[:k]) * row_share) for k in (mark - 1, mark)]
            self._rows[task] += rows[1] - rows[0]
            passed = sum(intervals[:mark]) * share / self._clock.marks_per_epoch
            behind[task] = before[task] + passed
        snapshot = f"roll-out {self._rollouts}, mark {mark}" if request.score else LIVE
        self._seen[snapshot] = behind
        return snapshot

    def _intervals(self, request: Rollout) -> list[Fraction]:
        """Returns how many mark intervals lie between the marks of ``request``, mostly one."""
        steps = self._clock.steps_per_mark(request.mixture)
        return [Fraction(b - a, steps) for a, b in pairwise((0, *request.marks))]

    def _point(self, request: Rollout, mark: int, snapshot: str) -> Point:
        behind = self._seen[snapshot]
        if snapshot == LIVE:
            return Point(mark, LIVE, {})
        tasks = scored_tasks(request, mark, self._clock.tasks, dropped_every=self._dropped_every)
        return Point(mark, snapshot, {task: self._score(task, behind[task]) for task in tasks})

    def _score(self, task: str, epochs: Fraction) -> Score:
        away = abs(epochs - self._peaks[task]) / self._reach
        correct = max(0, round(SCORED_ROWS * (1 - away)))
        return Score("1" * correct + "0" * (SCORED_ROWS - correct))


def assumed_peaks(count: int, epochs: int) -> tuple[Fraction, ...]:
    """Returns peaks in epochs of a task's own rows, evenly spread from 1/2 to ``epochs``."""
    if count == 1:
        return (EARLIEST_PEAK + (epochs - EARLIEST_PEAK) / 2,)
    step = (epochs - EARLIEST_PEAK) / (count - 1)
    return tuple(EARLIEST_PEAK + step * i for i in range(count))
