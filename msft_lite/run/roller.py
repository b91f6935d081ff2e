"""Executes one roll-out: train, snapshot at every mark, evaluate as soon as the engine can."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from msft_lite.core import Clock, Rollout, Trace, best_point, live_snapshots
from msft_lite.data.sampler import Cursor, interval
from msft_lite.data.task import Example, RowId, Task
from msft_lite.errors import Interrupted, SnapshotError
from msft_lite.ledger import Ledger, score_columns
from msft_lite.report.live import Watcher
from msft_lite.run.evaluator import Evaluation, Evaluator, Split
from msft_lite.run.position import Mark, Position
from msft_lite.snapshot.crash import load_crash_copy, save_crash_copy
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.train.trainer import StepResult, Trainer

SECONDS_BETWEEN_LOOKS = 0.2  # at an engine that is starting


@dataclass(frozen=True, slots=True)
class Parts:
    """What a `Roller` works with."""

    trainer: Trainer
    store: SnapshotStore
    evaluator: Evaluator
    ledger: Ledger
    tasks: Mapping[str, Task]
    watch: Watcher
    stop_requested: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class RollerSettings:
    """Settings of a `Roller`.

    Attributes:
        clock: sizes of the tasks and length of an epoch.
        seed: of the data order.
        crash_path: where the one crash copy lives.
        evaluate_at: ``mark`` evaluates every mark as soon as the engine is up, ``end`` all marks
            when the roll-out has been trained. The scores are the same.
    """

    clock: Clock
    seed: int
    crash_path: Path
    evaluate_at: Literal["mark", "end"] = "mark"


def order_key(request: Rollout) -> str:
    """Returns the name of a fresh roll-out's data order and dropout masks.

    It depends on the request alone, so that training from a snapshot is the same whatever ran
    before it.
    """
    text = repr((request.start, [(t, str(s)) for t, s in request.mixture.share]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Roller:
    """Turns a `Rollout` into a `Trace` with a trainer, a store and an engine.

    At every mark, in this order: the weights are saved, the crash copy (moments and counters) is
    replaced, the marks that wait are evaluated and their rows written, and snapshots that nobody
    can ask for any more are removed. Killed anywhere in between, `execute` goes on from the crash
    copy and writes the same rows.
    """

    def __init__(self, parts: Parts, settings: RollerSettings) -> None:
        """Takes the parts; nothing is touched before `execute`."""
        self._trainer = parts.trainer
        self._store = parts.store
        self._evaluator = parts.evaluator
        self._ledger = parts.ledger
        self._tasks = parts.tasks
        self._watch = parts.watch
        self._stop_requested = parts.stop_requested
        self._settings = settings
        self._position: Position | None = None
        self._held = ""  # id of the snapshot whose weights the trainer holds
        self._notices_told = 0

    def execute(self, request: Rollout) -> Trace:
        """Runs ``request``, or the rest of it, and returns its scored points.

        Raises:
            MsftError: training, saving or evaluating failed; the run can be resumed from the
                last mark.
            Interrupted: the user asked for an end; the last mark is saved.
        """
        position = self._resumed(request) or self._begun(request)
        self._position = position
        while position.latest.k < len(request.marks):
            self._leave_if_asked()
            if self._may_evaluate():
                position = self._evaluate_pending(request, position)
            position = self._position = self._next_mark(request, position)
        self._position = self._evaluate_pending(request, position)
        return Trace(tuple(self._ledger.points))

    def report(self, snapshot: str) -> Evaluation:
        """Returns the scores of ``snapshot`` on the report rows.

        Raises:
            Interrupted: the user asked for an end.
        """
        self._wait_for_engine("report")
        self._leave_if_asked()
        self._hold(snapshot)
        evaluation = self._evaluator.evaluate("report", self._store.load(snapshot), snapshot)
        self._tell_notices()
        return evaluation

    def _hold(self, snapshot: str) -> None:
        """Makes the trainer hold the weights of ``snapshot``, which the canary compares."""
        if snapshot != self._held:
            self._trainer.load(self._store.load(snapshot))
            self._held = snapshot

    def _may_evaluate(self) -> bool:
        return self._settings.evaluate_at == "mark" and self._evaluator.ready("control")

    def _leave_if_asked(self) -> None:
        if self._stop_requested():
            folder = self._settings.crash_path.parent
            raise Interrupted(f"stopped; go on with: msft-lite resume {folder}")

    def _begun(self, request: Rollout) -> Position:
        """Returns the start of ``request``, with the trainer set to it."""
        if request.fresh:
            key = order_key(request)
            self._trainer.renew(key)
            cursor = Cursor.start(key)
        else:
            cursor = self._carried_on()
        self._hold(request.start)
        self._retain([request.start])
        start = Mark(k=0, step=0, snapshot=request.start, train_loss={})
        pending = () if self._ledger.points else (start,)
        return Position(self._ledger.n, cursor, pending, start)

    def _carried_on(self) -> Cursor:
        """Returns the cursor at the end of the roll-out before, with its moments in place."""
        if self._position is None:
            self._position = self._restored()
        if self._position is None or self._position.n != self._ledger.n - 1:
            raise SnapshotError(
                f"{self._settings.crash_path}: the optimizer's state at the end of roll-out "
                f"{self._ledger.n - 1} is gone, and the run keeps it from stage to stage; "
                "start again with --overwrite"
            )
        return self._position.cursor

    def _resumed(self, request: Rollout) -> Position | None:
        """Returns where a killed process had left this roll-out, or None to begin it."""
        if self._position is not None:
            return None
        position = self._restored()
        if position is None or position.n != self._ledger.n:
            return None
        self._position = position
        self._hold(position.latest.snapshot)
        recorded = len(self._ledger.points)
        pending = tuple(mark for mark in position.pending if mark.k >= recorded)
        return replace(position, pending=pending)

    def _restored(self) -> Position | None:
        copy = load_crash_copy(self._settings.crash_path)
        if copy is None:
            return None
        moments, state = copy
        self._trainer.restore_state(moments, state["trainer"])
        return Position.from_json(state["position"])

    def _next_mark(self, request: Rollout, position: Position) -> Position:
        """Trains one mark interval and saves its end."""
        mark, cursor = self._train(request, position)
        started = time.monotonic()
        snapshot = self._store.save(self._trainer.capture())
        self._held = snapshot
        self._check_repeated(mark.k, snapshot)
        mark = replace(mark, snapshot=snapshot, snapshot_seconds=time.monotonic() - started)
        waits = () if mark.k < len(self._ledger.points) else (mark,)
        position = replace(
            position, cursor=cursor, pending=(*position.pending, *waits), latest=mark
        )
        moments, counters = self._trainer.state()
        state = {"position": position.to_json(), "trainer": counters}
        save_crash_copy(self._settings.crash_path, moments, state)
        return position

    def _train(self, request: Rollout, position: Position) -> tuple[Mark, Cursor]:
        settings, latest = self._settings, position.latest
        batches, cursor = interval(
            position.cursor, seed=settings.seed, mixture=request.mixture, clock=settings.clock
        )
        self._held = ""
        started = time.monotonic()
        meter = LossMeter()
        for step, batch in enumerate(batches, start=latest.step + 1):
            meter.add(self._trainer.step(self._examples(batch)))
            self._watch.progress(
                n=position.n, step=step, steps=request.marks[-1], losses=meter.means()
            )
        mark = Mark(
            k=latest.k + 1,
            step=latest.step + len(batches),
            snapshot="",
            train_loss=meter.means(),
            trained_tokens=meter.tokens,
            train_seconds=time.monotonic() - started,
        )
        return mark, cursor

    def _examples(self, batch: Sequence[RowId]) -> list[Example]:
        return [self._tasks[task].train[row] for task, row in batch]

    def _check_repeated(self, k: int, snapshot: str) -> None:
        """Refuses a mark that was trained again, after its crash copy was lost, to other bits."""
        if k < len(self._ledger.points) and self._ledger.points[k].snapshot != snapshot:
            raise SnapshotError(
                f"mark {k} of roll-out {self._ledger.n} gave snapshot {snapshot[:12]} where the "
                f"ledger records {self._ledger.points[k].snapshot[:12]}: this machine, its "
                "number of threads or its library versions compute other bits than those that "
                "began the run; go on where it began, or start again with --overwrite"
            )

    def _evaluate_pending(self, request: Rollout, position: Position) -> Position:
        """Evaluates the marks that wait, in order, and leaves the trainer at the latest one."""
        waited_seconds = self._wait_for_engine("control") if position.pending else 0.0
        for mark in position.pending:
            self._leave_if_asked()
            self._ledger.append(self._mark_row(position.n, mark, waited_seconds))
            waited_seconds = 0.0
            self._tell_notices()
        self._leave_if_asked()
        self._hold(position.latest.snapshot)
        active = request.mixture.tasks
        best = best_point(self._ledger.seen)
        self._retain(
            [
                position.latest.snapshot,
                *live_snapshots(self._ledger.points, active, best),
            ]
        )
        return replace(position, pending=())

    def _tell_notices(self) -> None:
        notices = self._evaluator.notices
        for notice in notices[self._notices_told :]:
            self._watch.say(notice)
        self._notices_told = len(notices)

    def _wait_for_engine(self, split: Split) -> float:
        """Waits until ``split`` can be scored, or the user asks for an end; returns the seconds."""
        started = time.monotonic()
        while not self._evaluator.ready(split):
            self._leave_if_asked()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return time.monotonic() - started

    def _mark_row(self, n: int, mark: Mark, waited_seconds: float) -> Mapping[str, Any]:
        evaluation = self._known(mark.snapshot) or self._measured(mark.snapshot)
        return {
            "kind": "mark",
            "n": n,
            "k": mark.k,
            "step": mark.step,
            "snapshot": mark.snapshot,
            **score_columns(evaluation.scores),
            "train_loss": dict(mark.train_loss),
            "trained_tokens": mark.trained_tokens,
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
            "peak_bytes": self._trainer.peak_bytes(),
        }

    def _known(self, snapshot: str) -> Evaluation | None:
        """Returns the recorded scores of ``snapshot``: a stage starts where another had been."""
        for point in self._ledger.seen:
            if point.snapshot == snapshot:
                return Evaluation(point.scores)
        return None

    def _measured(self, snapshot: str) -> Evaluation:
        self._hold(snapshot)
        return self._evaluator.evaluate("control", self._store.load(snapshot), snapshot)

    def _retain(self, snapshots: Sequence[str]) -> None:
        best = [best_point(self._ledger.seen).snapshot] if self._ledger.seen else []
        self._store.retain({*snapshots, *best})


class LossMeter:
    """Adds up the losses of the steps of one mark interval."""

    def __init__(self) -> None:
        """Starts at zero."""
        self.tokens = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, result: StepResult) -> None:
        """Adds one optimizer step."""
        self.tokens += result.tokens
        for task, loss in result.losses.items():
            self._sums[task] = self._sums.get(task, 0.0) + loss.loss_sum
            self._counts[task] = self._counts.get(task, 0) + loss.tokens

    def means(self) -> dict[str, float]:
        """Returns the mean loss of an answer token per task, tasks in alphabetical order."""
        return {task: self._sums[task] / self._counts[task] for task in sorted(self._sums)}
