"""The vocabulary of methods and runner: pure data, standard library only.

A method is a generator. It yields a `Rollout` ("from that snapshot, train this mixture for that
many steps and score it at the marks"), is sent the `Trace` of what happened, and finally returns
a `Verdict` that names a snapshot. It holds no model, file, clock or random state, so that a
recorded conversation can be replayed to it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, Protocol, TypeAlias

MILLION = 1_000_000
ROOT = "root"  # the snapshot id of the untouched base (under LoRA: of the untrained adapter)
LIVE = "live"  # stands for the id of an end that was not saved; training may carry on from it
RowId: TypeAlias = tuple[str, int]  # a task's name and the index of one of its training rows
Keep: TypeAlias = Literal["none", "best", "peaks"]
Audit: TypeAlias = Literal["none", "pool", "probe"]


@dataclass(frozen=True, slots=True)
class Score:
    """What the rows of a task are worth, in integers so that ties are exact; more is better.

    Attributes:
        outcomes: one character a row, in row order: ``1`` right, ``0`` wrong. Empty where rows are
            graded.
        worth: worth of every row in millionths, in row order, where rows are graded: an F1 of one
            half is 500,000, a loss of 1.5 nats is -1,500,000. Empty where rows are right or wrong.
    """

    outcomes: str = ""
    worth: tuple[int, ...] = ()

    @property
    def is_graded(self) -> bool:
        return bool(self.worth)

    @property
    def rows(self) -> tuple[int, ...]:
        """What every row is worth: millionths where rows are graded, else 1 or 0."""
        return self.worth or tuple(int(outcome) for outcome in self.outcomes)

    @property
    def correct(self) -> int:
        return self.outcomes.count("1")

    @property
    def total(self) -> int:
        return len(self.worth or self.outcomes)

    @property
    def value(self) -> Fraction:
        if self.worth:
            return Fraction(sum(self.worth), MILLION * len(self.worth))
        return Fraction(self.correct, self.total)

    @property
    def text(self) -> str:
        """For a sentence: ``5/10``; graded the mean, ``0.6300`` or, below zero, ``loss 1.2345``."""
        if not self.worth:
            return f"{self.correct}/{self.total}"
        mean = float(self.value)
        return f"loss {-mean:.4f}" if mean < 0 else f"{mean:.4f}"


@dataclass(frozen=True, slots=True)
class Mixture:
    """What one epoch draws.

    Attributes:
        share: passes over each task's rows (1 = normal, absent = dropped).
        skip: training rows that are left out of the passes.
        iid: rows are drawn independently instead: a task with a chance in proportion to its share
            times its size, then any of its rows; as many rows as one pass over every task has.
    """

    share: tuple[tuple[str, Fraction], ...]
    skip: frozenset[RowId] = frozenset()
    iid: bool = False

    @staticmethod
    def of(tasks: Iterable[str]) -> Mixture:
        """Returns the mixture that passes once over each of ``tasks``."""
        return Mixture(tuple((task, Fraction(1)) for task in tasks))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(task for task, _ in self.share)


@dataclass(frozen=True, slots=True)
class Drop:
    """A decision of a method: ``task`` leaves the mixture.

    Attributes:
        peak_mark: the mark at which the task was best.
        rolled_back_to: id of the snapshot that training goes on from.
        reason: one sentence for the reader of the ledger.
    """

    task: str
    peak_mark: int
    rolled_back_to: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rollout:
    """A request: train ``mixture`` from ``start``, save and score at every mark.

    Attributes:
        start: snapshot id whose weights are trained on.
        marks: optimizer steps counted from ``start``, strictly increasing; the last is the length.
        fresh: new optimizer and new data order; otherwise moments, learning-rate position and data
            cursor carry on from where the latest rollout ended (its weights too if ``start`` is
            that end).
        drops: what was decided on the reply before this request.
        score: whether its marks are saved and scored; where not, its end is `LIVE` and the next
            request carries on from there.
        keep: which of its snapshots may be asked for once it has ended: also every active task's
            peak, only its end and the run's best mean, or none, nor is one of them returned.
        audit: what is measured at its end: nothing; the loss of every training row of every task
            (``pool``); or, of one batch of every active task, the losses before and after a virtual
            step on that batch, which is undone (``probe``).
    """

    start: str
    mixture: Mixture
    marks: tuple[int, ...]
    fresh: bool
    drops: tuple[Drop, ...] = ()
    score: bool = True
    keep: Keep = "peaks"
    audit: Audit = "none"


@dataclass(frozen=True, slots=True)
class Point:
    """A place on a rollout; mark 0 is its start, mark k its k-th mark; at `LIVE` without scores.

    See `scored_tasks` for the tasks that have a score.
    """

    mark: int
    snapshot: str
    scores: Mapping[str, Score]

    def mean(self) -> Fraction:
        """Returns the mean score over the tasks that were scored, dropped ones too."""
        return sum((s.value for s in self.scores.values()), Fraction(0)) / len(self.scores)


@dataclass(frozen=True, slots=True)
class Trace:
    """The reply to a `Rollout`.

    Attributes:
        points: its start, then one per mark.
        before: losses of the probed rows in millionths of a nat, per task; empty without a probe.
        after: the same after the virtual step, or the loss of every training row of the pool.
    """

    points: tuple[Point, ...]
    before: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    after: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    @property
    def end(self) -> Point:
        return self.points[-1]

    def peak(self, task: str, *, start_counts: bool = True) -> Point:
        """Returns the earliest point with the best score of ``task``.

        Args:
            task: name of the task.
            start_counts: whether mark 0 competes.
        """
        points = self.points if start_counts else self.points[1:]
        return max(points, key=lambda point: point.scores[task].value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a method ends.

    Attributes:
        snapshot: what it returns.
        drops: its last decisions.
        note: a remark for the reader.
        last: a snapshot that is reported beside the returned one, where training ended; or none.
    """

    snapshot: str
    drops: tuple[Drop, ...] = ()
    note: str = ""
    last: str = ""


Method = Generator[Rollout, Trace, Verdict]


@dataclass(frozen=True, slots=True)
class Clock:
    """Turns epochs into whole optimizer steps.

    A mark interval (a quarter epoch by default) is a whole number of steps, and its rows are
    spread evenly over them; no batch crosses a mark. So after k marks each task has been drawn
    ``round(k * share * size / marks_per_epoch)`` times exactly, whatever the batch size.

    Attributes:
        sizes: training rows per task.
        batch_rows: most rows an optimizer step may hold.
    """

    sizes: Mapping[str, int]
    batch_rows: int
    marks_per_epoch: int = 4

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def rows_left(self, mixture: Mixture) -> dict[str, int]:
        """Returns the training rows of each task of ``mixture`` without those it skips."""
        skipped = Counter(task for task, _ in mixture.skip)
        return {task: self.sizes[task] - skipped[task] for task in mixture.tasks}

    def steps_per_mark(self, mixture: Mixture) -> int:
        """Returns the optimizer steps of one mark interval: enough for its rows in any phase.

        Where rows are drawn independently it is that of one pass over every task.
        """
        if mixture.iid:
            return self.steps_per_mark(Mixture.of(self.tasks))
        left = self.rows_left(mixture)
        most_rows = sum(
            math.ceil(share * left[task] / self.marks_per_epoch) for task, share in mixture.share
        )
        return max(1, math.ceil(most_rows / self.batch_rows))

    def marks(self, mixture: Mixture, count: int) -> tuple[int, ...]:
        """Returns the steps of the first ``count`` marks of ``mixture``."""
        steps = self.steps_per_mark(mixture)
        return tuple(steps * k for k in range(1, count + 1))

    def epochs(self, epochs: int) -> int:
        """Returns the marks of that many epochs."""
        return epochs * self.marks_per_epoch


class Record(Protocol):
    """What `drive` needs of a ledger."""

    def recall(self, request: Rollout) -> Trace | None:
        """Returns the recorded reply, or opens ``request`` as a new row and returns None.

        Raises:
            ReplayMismatch: another request stands at this place.
        """
        ...

    def conclude(self, verdict: Verdict) -> None:
        """Records the last decisions."""
        ...


def scored_tasks(
    request: Rollout, mark: int, tasks: Iterable[str], *, dropped_every: int
) -> tuple[str, ...]:
    """Returns which of ``tasks`` are scored at ``mark`` of ``request``, in their order.

    Those in its mixture always; the others at every ``dropped_every``-th mark, its start counting
    as one, and at its last mark.
    """
    is_whole = mark % dropped_every == 0 or mark == len(request.marks)
    return tuple(task for task in tasks if is_whole or task in request.mixture.tasks)


def best_point(points: Iterable[Point]) -> Point:
    """Returns the earliest point with the best mean score, of those at which all tasks were scored.

    The first point of a run is one, so these are the points with the most scores.
    """
    points = tuple(points)
    most = max(len(point.scores) for point in points)
    return max((point for point in points if len(point.scores) == most), key=Point.mean)


def live_snapshots(points: Iterable[Point], request: Rollout, best: Point | None) -> frozenset[str]:
    """Returns the snapshots of a rollout in progress that may still be asked for.

    These are its latest point, the run's best mean and, where ``request`` keeps peaks, its start
    and for every active task the earliest point with the best score so far (mark 0 competing or
    not). Every other point has been overtaken: a later mark can replace a task's peak but never
    restore an earlier one.

    Args:
        points: the scored points of the rollout so far, mark 0 first.
        request: the rollout.
        best: the best mean so far among the points that may be returned; None before the first.
    """
    trace = Trace(tuple(points))
    alive = {trace.end.snapshot}
    if best is not None:
        alive.add(best.snapshot)
    if request.keep == "peaks":
        alive.add(trace.points[0].snapshot)
        if len(trace.points) > 1:
            tasks = request.mixture.tasks
            alive |= {trace.peak(task, start_counts=False).snapshot for task in tasks}
    return frozenset(alive)
