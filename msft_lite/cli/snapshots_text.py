"""How a run's snapshots are printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from msft_lite.cli.texts import print_lines
from msft_lite.core import ROOT
from msft_lite.errors import resume_command
from msft_lite.report.tables import Grid, rich_grid
from msft_lite.report.wording import bytes_text, counted
from msft_lite.run.folder import RunFolder
from msft_lite.run.inventory import Inventory, Item, inventory, is_finished, verified

CRASH_COPY = RunFolder(Path()).crash_copy.name
SHOWN = 12  # of an id's 64 digits


def show_snapshots(folder: Path, *, verifies: bool, console: Console) -> bool:
    """Prints a run's snapshots, and where that is wanted reads them; returns whether all are whole.

    Raises:
        MsftError: there is no run, or it cannot be read.
    """
    print_inventory(inventory(folder), folder, console)
    found = verified(folder) if verifies else {}
    if verifies:
        print_verified(found, console)
        print_lines(ways_on(found, folder), console)
    return not any(found.values())


def print_inventory(found: Inventory, folder: Path, console: Console) -> None:
    """Prints a row per snapshot, those that are stored against another below it."""
    names = {item.identity for item in found.items}
    rows = tuple(_row(item, is_below=item.parent in names) for item in found.items)
    crash = ("crash copy", "", "", bytes_text(found.crash_copy_bytes), "moments, to go on from")
    grid = Grid(
        title=f"Snapshots of {folder}",
        columns=("Snapshot ", "At ", "Stored ", "Size", "Needed for "),
        rows=(
            *rows,
            *([crash] if found.crash_copy_bytes else []),
            (counted(len(rows), "snapshot"), "", "", bytes_text(found.size_bytes), ""),
        ),
        has_total=True,
    )
    console.print(rich_grid(grid, width=console.width))


def print_verified(found: Mapping[str, str], console: Console) -> None:
    """Prints what is damaged, and how many were read."""
    damaged = [problem for problem in found.values() if problem]
    print_lines(damaged, console, style="red")
    whole = len(found) - len(damaged)
    print_lines([f"read and compared with their checksums: {whole} of {len(found)} whole"], console)


def ways_on(found: Mapping[str, str], folder: Path) -> list[str]:
    """Returns what becomes of damaged snapshots: they are trained again, or were the result."""
    damaged = [name for name, problem in found.items() if problem and name != CRASH_COPY]
    if not damaged:
        return []
    if is_finished(folder):
        return [f"the run has finished; its result is also in {RunFolder(folder).best}"]
    return [
        f"{resume_command(folder)} trains what is damaged or missing again, to the same bits, "
        "when it is asked for"
    ]


def _row(item: Item, *, is_below: bool) -> tuple[str, ...]:
    stored = {None: "damaged", "": "whole", ROOT: "against the base"}.get(
        item.parent, f"against {(item.parent or '')[:SHOWN]}"
    )
    needed = "; ".join(item.held_by) or "nothing more"
    name = ("  " if is_below else "") + item.identity[:SHOWN]
    return name, item.place, stored, bytes_text(item.size_bytes), needed
