"""Executes one roll-out: train, snapshot at every mark, evaluate as soon as the engine can."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from msft_lite.core import (
    LIVE,
    ROOT,
    Clock,
    Rollout,
    RowId,
    Trace,
    best_point,
    live_snapshots,
    scored_tasks,
)
from msft_lite.data.sampler import Cursor, draw
from msft_lite.data.task import Example, Task
from msft_lite.errors import Interrupted, SnapshotError
from msft_lite.ledger import Ledger, rows_digest
from msft_lite.report.live import Watcher
from msft_lite.run.audit import Auditor
from msft_lite.run.evaluator import Evaluation, Evaluator, Split
from msft_lite.run.lending import Lender
from msft_lite.run.mark_row import LossMeter, mark_row
from msft_lite.run.position import Mark, Position
from msft_lite.snapshot.crash import load_crash_copy, save_crash_copy
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.train.trainer import Trainer

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
    lender: Lender


@dataclass(frozen=True, slots=True)
class RollerSettings:
    """Settings of a `Roller`.

    Attributes:
        clock: sizes of the tasks and length of an epoch.
        seed: of the data order.
        crash_path: where the one crash copy lives.
        evaluate_at: ``mark`` evaluates every mark as soon as the engine is up, ``end`` all marks
            when the roll-out has been trained. The scores are the same.
        dropped_every: at how many marks tasks outside the mixture are scored, see `scored_tasks`.
    """

    clock: Clock
    seed: int
    crash_path: Path
    evaluate_at: Literal["mark", "end"] = "mark"
    dropped_every: int = 1


def order_key(request: Rollout) -> str:
    """Returns the name of a fresh roll-out's data order and dropout masks.

    It depends on the request alone, so that training from a snapshot is the same whatever ran
    before it.
    """
    mixture = request.mixture
    named = (request.start, [(task, str(share)) for task, share in mixture.share])
    special = (rows_digest(mixture.skip), mixture.iid)
    text = repr(named) if special == ("", False) else repr((*named, *special))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Roller:
    """Turns a `Rollout` into a `Trace` with a trainer, a store and an engine.

    At every mark that is scored, in this order: the weights are saved, the crash copy (moments and
    counters) is replaced, the marks that wait are evaluated and their rows written, and snapshots
    that nobody can ask for any more are removed. Killed anywhere in between, `execute` goes on from
    the crash copy and writes the same rows. Of roll-outs that are not scored nothing is saved: what
    they had trained since the crash copy is trained again.
    """

    def __init__(self, parts: Parts, settings: RollerSettings) -> None:
        """Takes the parts; nothing is touched before `execute`."""
        self._trainer = parts.trainer
        self._store = parts.store
        self._evaluator = parts.evaluator
        self._ledger = parts.ledger
        self._tasks = parts.tasks
        self._watch = parts.watch
        self._lender = parts.lender
        self._stop_requested = parts.stop_requested
        self._settings = settings
        self._auditor = Auditor(
            parts.trainer, parts.tasks, seed=settings.seed, batch_rows=settings.clock.batch_rows
        )
        self._position: Position | None = None
        self._held = ""  # id of the snapshot whose weights the trainer holds, if it is saved
        self._saved = ""  # id of the snapshot that the crash copy belongs to
        self._notices_told = 0

    def execute(self, request: Rollout) -> Trace:
        """Runs ``request``, or the rest of it, and returns its scored points.

        Raises:
            MsftError: training, saving or evaluating failed; the run can be resumed from the
                last mark.
            Interrupted: the user asked for an end; the last mark is saved.
        """
        if self._borrowed(request):
            return self._ledger.trace()
        position = self._resumed(request) or self._begun(request)
        self._position = position
        if not request.score:  # later the trainer must keep what it holds: it is not saved
            position = self._evaluate_pending(request, position)
        while position.latest.k < len(request.marks):
            self._leave_if_asked()
            if request.score and self._may_evaluate():
                position = self._evaluate_pending(request, position)
            position = self._position = self._next_mark(request, position)
        self._position = self._evaluate_pending(request, position)
        if request.audit != "none" and self._ledger.audit is None:
            self._ledger.append(self._auditor.row(position.n, request, position.cursor.key))
        return self._ledger.trace()

    def _borrowed(self, request: Rollout) -> bool:
        """Records an equal roll-out of another run as this one's; returns whether there is one."""
        rows, own = self._lender.marks(request), self._ledger.points
        if not rows or any(a.snapshot != b["snapshot"] for a, b in zip(own, rows, strict=False)):
            return False
        for row in rows[len(own) :]:
            self._ledger.append({**row, "n": self._ledger.n})
        return True

    def report(self, snapshot: str) -> Evaluation:
        """Returns the scores of ``snapshot`` on the report rows.

        Raises:
            Interrupted: the user asked for an end.
        """
        self._wait_for_engine("report")
        self._leave_if_asked()
        return self._measured("report", snapshot, self._tasks)

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
        cursor = self._renewed(request) if request.fresh else self._carried_on(request)
        if request.start != LIVE:
            self._hold(request.start)
        self._retain([self._saved if request.start == LIVE else request.start])
        start = Mark(k=0, step=0, snapshot=request.start, train_loss={})
        pending = () if self._ledger.points else (start,)
        return Position(self._ledger.n, cursor, pending, start)

    def _renewed(self, request: Rollout) -> Cursor:
        """Returns the start of a new data order, with a new optimizer in place."""
        key = order_key(request)
        self._trainer.renew(key)
        return Cursor.start(key)

    def _carried_on(self, request: Rollout) -> Cursor:
        """Returns the cursor at the end of the roll-out before, with its moments in place."""
        before = self._ledger.n - 1
        if self._position is None:
            self._position = self._restored()
            if request.start == LIVE:
                self._position = self._trained_again(self._position, until=before)
        if self._position is None or self._position.n != before:
            raise SnapshotError(
                f"{self._settings.crash_path}: the optimizer's state at the end of roll-out "
                f"{before} is gone, and the run keeps it from stage to stage; "
                "start again with --overwrite"
            )
        return self._position.cursor

    def _trained_again(self, position: Position | None, *, until: int) -> Position:
        """Returns the end of roll-out ``until``, with what was not saved before it trained anew.

        Args:
            position: of the crash copy, which belongs to the end of a roll-out that was scored;
                None where there is none, since no mark was saved after the fresh start.
            until: number of a roll-out; between it and ``position`` none was scored.
        """
        if position is not None:
            self._hold(position.latest.snapshot)
            first = position.n + 1
        else:
            first = max(n for n in range(1, until + 1) if self._ledger.requests[n - 1].fresh)
        for n in range(first, until + 1):
            request = self._ledger.requests[n - 1]
            if position is None:
                cursor = self._renewed(request)
                self._hold(request.start)
            else:
                cursor = position.cursor
            position = Position(n, cursor, (), Mark(0, 0, request.start, {}))
            while position.latest.k < len(request.marks):
                mark, cursor = self._train(request, position)
                position = replace(position, cursor=cursor, latest=replace(mark, snapshot=LIVE))
        assert position is not None, "the first roll-out of a method is fresh"
        return position

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
        position = Position.from_json(state["position"])
        self._saved = position.latest.snapshot
        return position

    def _next_mark(self, request: Rollout, position: Position) -> Position:
        """Trains one mark interval and, if it is to be scored, saves its end."""
        mark, cursor = self._train(request, position)
        if request.score:
            mark = self._save(mark, near=request.start if request.keep == "peaks" else ROOT)
        waits = () if mark.k < len(self._ledger.points) else (mark,)
        position = replace(
            position, cursor=cursor, pending=(*position.pending, *waits), latest=mark
        )
        if request.score:
            moments, counters = self._trainer.state()
            state = {"position": position.to_json(), "trainer": counters}
            save_crash_copy(self._settings.crash_path, moments, state)
            self._saved = mark.snapshot
        return position

    def _save(self, mark: Mark, *, near: str) -> Mark:
        """Saves the trainer's weights as ``mark``, near a snapshot that stays as long as it may."""
        started = time.monotonic()
        snapshot = self._store.save(self._trainer.capture(), near=near)
        self._held = snapshot
        self._check_repeated(mark.k, snapshot)
        return replace(
            mark,
            snapshot=snapshot,
            snapshot_seconds=time.monotonic() - started,
            snapshot_bytes=self._store.size_bytes(snapshot),
        )

    def _train(self, request: Rollout, position: Position) -> tuple[Mark, Cursor]:
        settings, latest = self._settings, position.latest
        steps = request.marks[latest.k] - latest.step
        batches, cursor = draw(
            position.cursor,
            steps,
            seed=settings.seed,
            mixture=request.mixture,
            clock=settings.clock,
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
            snapshot=LIVE,
            train_loss=meter.means(),
            work=meter.work,
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
                "number of threads, its library versions or other rows in a pass give other bits "
                "than those that began the run; go on as it began, or start again with --overwrite"
            )

    def _evaluate_pending(self, request: Rollout, position: Position) -> Position:
        """Evaluates the marks that wait, in order, and leaves the trainer at the latest one."""
        is_saved = any(mark.snapshot != LIVE for mark in position.pending)
        waited_seconds = self._wait_for_engine("control") if is_saved else 0.0
        for mark in position.pending:
            self._leave_if_asked()
            asked = scored_tasks(
                request, mark.k, self._tasks, dropped_every=self._settings.dropped_every
            )
            self._ledger.append(self._mark_row(position.n, mark, asked, waited_seconds))
            waited_seconds = 0.0
        self._leave_if_asked()
        if position.latest.snapshot != LIVE:
            self._hold(position.latest.snapshot)
            scored = [point for point in self._ledger.points if point.scores]
            best = best_point(self._ledger.seen) if self._ledger.seen else None
            alive = live_snapshots(scored, request, best)
            self._retain([position.latest.snapshot, *alive])
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

    def _mark_row(
        self, n: int, mark: Mark, asked: Sequence[str], waited_seconds: float
    ) -> Mapping[str, Any]:
        is_new = not self._ledger.scores_of(mark.snapshot)
        if mark.snapshot == ROOT and is_new and (base := self._lender.base()):
            return {**base, "n": n}
        evaluation = Evaluation({}) if mark.snapshot == LIVE else self._scored(mark.snapshot, asked)
        row = mark_row(n, mark, evaluation, waited_seconds=waited_seconds)
        crash_path = self._settings.crash_path
        crash_bytes = crash_path.stat().st_size if crash_path.exists() else 0
        return {
            **row,
            "written_bytes": mark.snapshot_bytes and mark.snapshot_bytes + crash_bytes,
            "disk_bytes": self._store.alive_bytes() + crash_bytes,
            "peak_bytes": self._trainer.peak_bytes(),
        }

    def _scored(self, snapshot: str, asked: Sequence[str]) -> Evaluation:
        """Returns the scores of ``snapshot``; only what is not recorded of them is measured.

        A stage starts where another had been, whose start or end may have had fewer tasks scored.
        """
        known = self._ledger.scores_of(snapshot)
        missing = [task for task in asked if task not in known]
        found = self._measured("control", snapshot, missing) if missing else Evaluation({})
        scores = {**known, **found.scores}
        return replace(found, scores={task: scores[task] for task in asked})

    def _measured(self, split: Split, snapshot: str, tasks: Collection[str]) -> Evaluation:
        self._hold(snapshot)
        try:
            weights = self._store.load(snapshot)
            return self._evaluator.evaluate(split, weights, snapshot, tasks)
        finally:
            self._tell_notices()

    def _retain(self, snapshots: Sequence[str]) -> None:
        best = [best_point(self._ledger.seen).snapshot] if self._ledger.seen else []
        self._store.retain({*snapshots, *best})
