"""What a comparison and a study have in common: the folder they go to, and how they are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.text import Text

from msft_lite.errors import OutputFolderError
from msft_lite.report.tables import Grid, narrow_width, rich_grid
from msft_lite.report.wording import markdown_text, visible

FIGURES = "figures"  # folder of the figures


@dataclass(frozen=True, slots=True)
class Product:
    """What is written of several runs.

    Attributes:
        name: what a message calls it.
        kind: stands under "kind" in the JSON file.
        numbers: name of the JSON file. It is written first: it says whose the other files are.
        texts: names of the other files beside it.
    """

    name: str
    kind: str
    numbers: str
    texts: tuple[str, ...]

    def check_folder(self, folder: Path) -> None:
        """Refuses a folder in which this would replace something else.

        Raises:
            OutputFolderError: a run is there, or a file of such a name that is not of this.
        """
        if (folder / "ledger.jsonl").exists():
            raise OutputFolderError(
                f"{folder} holds a run: name a folder of its own for the {self.name} by "
                "--output-dir"
            )
        if folder.exists() and not folder.is_dir():
            raise OutputFolderError(f"{folder} is a file: name a folder by --output-dir")
        names = (self.numbers, *self.texts, FIGURES)
        taken = [name for name in names if (folder / name).exists()]
        if taken and not self._is_in(folder):
            raise OutputFolderError(
                f"{folder}: {taken[0]} is there and is of no {self.name}; name another folder by "
                "--output-dir"
            )

    def _is_in(self, folder: Path) -> bool:
        try:
            found: Any = json.loads((folder / self.numbers).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and cast("dict[str, Any]", found).get("kind") == self.kind


def print_grids(console: Console, title: str, notes: Sequence[str], grids: Sequence[Grid]) -> None:
    """Prints the tables under ``title``; one that is too wide for the terminal in parts."""
    console.print(Text(visible(title), style="bold"))
    for note in notes:
        console.print(Text(visible(note)), soft_wrap=True)
    for grid in grids:
        for part in fitted(grid, width=console.width):
            console.print(rich_grid(part, width=console.width))


def fitted(grid: Grid, *, width: int) -> tuple[Grid, ...]:
    """Returns ``grid`` in parts that fit ``width``, each with the first column; notes come last."""
    first, blocks = 0, list[list[int]]()
    for column in range(1, len(grid.columns)):
        if blocks and narrow_width(_columns(grid, [first, *blocks[-1], column])) <= width:
            blocks[-1].append(column)
        else:
            blocks.append([column])
    parts = [_columns(grid, [first, *block]) for block in blocks]
    if len(parts) < 2:
        return (grid,)
    titled = [
        _retitled(part, f"{grid.title}, part {number} of {len(parts)}", number == len(parts))
        for number, part in enumerate(parts, start=1)
    ]
    return tuple(titled)


def _columns(grid: Grid, places: Sequence[int]) -> Grid:
    rows = [tuple(row[place] for place in places) for row in grid.rows]
    return Grid(
        grid.title, tuple(grid.columns[p] for p in places), tuple(rows), grid.notes, grid.has_total
    )


def _retitled(grid: Grid, title: str, has_notes: bool) -> Grid:
    return Grid(title, grid.columns, grid.rows, grid.notes if has_notes else (), grid.has_total)


def markdown_notes(notes: Sequence[str]) -> str:
    """Returns the notes as a list."""
    return "".join(f"- {markdown_text(note)}\n" for note in notes)


def markdown_pictures(figures: Sequence[Path]) -> str:
    """Returns what shows each of ``figures``, files in the folder `FIGURES`."""
    return "\n\n".join(f"![{path.stem}]({FIGURES}/{path.name})" for path in figures)
