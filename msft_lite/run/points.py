"""The stored points of a run; one that is lost is trained again, to the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from msft_lite.core import LIVE, ROOT, Rollout
from msft_lite.errors import LostSnapshot, SnapshotError, StorageError, resume_command
from msft_lite.ledger import REPLAY
from msft_lite.model.weights import Weights
from msft_lite.report.wording import counted
from msft_lite.run.disk import KEY
from msft_lite.run.intervals import Intervals
from msft_lite.run.parts import Parts
from msft_lite.run.position import Mark, Place, Position
from msft_lite.snapshot.codec import snapshot_id


class Points:
    """Saves and loads the points of a run and knows which one the trainer holds.

    Training is a function of a roll-out's start, its rows and its moments, so a point whose file is
    missing or damaged is computed once more: from the last roll-out that began with a new
    optimizer, with its start trained again, too, if that is lost. The way leads back to the base,
    which is never lost.
    """

    def __init__(
        self, parts: Parts, intervals: Intervals, leave_if_asked: Callable[[], None]
    ) -> None:
        """Takes the parts; nothing is touched.

        Args:
            parts: of the run.
            intervals: trains with the trainer of ``parts``.
            leave_if_asked: called before and after every interval that is trained again.
        """
        self._trainer = parts.trainer
        self._store = parts.store
        self._ledger = parts.ledger
        self._watch = parts.watch
        self._room = parts.room
        self._intervals = intervals
        self._leave_if_asked = leave_if_asked
        self._held = ""  # id of the snapshot whose weights the trainer holds, if it is saved
        self.anchor = ""  # id of the snapshot that the crash copy belongs to, if there is one
        self._unrecorded: dict[Place, str] = {}  # marks that the ledger does not have yet
        self._told_bytes = 0  # of those that the store wrote, what marks have told

    def hold(self, identity: str) -> None:
        """Makes the trainer hold the weights of a snapshot; its moments stay.

        Raises:
            SnapshotError: it is lost and cannot be trained again.
        """
        if identity != self._held:
            self.held(identity)

    def held(self, identity: str) -> Weights:
        """Returns the weights of a snapshot, which the trainer then holds; its moments stay.

        Raises:
            SnapshotError: it is lost and cannot be trained again.
        """
        if identity == self._held:
            return self._trainer.capture()  # the same bits, without reading and decoding a file
        weights = self.load(identity)
        self._trainer.load(weights)
        self._held = identity
        return weights

    def load(self, identity: str) -> Weights:
        """Returns the weights of a snapshot; if it is lost, it is trained again and saved.

        Where it has to be trained, the trainer holds it afterwards; its moments stay.

        Raises:
            SnapshotError: it is lost and cannot be trained again.
            Interrupted: the user asked for an end.
        """
        try:
            return self._store.load(identity)
        except LostSnapshot as error:
            return self._recovered(error)

    def train(self, request: Rollout, position: Position) -> Position:
        """Returns the next mark of ``request``, or steps towards it, not yet saved.

        See `Intervals.train`.
        """
        self._held = ""
        return self._intervals.train(request, position)

    def save(self, n: int, mark: Mark, *, near: str) -> Mark:
        """Saves the trainer's weights as ``mark`` of roll-out ``n``.

        Args:
            n: number of the roll-out.
            mark: as it was trained.
            near: id of a snapshot that stays as long as it may.

        Raises:
            SnapshotError: the mark is on record with other weights.
        """
        started = time.monotonic()
        self._make_room()
        near = ROOT if self._room else near  # so that any snapshot can go without another
        identity = self._store.save(self._trainer.capture(), near=near)
        self._held = identity
        self._check((n, mark.k), identity)
        mark = replace(
            mark,
            snapshot=identity,
            snapshot_seconds=time.monotonic() - started,
            snapshot_bytes=self.newly_written_bytes(),
        )
        self.know(n, [mark])
        return mark

    def save_partway(self) -> str:
        """Saves the trainer's weights, between two marks, and returns their id."""
        self._held = self._store.save(self._trainer.capture())
        return self._held

    def hold_partway(self, identity: str) -> str:
        """Makes the trainer hold what `save_partway` saved; returns why it cannot, if so."""
        try:
            self._trainer.load(self._store.load(identity))
        except LostSnapshot as error:
            return error.problem
        self._held = identity
        return ""

    def newly_written_bytes(self) -> int:
        """Returns the bytes of snapshots that were written since this was asked last."""
        before, self._told_bytes = self._told_bytes, self._store.written_bytes
        return self._told_bytes - before

    def know(self, n: int, marks: Iterable[Mark]) -> None:
        """Takes note of saved marks of roll-out ``n`` that the ledger may not have yet."""
        self._unrecorded.update({(n, mark.k): mark.snapshot for mark in marks})

    def retain(self, identities: Iterable[str]) -> None:
        """Removes all snapshots but these; the trainer holds what it held.

        Raises:
            SnapshotError: one that has to be stored anew is lost and cannot be trained again.
        """
        kept, mended = set(identities), set[str]()
        while True:
            try:
                self._store.retain(kept)
                return
            except LostSnapshot as error:
                if error.identity in mended:
                    raise SnapshotError(str(error)) from error
                mended.add(error.identity)
                weights, held = self._trainer.capture(), self._held
                self._recovered(error)
                self._trainer.load(weights)
                self._held = held

    def trained_again(self, n: int, k: int, *, after: Position | None = None) -> Position:
        """Returns mark ``k`` of roll-out ``n``, trained again; the trainer is left there.

        Args:
            n: number of a roll-out that was asked for.
            k: a mark of it.
            after: the end of an earlier roll-out, its moments in the trainer, to go on from; None
                begins with the last one that had a new optimizer.

        Raises:
            SnapshotError: a mark comes out with other weights than the recorded ones.
        """
        requests, position = self._ledger.requests, after
        first = self.fresh_start(n) if after is None else after.n + 1
        branches = {request.start for request in requests[first:n]}
        if after is not None:
            self.hold(after.snapshot)
        for at in range(first, n + 1):
            request = requests[at - 1]
            cursor = self._intervals.renew(request) if position is None else position.cursor
            if request.start != LIVE:
                self.hold(request.start)
            position = Position(at, cursor, (), Mark(0, 0, request.start, {}))
            for _ in range(k if at == n else len(request.marks)):
                self._leave_if_asked()
                position = self.train(request, position)
                self._leave_if_asked()  # the interval may have ended early, for that reason alone
                position = self._passed(request, position, branches)
        assert position is not None, "the first roll-out of a method is fresh"
        return position

    def fresh_start(self, n: int) -> int:
        """Returns the last roll-out up to ``n`` that began with a new optimizer."""
        return max(at for at in range(1, n + 1) if self._ledger.requests[at - 1].fresh)

    def _passed(self, request: Rollout, position: Position, branches: Collection[str]) -> Position:
        """Compares a mark that was trained again with its record.

        It is saved if it is one of ``branches``, from which a later roll-out goes on, and that one
        would not find it in the trainer.
        """
        if not request.score:
            return position
        weights, k = self._trainer.capture(), position.latest.k
        identity = snapshot_id(weights)
        self._check((position.n, k), identity)
        if identity in branches and k < len(request.marks):
            self._make_room()
            self._store.save(weights)
        self._held = identity
        return replace(position, latest=replace(position.latest, snapshot=identity))

    def _recovered(self, error: LostSnapshot) -> Weights:
        """Returns a lost snapshot's weights, saved anew.

        Raises:
            SnapshotError: they cannot be had again.
        """
        identity = error.identity
        place = self._place_of(identity)
        if place is None:
            raise SnapshotError(str(error)) from error
        if identity != self._held:
            self._replay(identity, place, self._why(error))
        weights = self._trainer.capture()
        self._make_room(identity)
        self._store.restore(identity, weights)
        return weights

    def _why(self, error: LostSnapshot) -> str:
        if self._room is None or error.identity in self._store.stored():
            return error.problem
        return f"snapshot {error.identity[:12]} was not kept, for {KEY}"

    def _replay(self, identity: str, place: Place, problem: str) -> None:
        """Trains a lost snapshot again and leaves it in the trainer, whose moments stay."""
        n, k = place
        steps = self._steps_to(place)
        self._watch.say(
            f"{problem}; mark {k} of roll-out {n} is trained again from the start of roll-out "
            f"{self.fresh_start(n)}: {counted(steps, 'step')}"
        )
        started, moments = time.monotonic(), self._trainer.state()
        try:
            self.trained_again(n, k)
        except SnapshotError as error:
            raise SnapshotError(f"{problem}; it was to be trained again, but {error}") from error
        finally:
            self._trainer.restore_state(*moments)
        seconds = time.monotonic() - started
        self._ledger.note(
            {
                "kind": REPLAY,
                "n": n,
                "k": k,
                "snapshot": identity,
                "reason": problem,
                "steps": steps,
                "seconds": {"replay": seconds},
            }
        )
        self._watch.say(f"snapshot {identity[:12]} is as it was, after {seconds:.1f} s")

    def _steps_to(self, place: Place) -> int:
        """Returns the optimizer steps from the last new optimizer to a mark."""
        n, k = place
        requests = self._ledger.requests
        before = (requests[at - 1].marks[-1] for at in range(self.fresh_start(n), n))
        return sum(before) + requests[n - 1].marks[k - 1]

    def has_room(self) -> bool:
        """Returns whether one more mark can be saved with all that is stored."""
        return self._room is None or not self._room.is_short()

    def _make_room(self, *kept: str) -> None:
        """Removes snapshots until one more fits: those first that take the fewest steps.

        The latest mark's and ``kept`` stay; the start of the roll-out goes last, as all of its
        marks would have to be trained from there.

        Raises:
            StorageError: what must stay leaves no room.
        """
        while self._room is not None and self._room.is_short():
            stored = set(self._store.stored())
            found = [(self._price(one), one) for one in stored - {self.anchor, *kept}]
            if not found:
                raise StorageError(
                    f"{KEY} = {self._room.max_bytes}: what must be stored at least leaves no room "
                    f"for a mark; set it higher: {resume_command(self._room.folder)} {KEY}=BYTES"
                )
            (_, steps), cheapest = min(found)
            self._store.drop(cheapest)
            self._watch.say(
                f"{KEY}: snapshot {cheapest[:12]} is not kept; if it is asked for, it is trained "
                f"again in {counted(steps, 'step')}"
            )

    def _price(self, identity: str) -> tuple[bool, int]:
        """Returns whether a snapshot is the start of the roll-out, and the steps to it."""
        place = self._place_of(identity)
        is_start = identity == self._ledger.requests[-1].start
        return is_start, self._steps_to(place) if place else 0

    def _place_of(self, identity: str) -> Place | None:
        """Returns the first mark with that snapshot at the end of a trained interval."""
        every = {**self._unrecorded, **self._ledger.places}
        return min((p for p, found in every.items() if found == identity and p[1]), default=None)

    def _check(self, place: Place, identity: str) -> None:
        """Refuses a mark that was trained again to other bits."""
        recorded = self._ledger.places.get(place, self._unrecorded.get(place, identity))
        if recorded != identity:
            raise SnapshotError(
                f"mark {place[1]} of roll-out {place[0]} gave snapshot {identity[:12]} where the "
                f"ledger records {recorded[:12]}: this machine, its number of threads, its "
                "library versions or other rows in a pass give other bits than those that began "
                "the run; go on as it began, or start again with --overwrite"
            )
