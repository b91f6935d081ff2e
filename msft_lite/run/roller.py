"""Executes one roll-out: train, snapshot at every mark, evaluate as soon as the engine can."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from msft_lite.core import (
    LIVE,
    ROOT,
    Rollout,
    Trace,
    best_point,
    live_snapshots,
    scored_tasks,
)
from msft_lite.data.sampler import Cursor
from msft_lite.errors import DamagedCrashCopy, Interrupted, StorageError, resume_command
from msft_lite.model.weights import Weights
from msft_lite.run.audit import Auditor
from msft_lite.run.evaluator import Evaluation, Split
from msft_lite.run.intervals import Intervals
from msft_lite.run.mark_row import mark_row
from msft_lite.run.parts import Parts, RollerSettings
from msft_lite.run.points import Points
from msft_lite.run.position import NO_STEPS, Mark, Partway, Position
from msft_lite.snapshot.crash import load_crash_copy, save_crash_copy

SECONDS_BETWEEN_LOOKS = 0.2  # at an engine that is starting


class Roller:
    """Turns a `Rollout` into a `Trace` with a trainer, a store and an engine.

    At every mark that is scored, in this order: the weights are saved, the crash copy (moments and
    counters) is replaced, the marks that wait are evaluated and their rows written, and snapshots
    that nobody can ask for any more are removed. Killed anywhere in between, `execute` goes on from
    the crash copy and writes the same rows. Of roll-outs that are not scored nothing is saved: what
    they had trained since the crash copy is trained again. Asked to end, it does so after the step
    in progress, with weights and crash copy saved there, whether scored or not, or in the middle of
    an evaluation, which is repeated.
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
        self._stop = parts.stop
        self._settings = settings
        clock, seed = settings.clock, settings.seed
        self._intervals = Intervals(
            parts.trainer,
            parts.tasks,
            parts.watch,
            clock=clock,
            seed=seed,
            stop_requested=lambda: self._stop.requested,
        )
        self._points = Points(parts, self._intervals, self._leave)
        self._auditor = Auditor(parts.trainer, parts.tasks, seed=seed, batch_rows=clock.batch_rows)
        self._position: Position | None = None
        self._notices_told = 0

    def execute(self, request: Rollout) -> Trace:
        """Runs ``request``, or the rest of it, and returns its scored points.

        Raises:
            MsftError: training, saving or evaluating failed; the run can be resumed from the
                last mark.
            Interrupted: the user asked for an end; what was trained is saved.
        """
        if self._borrowed(request):
            return self._ledger.trace()
        position = self._resumed(request) or self._begun(request)
        self._position = position
        if position.partway and position.latest.k < len(request.marks):
            # At once: weights between two marks are in the trainer alone.
            position = self._position = self._next_mark(request, position)
        if not request.score:  # later the trainer must keep what it holds: it is not saved
            position = self._evaluate_pending(request, position)
        while position.latest.k < len(request.marks):
            self._leave_if_asked()
            if request.score and (self._may_evaluate() or not self._points.has_room()):
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

    def weights(self, snapshot: str) -> Weights:
        """Returns the weights of a snapshot, which is trained again if it is lost.

        Raises:
            SnapshotError: it is lost and cannot be trained again.
            Interrupted: the user asked for an end.
        """
        return self._points.load(snapshot)

    def retain(self, snapshots: Iterable[str]) -> None:
        """Removes all snapshots but these; those that are stored anew may be trained again.

        Raises:
            SnapshotError: one is lost and cannot be trained again.
        """
        self._points.retain(snapshots)
        self._store.settle()

    def newly_written_bytes(self) -> int:
        """Returns the bytes of snapshots that were written since the latest mark was saved."""
        return self._points.newly_written_bytes()

    def _may_evaluate(self) -> bool:
        return self._settings.evaluate_at == "mark" and self._evaluator.ready("control")

    def _leave_if_asked(self) -> None:
        """Leaves where moments and latest mark belong together, weights too if it is not saved."""
        if self._stop.requested:
            self._settle()
            self._leave()

    def _leave(self) -> None:
        if self._stop.requested:
            folder = self._settings.crash_path.parent
            raise Interrupted(f"stopped; go on with: {resume_command(folder)}")

    def _settle(self) -> None:
        """Writes what is in memory alone, and the crash copy that was not kept."""
        position = self._position
        if position is not None and position.latest.snapshot == LIVE:
            self._save_partway(position, position.partway or NO_STEPS)
        elif position is not None and self._settings.in_memory:
            self._store.settle()
            if position.latest.k:
                self._save_crash_copy(position)

    def _begun(self, request: Rollout) -> Position:
        """Returns the start of ``request``, with the trainer set to it."""
        is_fresh = request.fresh
        cursor = self._intervals.renew(request) if is_fresh else self._carried_on(request)
        if request.start != LIVE:
            self._points.hold(request.start)
        self._retain([self._points.anchor if request.start == LIVE else request.start])
        if request.fresh:  # else its moments are not on the disk either
            self._store.settle()
        start = Mark(k=0, step=0, snapshot=request.start, train_loss={})
        pending = () if self._ledger.points else (start,)
        return Position(self._ledger.n, cursor, pending, start)

    def _carried_on(self, request: Rollout) -> Cursor:
        """Returns the cursor at the end of the roll-out before, with its moments in place.

        What was not saved before it is trained again: weights too where ``request`` starts live.
        """
        before = self._ledger.n - 1
        if self._position is None:
            self._position = self._restored()
        if self._position is None or not self._is_end(self._position, before):
            self._position = self._trained_again(self._position, before)
        return self._position.cursor

    def _is_end(self, position: Position, n: int) -> bool:
        marks = self._ledger.requests[n - 1].marks
        return (position.n, position.latest.k) == (n, len(marks))

    def _trained_again(self, saved: Position | None, n: int) -> Position:
        """Returns the end of roll-out ``n``, trained from what is saved or from the last new start.

        Args:
            saved: of the crash copy, if there is one.
            n: number of a roll-out.
        """
        requests = self._ledger.requests
        first = self._points.fresh_start(n)
        if saved and (saved.n < first or not self._is_end(saved, saved.n)):
            saved = None
        self._watch.say(
            f"the end of roll-out {n} was not saved: it is trained again from the "
            + (f"end of roll-out {saved.n}" if saved else "last new optimizer")
        )
        return self._points.trained_again(n, len(requests[n - 1].marks), after=saved)

    def _resumed(self, request: Rollout) -> Position | None:
        """Returns where a killed process had left this roll-out, or None to begin it."""
        if self._position is not None:
            return None
        position = self._restored()
        if position is None or position.n != self._ledger.n:
            return None
        self._position = position
        self._points.hold(position.snapshot)
        recorded = len(self._ledger.points)
        pending = tuple(mark for mark in position.pending if mark.k >= recorded)
        return replace(position, pending=pending)

    def _restored(self) -> Position | None:
        """Returns where the crash copy stands, with its moments in place; None: it is of no use.

        Its weights are in place, too, where they are of no mark.

        Raises:
            SnapshotError: it is of another format.
        """
        path = self._settings.crash_path
        try:
            copy = load_crash_copy(path)
            if copy is None:
                return None
            moments, state = copy
            position, counters = Position.from_json(state["position"]), dict(state["trainer"])
        except DamagedCrashCopy as error:
            return self._without(str(error))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return self._without(f"{path}: it does not say where a run stands ({error!r})")
        recorded = (self._ledger.n, len(self._ledger.points))
        if (position.n, position.first_unrecorded) > recorded:
            return self._without(
                f"{path}: of a later moment than the ledger, as where a folder was copied while "
                "the run worked"
            )
        self._trainer.restore_state(moments, counters)
        self._points.know(position.n, (*position.pending, position.latest))
        if position.partway and (problem := self._points.hold_partway(position.snapshot)):
            return self._without(problem)
        self._points.anchor = position.snapshot
        return position

    def _without(self, problem: str) -> None:
        """Tells why the crash copy is of no use, and what follows; returns nothing in its place."""
        self._watch.say(f"{problem}; what was trained since the last new optimizer is repeated")

    def _next_mark(self, request: Rollout, position: Position) -> Position:
        """Trains one mark interval and, if it is to be scored, saves its end.

        Raises:
            Interrupted: the user asked for an end; the steps until then are saved.
        """
        position = self._points.train(request, position)
        if position.partway:
            self._save_partway(position, position.partway)
            self._leave()
        mark = position.latest
        if request.score:
            near = request.start if request.keep == "peaks" else ROOT
            mark = self._points.save(position.n, mark, near=near)
        waits = () if mark.k < len(self._ledger.points) else (mark,)
        position = replace(position, pending=(*position.pending, *waits), latest=mark)
        if request.score and not self._settings.in_memory:
            self._save_crash_copy(position)
        return position

    def _save_partway(self, position: Position, partway: Partway) -> None:
        """Saves the steps since the latest mark, if there is room for them."""
        try:
            if self._points.has_room():
                snapshot = self._points.save_partway()
                self._store.settle()
                partway = replace(partway, snapshot=snapshot)
                self._save_crash_copy(replace(position, partway=partway))
                return
            why = "there is no room for them"
        except StorageError as error:
            why = str(error)
        self._watch.say(f"the steps since the last mark are not saved and will be repeated: {why}")

    def _save_crash_copy(self, position: Position) -> None:
        moments, counters = self._trainer.state()
        state = {"position": position.to_json(), "trainer": counters}
        save_crash_copy(self._settings.crash_path, moments, state)
        self._points.anchor = position.snapshot

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
            self._points.hold(position.latest.snapshot)
            scored = [point for point in self._ledger.points if point.scores]
            best = best_point(self._ledger.seen) if self._ledger.seen else None
            alive = live_snapshots(scored, request, best)
            self._retain([self._points.anchor, position.latest.snapshot, *alive])
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
        has_copy = mark.k and mark.snapshot != LIVE and not self._settings.in_memory
        return {
            **row,
            "written_bytes": mark.snapshot_bytes + (crash_bytes if has_copy else 0),
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
        weights = self._points.held(snapshot)
        try:
            with self._stop.raising():
                return self._evaluator.evaluate(split, weights, snapshot, tasks)
        except KeyboardInterrupt:
            self._leave_if_asked()
            raise
        finally:
            self._tell_notices()

    def _retain(self, snapshots: Sequence[str]) -> None:
        best = [best_point(self._ledger.seen).snapshot] if self._ledger.seen else []
        self._points.retain({*snapshots, *best})
