"""Work that runs of one comparison share: what one has recorded, another need not do again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msft_lite.core import ROOT, Rollout
from msft_lite.errors import LedgerError
from msft_lite.ledger import MEMORY, Row, read_rows, rollout_row
from msft_lite.run.folder import RunFolder

# Start rows that agree on these are of runs that compute the same numbers for the same request.
SAME = (
    "setting", "seed", "signal", "steer_on", "tasks", "data", "base", "trainable", "device",
    "dtype", "engine", "threads", "versions", "loss_kernel",
    "marks_per_epoch", "batch_rows", "memory",
)  # fmt: skip
ASKED = ("start", "share", "marks", "fresh", "score", "iid", "skip_digest")


class Lender:
    """The recorded rows of earlier runs, for a run that would compute the same ones.

    A row that is taken over tells whose it was; what it cost counts for the borrower as well.
    """

    def __init__(self, folders: Iterable[Path], start: Row) -> None:
        """Takes the finished runs of ``folders`` that ``start``, the borrower's start row, fits."""
        ledgers = [(folder, _finished(folder)) for folder in folders]
        self._runs = [
            (_name(folder), rows)
            for folder, rows in ledgers
            if rows and all(rows[0].get(key) == start.get(key) for key in SAME)
        ]

    def marks(self, request: Rollout) -> Sequence[Row]:
        """Returns the mark rows of an equal roll-out whose snapshots nobody asks for, or none."""
        if request.keep != "none" or request.audit != "none":
            return ()
        asked = rollout_row(0, request)
        for name, rows in self._runs:
            for row in rows:
                if row["kind"] == "rollout" and all(row[key] == asked[key] for key in ASKED):
                    return [
                        {**m, "shared": m.get("shared") or name} for m in _marks(rows, row["n"])
                    ]
        return ()

    def base(self) -> Row | None:
        """Returns the row in which the untouched base was scored, if there is one."""
        for name, rows in self._runs:
            for row in rows:
                if row["kind"] == "mark" and row["snapshot"] == ROOT:
                    return _shared(row, name)
        return None


def _name(folder: Path) -> str:
    """Returns what tells a run of a comparison from the others: its folder and the one above."""
    return f"{folder.parent.name}/{folder.name}"


def _shared(row: Row, name: str) -> Row:
    return {**row, "shared": row.get("shared") or name}


def _marks(rows: Sequence[Row], n: int) -> list[Row]:
    return [row for row in rows if row["kind"] == "mark" and row["n"] == n]


def _finished(folder: Path) -> list[Row]:
    """Returns the rows of a finished run whose bits are those of its start row, or none."""
    try:
        rows = read_rows(RunFolder(folder).ledger)
    except LedgerError:
        return []
    kinds = [row["kind"] for row in rows]
    return rows if kinds[-1:] == ["finish"] and MEMORY not in kinds else []
