"""What happened in a run, finished or not: plain data, and questions about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from msft_lite.core import ROOT, Drop, Score
from msft_lite.report.cost import Flops, Rates, flops_of
from msft_lite.report.spending import NOTHING, Spending


@dataclass(frozen=True, slots=True)
class TaskRows:
    """A task and how many rows each of its splits has."""

    name: str
    train: int
    control: int
    report: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What the start row says about the run.

    Attributes:
        dropped_every: at every how many marks of a request tasks outside its mixture were scored.
        signal: ``loss`` where the loss on those rows chose, ``metric`` otherwise.
        metrics: name of each task's metric.
        scores: how each task is answered, ``generate`` or ``logprob``.
        domains: what each task belongs to; of tasks of one's own it is empty.
        steer_on: the split that peaks, drops and the returned point were chosen on; where it is
            ``report`` the reported scores are of the rows that chose them.
        rates: of the model, to tell operations from tokens; None where the row gives none.
        model_bytes: of one copy of the base's weights; 0 where the row does not tell.
        facts: everything else of the row (device, engine, versions and so on), as written.
    """

    method: str
    seed: int
    marks_per_epoch: int
    dropped_every: int
    steer_on: str
    signal: str
    metrics: Mapping[str, str]
    scores: Mapping[str, str]
    domains: Mapping[str, str]
    rates: Rates | None
    model_bytes: int
    facts: Mapping[str, object]

    def steering_metrics(self) -> Mapping[str, str]:
        """Returns what the scores along the run are in, per task."""
        return dict.fromkeys(self.metrics, "loss") if self.signal == "loss" else self.metrics


@dataclass(frozen=True, slots=True)
class Position:
    """Training that lies behind a point, in optimizer steps and in epochs of the active tasks."""

    steps: int
    epochs: Fraction

    def after(self, steps: int, epochs: Fraction) -> Position:
        """Returns the position that much later."""
        return Position(self.steps + steps, self.epochs + epochs)


@dataclass(frozen=True, slots=True)
class Mark:
    """A scored place of roll-out ``n``: its start (``k`` = 0) or its k-th scored mark.

    Attributes:
        row: roll-out and mark that the ledger knows it by.
        path: training that the weights have seen, from the base along roll-backs.
        spent: training that the run had done by then, rolled-back stretches included.
        scores: score of every task that was scored there, on the rows that steer.
        is_whole: whether that was every task, so that there is a mean.
        train_loss: mean loss per answer token since the mark before, of active tasks.
        spending: since the mark before.
        disk_bytes: snapshots and crash copy on the disk when it had been scored.
        peak_bytes: most memory that the trainer held by then.
        shared: name of the run that it was taken from, if it was.
    """

    n: int
    k: int
    row: tuple[int, int]
    snapshot: str
    path: Position
    spent: Position
    scores: Mapping[str, Score]
    is_whole: bool
    train_loss: Mapping[str, float]
    spending: Spending
    disk_bytes: int
    peak_bytes: int
    shared: str = ""

    @property
    def seconds(self) -> Mapping[str, float]:
        return self.spending.seconds

    @property
    def mean(self) -> Fraction:
        """The mean score over all tasks, each counting alike; of a mark that is whole."""
        return sum((s.value for s in self.scores.values()), Fraction(0)) / len(self.scores)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the latest of the requests that a roll-out is made of is recorded.

    Attributes:
        n: number of the request.
        marks: steps of its marks, counted from its start.
        recorded: how many places of it are recorded, its start included.
        is_scored: whether its marks are.
        behind: steps of the requests before it.
        end: snapshot of the latest place.
    """

    n: int
    marks: tuple[int, ...]
    recorded: int
    is_scored: bool
    behind: int
    end: str

    @property
    def is_complete(self) -> bool:
        """Whether every place is recorded."""
        return self.recorded == len(self.marks) + 1


@dataclass(frozen=True, slots=True)
class RolloutStory:
    """A roll-out as far as it is recorded.

    Requests that carry on with the same tasks from where the one before ended are one roll-out.

    Attributes:
        start: snapshot it began from.
        path: position of that snapshot.
        spent: training that the run had done before.
        steps: optimizer steps of its scored marks, counted from its start.
        progress: of the latest request.
        pending: spent since the latest scored mark.
        is_iid: whether rows are drawn independently instead of in passes.
        skipped: training rows left out by the latest request, per task.
        marks: recorded ones, mark 0 first.
        drops: what was decided on it.
    """

    n: int
    start: str
    path: Position
    spent: Position
    tasks: tuple[str, ...]
    share: Mapping[str, Fraction]
    fresh: bool
    steps: tuple[int, ...]
    progress: Progress
    pending: Spending = NOTHING
    is_iid: bool = False
    skipped: Mapping[str, int] = field(default_factory=dict[str, int])
    marks: tuple[Mark, ...] = ()
    drops: tuple[Drop, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every mark is recorded."""
        return self.progress.is_complete

    @property
    def end_step(self) -> int:
        """Optimizer steps to the end of the latest request."""
        return self.progress.behind + self.progress.marks[-1]

    def length(self, k: int) -> int:
        """Returns the optimizer steps from the start to mark ``k``; 0 for mark 0 and before."""
        return self.steps[k - 1] if k > 0 else 0

    def peak(self, task: str) -> Mark:
        """Returns the earliest recorded mark with the best score of ``task``; mark 0 competes."""
        scored = (mark for mark in self.marks if task in mark.scores)
        return max(scored, key=lambda mark: mark.scores[task].value)


@dataclass(frozen=True, slots=True)
class Finish:
    """How the run ended, with scores on the report split.

    Attributes:
        n: number of the request that the returned point belongs to.
        k: its mark there.
        base: of the untouched base.
        best: of the returned point.
        spending: on the report rows, and of the disk after the last mark.
        last: of the point where training ended, if the method wants that told.
    """

    n: int
    k: int
    snapshot: str
    note: str
    base: Mapping[str, Score]
    best: Mapping[str, Score]
    spending: Spending
    last: Mapping[str, Score] | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What the run spent, as far as it is recorded.

    Attributes:
        evaluations: snapshots scored at marks, each counted once as a roll-out takes over the
            scores of the point it starts from; the two on the report split come on top.
        rolled_back_steps: optimizer steps of stretches that training did not go on from.
        peak_bytes: most memory that any mark interval held.
        disk_bytes: most that snapshots and crash copy took on the disk.
        copies: copies of the model that snapshots and crash copy would fill, as a mean over the
            evaluated marks; None where the size of a copy is not known.
        flops: operations of all that was spent; None where the model's rates are not known.
        spending: all that was spent.
    """

    steps: int
    rolled_back_steps: int
    evaluations: int
    peak_bytes: int
    disk_bytes: int
    copies: float | None
    flops: Flops | None
    spending: Spending


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a task; ``n`` and ``mark`` say where a dropped one had its peak."""

    word: Literal["active", "dropped", "active to the end", "never over-fitted"]
    n: int = 0
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """A whole run, finished or not."""

    setting: Setting
    tasks: tuple[TaskRows, ...]
    rollouts: tuple[RolloutStory, ...] = ()
    finish: Finish | None = None

    @property
    def requests(self) -> int:
        """How many roll-outs the method has asked for, those that carry on counted each."""
        return self.rollouts[-1].progress.n if self.rollouts else 0

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names in the run's order."""
        return tuple(task.name for task in self.tasks)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Every recorded mark in the order of recording."""
        return tuple(mark for rollout in self.rollouts for mark in rollout.marks)

    @property
    def base(self) -> Mark | None:
        """The untouched base, scored on the rows that steer."""
        return next((mark for mark in self.marks if mark.snapshot == ROOT), None)

    @property
    def best(self) -> Mark | None:
        """The returned point; of an unfinished run the earliest with the best mean so far."""
        if self.finish is not None:
            place = (self.finish.n, self.finish.k)
            return next(mark for mark in self.marks if mark.row == place)
        return self.best_mean

    @property
    def best_mean(self) -> Mark | None:
        """The earliest mark with the best mean."""
        whole = (mark for mark in self.marks if mark.is_whole)
        return max(whole, key=lambda mark: mark.mean, default=None)

    def peak(self, task: str) -> Mark | None:
        """Returns the earliest mark of the run with the best score of ``task``."""
        scored = (mark for mark in self.marks if task in mark.scores)
        return max(scored, key=lambda mark: mark.scores[task].value, default=None)

    def mark_of(self, snapshot: str) -> Mark | None:
        """Returns where ``snapshot`` was scored first."""
        return next((mark for mark in self.marks if mark.snapshot == snapshot), None)

    def kept_mark(self, rollout: RolloutStory) -> int:
        """Returns the mark of ``rollout`` that training went on from; marks after it rolled back.

        Mark 0 where training went on from somewhere else altogether; the last mark while nothing
        says otherwise.
        """
        later = self.rollouts[rollout.n : rollout.n + 1]
        starts = [r.start for r in later] or [d.rolled_back_to for d in rollout.drops]
        if not starts:
            return len(rollout.steps)
        return next((m.k for m in rollout.marks if m.snapshot == starts[0]), 0)

    def standing(self, task: str) -> Standing:
        """Returns what became of ``task``.

        A task never over-fitted if its best mark was the last one in every roll-out that trained
        it; until the run is finished a task that was not dropped is just active.
        """
        trained = [rollout for rollout in self.rollouts if task in rollout.tasks]
        for drop in trained[-1].drops if trained else ():
            if drop.task == task:
                return Standing("dropped", trained[-1].n, drop.peak_mark)
        if self.finish is None:
            return Standing("active")
        rose = all(rollout.peak(task).k == len(rollout.steps) for rollout in trained)
        return Standing("never over-fitted" if rose else "active to the end")

    def totals(self) -> Totals:
        """Returns what the run spent so far."""
        marks = self.marks
        spending = sum(
            [*(mark.spending for mark in marks), *(rollout.pending for rollout in self.rollouts)],
            self.finish.spending if self.finish else NOTHING,
        )
        rates, model_bytes = self.setting.rates, self.setting.model_bytes
        filled = [
            mark.disk_bytes / model_bytes for mark in marks if model_bytes and mark.disk_bytes
        ]
        return Totals(
            steps=sum(r.length(len(r.marks) - 1) for r in self.rollouts),
            rolled_back_steps=sum(
                max(0, r.length(len(r.marks) - 1) - r.length(self.kept_mark(r)))
                for r in self.rollouts
            ),
            evaluations=len({mark.snapshot for mark in marks}),
            peak_bytes=max((mark.peak_bytes for mark in marks), default=0),
            disk_bytes=max((mark.disk_bytes for mark in marks), default=0),
            copies=sum(filled) / len(filled) if filled else None,
            flops=None if rates is None else flops_of(rates, spending),
            spending=spending,
        )
