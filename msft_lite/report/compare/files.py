"""Where a comparison is written to, and how it is printed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.text import Text

from msft_lite.errors import OutputFolderError, StorageError
from msft_lite.report.compare.comparison import Comparison
from msft_lite.report.compare.figures import write_figures
from msft_lite.report.compare.grids import all_grids, steered
from msft_lite.report.compare.latex import latex_document
from msft_lite.report.compare.numbers import KIND, content, csv_text
from msft_lite.report.tables import Grid, markdown_table, narrow_width, rich_grid
from msft_lite.report.whole import write_whole
from msft_lite.report.wording import counted, markdown_text, visible

NUMBERS = "compare.json"  # written first: it says whose the folder's other files are
TEXTS = ("compare.md", "compare.csv", "compare.tex")
FIGURES = "figures"


def default_folder(runs: Sequence[Path]) -> Path:
    """Returns ``compare`` in the folder that holds all of ``runs``.

    Where they have no folder in common but the root of the file system it is runs/compare.
    """
    common = Path(os.path.commonpath([run.resolve().parent for run in runs]))
    return Path("runs/compare") if common == Path(common.anchor) else common / "compare"


def check_folder(folder: Path) -> None:
    """Refuses a folder in which a comparison would replace what is none.

    Raises:
        OutputFolderError: a run is there, or a file of ours that no comparison wrote.
    """
    if (folder / "ledger.jsonl").exists():
        raise OutputFolderError(
            f"{folder} holds a run: name a folder of its own for the comparison by --output-dir"
        )
    if folder.exists() and not folder.is_dir():
        raise OutputFolderError(f"{folder} is a file: name a folder by --output-dir")
    taken = [name for name in (NUMBERS, *TEXTS, FIGURES) if (folder / name).exists()]
    if taken and not _is_ours(folder / NUMBERS):
        raise OutputFolderError(
            f"{folder}: {taken[0]} is there and is of no comparison; name another folder by "
            "--output-dir"
        )


def _is_ours(path: Path) -> bool:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and cast("dict[str, Any]", found).get("kind") == KIND


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Writes compare.json, .md, .csv and .tex and figures/ into ``folder``.

    An earlier comparison there is replaced, nothing else is.

    Returns:
        The path of compare.md.

    Raises:
        OutputFolderError: see `check_folder`.
        StorageError: a file cannot be written.
    """
    check_folder(folder)
    grids = all_grids(comparison)
    numbers = json.dumps(content(comparison), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / NUMBERS, numbers + "\n")
        figures = write_figures(comparison, folder / FIGURES)
        texts = (_markdown(comparison, grids, figures), csv_text(comparison), latex_document(grids))
        for name, text in zip(TEXTS, texts, strict=True):
            write_whole(folder / name, text)
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder}: cannot write the comparison: {error.strerror}; mend "
            "that, or name another folder by --output-dir"
        ) from None
    return folder / TEXTS[0]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints the tables; one that is too wide for the terminal in parts."""
    console.print(Text(visible(_headline(comparison)), style="bold"))
    for note in comparison.notes:
        console.print(Text(visible(note)), soft_wrap=True)
    for grid in all_grids(comparison):
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


def _headline(comparison: Comparison) -> str:
    count = counted(len(comparison.systems), "system")
    return f"Comparison of {count} on {counted(len(comparison.tasks), 'task')}{steered(comparison)}"


def _markdown(comparison: Comparison, grids: Sequence[Grid], figures: Sequence[Path]) -> str:
    notes = "".join(f"- {markdown_text(note)}\n" for note in comparison.notes)
    pictures = "\n\n".join(f"![{path.stem}]({FIGURES}/{path.name})" for path in figures)
    parts = [
        f"# {markdown_text(_headline(comparison))}\n",
        notes,
        *(markdown_table(grid) for grid in grids),
        f"## Figures\n\n{pictures}\n",
        "compare.csv and compare.json hold every number, scores as shares of 1 (a loss is "
        "negative); compare.tex the tables for LaTeX; figures/ each figure as PNG and SVG.\n",
    ]
    return "\n".join(part for part in parts if part)
