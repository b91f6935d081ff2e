"""What happened in a run, finished or not: plain data, and questions about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from msft_lite.core import ROOT, Drop, Score


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
        signal: ``loss`` where the loss on those rows chose, ``metric`` otherwise.
        metrics: name of each task's metric.
        domains: what each task belongs to; of tasks of one's own it is empty.
        steer_on: the split that peaks, drops and the returned point were chosen on; where it is
            ``report`` the reported scores are of the rows that chose them.
        facts: everything else of the row (device, engine, versions and so on), as written.
    """

    method: str
    seed: int
    marks_per_epoch: int
    steer_on: str
    signal: str
    metrics: Mapping[str, str]
    domains: Mapping[str, str]
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
    """A scored place of roll-out ``n``: its start (``k`` = 0) or its k-th mark.

    Attributes:
        path: training that the weights have seen, from the base along roll-backs.
        spent: training that the run had done by then, rolled-back stretches included.
        scores: score of every task, dropped ones too, on the rows that steer.
        train_loss: mean loss per answer token since the mark before, of active tasks.
        trained_tokens: since the mark before; so are generated_tokens and seconds.
        prompt_tokens: of the questions asked at this mark.
        cached_tokens: those of them that the engine's prefix cache served.
    """

    n: int
    k: int
    snapshot: str
    path: Position
    spent: Position
    scores: Mapping[str, Score]
    train_loss: Mapping[str, float]
    trained_tokens: int
    generated_tokens: int
    prompt_tokens: int
    cached_tokens: int
    seconds: Mapping[str, float]
    peak_bytes: int

    @property
    def mean(self) -> Fraction:
        """The mean score over all tasks, each counting alike."""
        return sum((s.value for s in self.scores.values()), Fraction(0)) / len(self.scores)


@dataclass(frozen=True, slots=True)
class RolloutStory:
    """A roll-out as far as it is recorded.

    Attributes:
        start: snapshot it began from.
        path: position of that snapshot.
        spent: training that the run had done before.
        steps: optimizer steps of its marks, counted from its start.
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
    marks: tuple[Mark, ...] = ()
    drops: tuple[Drop, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every mark is recorded."""
        return len(self.marks) == len(self.steps) + 1

    def length(self, k: int) -> int:
        """Returns the optimizer steps from the start to mark ``k``; 0 for mark 0 and before."""
        return self.steps[k - 1] if k > 0 else 0

    def peak(self, task: str) -> Mark:
        """Returns the earliest recorded mark with the best score of ``task``; mark 0 competes."""
        return max(self.marks, key=lambda mark: mark.scores[task].value)


@dataclass(frozen=True, slots=True)
class Finish:
    """How the run ended, with the scores on the report split of the base and the returned point."""

    n: int
    k: int
    snapshot: str
    note: str
    base: Mapping[str, Score]
    best: Mapping[str, Score]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Totals:
    """What the run spent, as far as it is recorded.

    Attributes:
        evaluations: snapshots scored at marks, each counted once as a roll-out takes over the
            scores of the point it starts from; the two on the report split come on top.
        rolled_back_steps: optimizer steps of stretches that training did not go on from.
        peak_bytes: most memory that any mark interval held.
    """

    steps: int
    rolled_back_steps: int
    trained_tokens: int
    generated_tokens: int
    prompt_tokens: int
    cached_tokens: int
    evaluations: int
    peak_bytes: int
    seconds: Mapping[str, float]


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
            return self.rollouts[self.finish.n - 1].marks[self.finish.k]
        return max(self.marks, key=lambda mark: mark.mean, default=None)

    def peak(self, task: str) -> Mark | None:
        """Returns the earliest mark of the run with the best score of ``task``."""
        return max(self.marks, key=lambda mark: mark.scores[task].value, default=None)

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
        seconds: dict[str, float] = {}
        parts = [mark.seconds for mark in marks] + ([self.finish.seconds] if self.finish else [])
        for part in parts:
            for kind, value in part.items():
                seconds[kind] = seconds.get(kind, 0.0) + value
        return Totals(
            steps=sum(r.length(len(r.marks) - 1) for r in self.rollouts),
            rolled_back_steps=sum(
                max(0, r.length(len(r.marks) - 1) - r.length(self.kept_mark(r)))
                for r in self.rollouts
            ),
            trained_tokens=sum(mark.trained_tokens for mark in marks),
            generated_tokens=sum(mark.generated_tokens for mark in marks),
            prompt_tokens=sum(mark.prompt_tokens for mark in marks),
            cached_tokens=sum(mark.cached_tokens for mark in marks),
            evaluations=len({mark.snapshot for mark in marks}),
            peak_bytes=max((mark.peak_bytes for mark in marks), default=0),
            seconds=seconds,
        )
