"""The append-only record of a run: JSON Lines, one row a line, durable before it is believed.

Resuming is replaying. A method runs again from the top; every request it makes is compared with
the recorded one and answered from the recorded marks until the record runs out. From then on
requests are written down and executed. See docs/format.md for the rows.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from msft_lite.core import Drop, Point, Rollout, RowId, Score, Trace, Verdict
from msft_lite.errors import LedgerError, ReplayMismatch, StorageError, resume_command

Row = Mapping[str, Any]
MEMORY = "memory"  # kind of the rows that tell how a resumed run makes its steps fit
REPLAY = "replay"  # kind of the rows that tell which lost snapshot was trained again
NOTES = (MEMORY, REPLAY)  # which take no part in the replay of the method
DAMAGED = (
    "the ledger is damaged: bring it back from a copy, or keep only the lines before this one, and "
    "a resume trains the rest again"
)


def read_rows(path: Path) -> list[Row]:
    """Returns the complete rows of the ledger at ``path``; a torn last one is left out.

    Raises:
        LedgerError: there is no such file, or a line before the last is not a JSON object with a
            kind.
    """
    return _parse(path, _read_bytes(path)[0])


def _read_bytes(path: Path) -> tuple[bytes, int]:
    """Returns the complete lines and the length of the torn tail behind them.

    A row's pages may reach the disk in any order before it is synced: where the power is cut, a
    last line may have its end and not its beginning. Whatever it told is worked out again.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: cannot read the ledger: {error.strerror}") from None
    end = content.rfind(b"\n") + 1
    last = content.rfind(b"\n", 0, max(0, end - 1)) + 1
    if _row_in(content[last:end]) is None:
        end = last
    return content[:end], len(content) - end


def _row_in(line: bytes) -> Row | None:
    """Returns the row that ``line`` is; None: it is no JSON object with a kind."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast(Row, row) if isinstance(row, dict) and "kind" in row else None


def _parse(path: Path, content: bytes) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if (row := _row_in(line)) is None:
            raise LedgerError(f"{path}, line {number}: not a row: {line[:80]!r}; {DAMAGED}")
        rows.append(row)
    return rows


def rollout_row(n: int, request: Rollout) -> Row:
    """Returns the row that stands for a request."""
    return {
        "kind": "rollout",
        "n": n,
        "start": request.start,
        "tasks": list(request.mixture.tasks),
        "share": {task: str(share) for task, share in request.mixture.share},
        "marks": list(request.marks),
        "fresh": request.fresh,
        "score": request.score,
        "keep": request.keep,
        "audit": request.audit,
        "iid": request.mixture.iid,
        "skip": dict(sorted(Counter(task for task, _ in request.mixture.skip).items())),
        "skip_digest": rows_digest(request.mixture.skip),
    }


def rows_digest(rows: Iterable[RowId]) -> str:
    """Returns what tells one set of training rows from another; empty for no rows."""
    named = sorted(rows)
    return hashlib.sha256(json.dumps(named).encode()).hexdigest() if named else ""


def drop_row(n: int, drop: Drop) -> Row:
    """Returns the row that stands for a decision on the reply to roll-out ``n``."""
    return {
        "kind": "drop",
        "n": n,
        "task": drop.task,
        "peak_mark": drop.peak_mark,
        "rolled_back_to": drop.rolled_back_to,
        "reason": drop.reason,
    }


def score_columns(scores: Mapping[str, Score]) -> Row:
    """Returns the keys ``scores`` and ``outcomes`` of a row: sums and rows, and what they sum."""
    return {
        "scores": {task: [sum(score.rows), score.total] for task, score in scores.items()},
        "outcomes": {
            task: list(score.worth) if score.is_graded else score.outcomes
            for task, score in scores.items()
        },
    }


def score_of(outcomes: str | list[int]) -> Score:
    """Returns the score whose rows `score_columns` wrote: a text, or a list of millionths."""
    return Score(outcomes) if isinstance(outcomes, str) else Score(worth=tuple(outcomes))


def point_of(row: Row) -> Point:
    """Returns the point that a mark row records."""
    outcomes: Mapping[str, str | list[int]] = row["outcomes"]
    return Point(row["k"], row["snapshot"], {t: score_of(rows) for t, rows in outcomes.items()})


class Ledger:
    """An open ledger; also what `msft_lite.run.loop.drive` records to and recalls from.

    Attributes:
        path: the JSON Lines file.
        rows: every row, recorded or new.
        n: number of the roll-out asked for last, counted from 1.
        points: marks recorded so far of roll-out ``n``.
        seen: marks recorded so far of the whole run that the method may return.
        requests: what was asked for so far, recorded or not.
        places: ids of the snapshots at all marks recorded so far, by roll-out and mark.
        audit: the recorded measurement at the end of roll-out ``n``, if there is one.
        torn_bytes: length of what was cut off when it was opened.
    """

    def __init__(self, path: Path, *, on_row: Callable[[Row], None] = lambda _row: None) -> None:
        """Opens or creates the ledger at ``path`` and cuts off a torn last row.

        Args:
            path: the file; its folder exists.
            on_row: called with every row as it is replayed or appended.

        Raises:
            LedgerError: the file is damaged.
            StorageError: it cannot be written.
        """
        self.path = path
        self.rows: list[Row] = []
        self.n = 0
        self.points: list[Point] = []
        self.seen: list[Point] = []
        self.requests: list[Rollout] = []
        self.places: dict[tuple[int, int], str] = {}
        self.audit: Row | None = None
        self._scores: dict[str, Mapping[str, Score]] = {}
        self._replayed = 0
        self._on_row = on_row
        self.torn_bytes = 0
        if path.exists():
            content, self.torn_bytes = _read_bytes(path)
            self.rows = _parse(path, content)
            if self.torn_bytes:
                os.truncate(path, len(content))

    def expect(self, row: Row) -> None:
        """Passes over the next recorded row if it equals ``row``; appends ``row`` at the end.

        Raises:
            ReplayMismatch: another row is recorded here.
        """
        recorded = self._next()
        if recorded is None:
            self.append(row)
        elif dict(recorded) != dict(row):
            raise ReplayMismatch(
                f"{self.path}, line {self._replayed + 1}: the run recorded "
                f"{_difference(recorded, row)}; the recipe or the method has changed since. "
                "Resume with the recipe of the run, or start again with --overwrite"
            )
        else:
            self._pass_over(recorded)

    def append(self, row: Row) -> None:
        """Writes ``row`` durably; when this returns it survives a power cut.

        Raises:
            StorageError: the disk is full, read-only or gone; the ledger is as it was before.
        """
        self._next()
        self._write(row)
        self._pass_over(row)

    def _write(self, row: Row) -> None:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            _append_durably(self.path, line.encode())
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot write a ledger row: {error.strerror}. Nothing is lost; "
                f"mend that and go on with: {resume_command(self.path.parent)}"
            ) from None
        self.rows.append(row)

    def note(self, row: Row) -> None:
        """Writes a row of one of the kinds `NOTES` durably.

        Raises:
            StorageError: as for `append`.
        """
        self._write(row)

    def recall(self, request: Rollout) -> Trace | None:
        """Returns the recorded reply to ``request``; None if it has still to be executed.

        In the second case ``points`` holds the marks that an interrupted run had recorded.

        Raises:
            ReplayMismatch: another request is recorded here.
        """
        self._expect_drops(request.drops)
        self.n += 1
        self.points, self.audit = [], None
        self.requests.append(request)
        self.expect(rollout_row(self.n, request))
        while (row := self._next()) is not None and row["kind"] in ("mark", "audit"):
            self._pass_over(row)
        is_audited = request.audit == "none" or self.audit is not None
        if len(self.points) == len(request.marks) + 1 and is_audited:
            return self.trace()
        return None

    def trace(self) -> Trace:
        """Returns the reply to the latest request from its rows."""
        measured = self.audit or {"before": {}, "after": {}}
        before, after = (
            {task: tuple(rows) for task, rows in cast(dict[str, list[int]], measured[key]).items()}
            for key in ("before", "after")
        )
        return Trace(tuple(self.points), before, after)

    def scores_of(self, snapshot: str) -> Mapping[str, Score]:
        """Returns the recorded scores of ``snapshot`` on the rows that steer, as far as it has."""
        return self._scores.get(snapshot, {})

    def conclude(self, verdict: Verdict) -> None:
        """Records the decisions that came with the verdict."""
        self._expect_drops(verdict.drops)

    def recorded(self, kind: str) -> Row | None:
        """Returns the first row of that kind, or None."""
        return next((row for row in self.rows if row["kind"] == kind), None)

    def _expect_drops(self, drops: Iterable[Drop]) -> None:
        for drop in drops:
            self.expect(drop_row(self.n, drop))

    def _next(self) -> Row | None:
        while self._replayed < len(self.rows):
            row = self.rows[self._replayed]
            if row["kind"] not in NOTES:
                return row
            self._pass_over(row)
        return None

    def _pass_over(self, row: Row) -> None:
        self._replayed += 1
        self._on_row(row)  # first, as it checks the row
        if row["kind"] == "mark":
            point = point_of(row)
            self.points.append(point)
            self.places[row["n"], row["k"]] = point.snapshot
            if point.scores:
                known = self.scores_of(point.snapshot)
                self._scores[point.snapshot] = {**known, **point.scores}
                if self.requests[-1].keep != "none":
                    self.seen.append(point)
        elif row["kind"] == "audit":
            self.audit = row


def _append_durably(path: Path, line: bytes) -> None:
    """Appends ``line`` whole or not at all."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        length = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, length)
            raise
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes new names, renames and removals in ``folder`` durable.

    Raises:
        OSError: the folder is gone or its disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder and say EINVAL; they are still usable.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _difference(recorded: Row, asked: Row) -> str:
    keys = [key for key in {**recorded, **asked} if recorded.get(key) != asked.get(key)]
    return "; ".join(
        f"{key} = {recorded.get(key)!r} where {asked.get(key)!r} is asked for now" for key in keys
    )
