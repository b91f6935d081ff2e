"""What lies in a run's folder of snapshots: where each comes from, and what keeps it there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from msft_lite.core import ROOT, Trace, best_point
from msft_lite.errors import (
    LedgerError,
    LostSnapshot,
    ModelError,
    OutputFolderError,
    SnapshotError,
)
from msft_lite.ledger import Row, point_of, read_rows
from msft_lite.model.folder import base_folder
from msft_lite.recipe import Recipe
from msft_lite.report.telling import tell
from msft_lite.report.wording import short_place
from msft_lite.run.folder import RunFolder
from msft_lite.run.position import Position
from msft_lite.run.resuming import load_run, trains_again
from msft_lite.snapshot.base import BaseFiles
from msft_lite.snapshot.crash import load_crash_copy, told_state
from msft_lite.snapshot.store import SnapshotStore

PARTWAY = "where the run was asked to end"


@dataclass(frozen=True, slots=True)
class Item:
    """A stored snapshot.

    Attributes:
        place: where the run recorded it first, as ``r2 m5``; a dash where it did not.
        parent: id of what it is stored against, ``root`` for the base, empty if it is whole; None
            where its file is too damaged to tell.
        held_by: what it may still be needed for; nothing if the run removes it at its next mark.
    """

    identity: str
    place: str
    parent: str | None
    size_bytes: int
    held_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """The snapshots of a run, each behind its parent, and the crash copy."""

    items: tuple[Item, ...]
    crash_copy_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return self.crash_copy_bytes + sum(item.size_bytes for item in self.items)


def inventory(folder: Path) -> Inventory:
    """Returns what is stored of the run in ``folder``; nothing is changed, so it may be running.

    Raises:
        OutputFolderError: there is no run.
        LedgerError: its ledger is damaged.
    """
    place = RunFolder(folder)
    if not place.ledger.exists():
        raise OutputFolderError(f"{folder} holds no run: no {place.ledger.name}")
    rows = read_rows(place.ledger)
    story = tell(rows, source=str(place.ledger))
    stored = SnapshotStore(place.snapshots, root=_no_root, reads_only=True).stored()
    held: dict[str, list[str]] = defaultdict(list)
    for identity, reasons in _needed(place, rows).items():
        held[identity] += reasons
    for identity, found in stored.items():
        if found.parent is not None and found.parent not in ("", ROOT):
            held[found.parent].append(f"parent of {identity[:12]}")
    items = [
        Item(
            identity,
            short_place(story.mark_of(identity)),
            found.parent,
            found.size_bytes,
            tuple(held[identity]),
        )
        for identity, found in stored.items()
    ]
    crash = place.crash_copy
    return Inventory(_behind_parents(items), crash.stat().st_size if crash.exists() else 0)


def verified(folder: Path) -> Mapping[str, str]:
    """Reads every snapshot and the crash copy of a run; returns what is wrong with each, or "".

    A snapshot that is needed and not there is among them, unless the recipe lets it be left out.

    Raises:
        OutputFolderError: there is no run, or it is running.
        MsftError: its recipe or the base model cannot be read.
    """
    place = RunFolder(folder)
    recipe = load_run(folder)
    with place.kept_still():
        store = _store(recipe, place.snapshots)
        found = {name: _problem(partial(store.load, name)) for name in store.stored()}
        if not trains_again(recipe):
            needed = _needed(place, read_rows(place.ledger))
            found |= {name: _missing(name, needed[name]) for name in needed.keys() - found.keys()}
            found.pop(ROOT, None)
        if place.crash_copy.exists():
            found[place.crash_copy.name] = _problem(
                partial(load_crash_copy, place.crash_copy, reads_only=True)
            )
    return found


def is_finished(folder: Path) -> bool:
    """Returns whether the run in ``folder`` came to its end."""
    return [row["kind"] for row in read_rows(RunFolder(folder).ledger)][-1:] == ["finish"]


def holders(rows: Sequence[Row], *, source: str = "ledger.jsonl") -> Mapping[str, Sequence[str]]:
    """Returns what each snapshot may still be needed for, from the rows of a ledger.

    The rule is that of `core.live_snapshots`.

    Args:
        rows: of the ledger.
        source: begins the message.

    Raises:
        LedgerError: a row is damaged.
    """
    try:
        return _holders(rows)
    except (AttributeError, LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise LedgerError(
            f"{source}: a row is damaged ({type(error).__name__}); start again with --overwrite"
        ) from error


def _holders(rows: Sequence[Row]) -> Mapping[str, Sequence[str]]:
    held: dict[str, list[str]] = defaultdict(list)
    if rows and rows[-1]["kind"] == "finish":
        held[rows[-1]["snapshot"]].append("the result")
        return held
    marks: list[Row] = []
    request: Row = {}
    seen: list[Row] = []
    for row in rows:
        if row["kind"] == "rollout":
            request, marks = row, []
        elif row["kind"] == "mark":
            marks.append(row)
            if row["outcomes"] and request.get("keep") != "none":
                seen.append(row)
    if marks:
        held[marks[-1]["snapshot"]].append("the latest mark")
    if seen:
        held[best_point([point_of(row) for row in seen]).snapshot].append("the best mean")
    scored = tuple(point_of(row) for row in marks if row["outcomes"])
    if request.get("keep", "peaks") == "peaks" and scored:
        held[scored[0].snapshot].append("the start of the stage")
        for task in request["tasks"] if len(scored) > 1 else ():
            peak = Trace(scored).peak(task, start_counts=False)
            held[peak.snapshot].append(f"the peak of {task}")
    return held


def _needed(place: RunFolder, rows: Sequence[Row]) -> Mapping[str, Sequence[str]]:
    """Returns what `holders` does, and the weights between two marks that a resume goes on from."""
    needed = dict(holders(rows, source=str(place.ledger)))
    try:
        position = Position.from_json(told_state(place.crash_copy)["position"])
    except (AttributeError, LookupError, TypeError):  # there is none, or it is damaged
        return needed
    if position.partway:
        needed[position.snapshot] = [*needed.get(position.snapshot, ()), PARTWAY]
    return needed


def _missing(identity: str, reasons: Sequence[str]) -> str:
    return f"snapshot {identity[:12]}: missing, {'; '.join(reasons)}"


def _behind_parents(items: Sequence[Item]) -> tuple[Item, ...]:
    names = {item.identity for item in items}
    first = [item for item in items if item.parent not in names]
    return tuple(
        item for head in first for item in (head, *(i for i in items if i.parent == head.identity))
    )


def _store(recipe: Recipe, folder: Path) -> SnapshotStore:
    model, base = recipe.model, None
    if model.tuning == "full":
        try:
            base = BaseFiles(base_folder(model))
        except ModelError as error:
            raise ModelError(f"{error}; what the run stored is read together with it") from error
    return SnapshotStore(folder, root=_no_root, base=base, reads_only=True)


def _no_root() -> NoReturn:
    raise SnapshotError("the base is not loaded here")


def _problem(load: Callable[[], object]) -> str:
    try:
        load()
    except LostSnapshot as error:
        return error.problem
    except SnapshotError as error:
        return str(error)
    return ""
