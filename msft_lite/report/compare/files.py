"""Where a comparison is written to, and how it is printed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from msft_lite.errors import StorageError
from msft_lite.report.compare.comparison import Comparison
from msft_lite.report.compare.figures import write_figures
from msft_lite.report.compare.grids import all_grids, steered
from msft_lite.report.compare.latex import latex_document
from msft_lite.report.compare.numbers import KIND, content, csv_text
from msft_lite.report.several import (
    FIGURES,
    Product,
    markdown_notes,
    markdown_pictures,
    print_grids,
)
from msft_lite.report.tables import Grid, markdown_table
from msft_lite.report.whole import write_whole
from msft_lite.report.wording import counted, markdown_text

COMPARISON = Product(
    "comparison", KIND, "compare.json", ("compare.md", "compare.csv", "compare.tex")
)


def default_folder(runs: Sequence[Path]) -> Path:
    """Returns ``compare`` in the folder that holds all of ``runs``.

    Where they have no folder in common but the root of the file system it is runs/compare.
    """
    common = Path(os.path.commonpath([run.resolve().parent for run in runs]))
    return Path("runs/compare") if common == Path(common.anchor) else common / "compare"


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Writes compare.json, .md, .csv and .tex and figures/ into ``folder``.

    An earlier comparison there is replaced, nothing else is.

    Returns:
        The path of compare.md.

    Raises:
        OutputFolderError: see `Product.check_folder`.
        StorageError: a file cannot be written.
    """
    COMPARISON.check_folder(folder)
    grids = all_grids(comparison)
    numbers = json.dumps(content(comparison), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / COMPARISON.numbers, numbers + "\n")
        figures = write_figures(comparison, folder / FIGURES)
        texts = (_markdown(comparison, grids, figures), csv_text(comparison), latex_document(grids))
        for name, text in zip(COMPARISON.texts, texts, strict=True):
            write_whole(folder / name, text)
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder}: cannot write the comparison: {error.strerror}; mend "
            "that, or name another folder by --output-dir"
        ) from None
    return folder / COMPARISON.texts[0]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints the tables; one that is too wide for the terminal in parts."""
    print_grids(console, _headline(comparison), comparison.notes, all_grids(comparison))


def _headline(comparison: Comparison) -> str:
    count = counted(len(comparison.systems), "system")
    return f"Comparison of {count} on {counted(len(comparison.tasks), 'task')}{steered(comparison)}"


def _markdown(comparison: Comparison, grids: Sequence[Grid], figures: Sequence[Path]) -> str:
    parts = [
        f"# {markdown_text(_headline(comparison))}\n",
        markdown_notes(comparison.notes),
        *(markdown_table(grid) for grid in grids),
        f"## Figures\n\n{markdown_pictures(figures)}\n",
        "compare.csv and compare.json hold every number, scores as shares of 1 (a loss is "
        "negative); compare.tex the tables for LaTeX; figures/ each figure as PNG and SVG.\n",
    ]
    return "\n".join(part for part in parts if part)
