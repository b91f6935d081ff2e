"""Where a study is written to, and how it is printed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from msft_lite.errors import StorageError
from msft_lite.report.pictures import save
from msft_lite.report.several import (
    FIGURES,
    Product,
    markdown_notes,
    markdown_pictures,
    print_grids,
)
from msft_lite.report.studies.study import Line, Study
from msft_lite.report.tables import markdown_table
from msft_lite.report.whole import write_whole
from msft_lite.report.wording import markdown_text, visible

KIND = "msft-lite study"
FORMAT = 1
STUDY = Product("study", KIND, "study.json", ("study.md", "study.csv"))
COLUMNS = ("run", "task", "measure", "at", "value", "low", "high")
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a cell that begins so for a formula


def write_study(study: Study, folder: Path) -> Path:
    """Writes study.json, .md, .csv and figures/ into ``folder``, over those of an earlier study.

    The same study gives the same files.

    Returns:
        The path of study.md.

    Raises:
        OutputFolderError: see `Product.check_folder`.
        StorageError: a file cannot be written.
    """
    STUDY.check_folder(folder)
    try:
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        write_whole(folder / STUDY.numbers, json_text(study))
        figures = [save(p.draw, folder / FIGURES / f"{p.name}.png") for p in study.pictures]
        for name, text in zip(
            STUDY.texts, (_markdown(study, figures), csv_text(study)), strict=True
        ):
            write_whole(folder / name, text)
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder}: cannot write the study: {error.strerror}; mend that and "
            "write it again by --resume"
        ) from None
    return folder / STUDY.texts[0]


def print_study(study: Study, console: Console) -> None:
    """Prints the result and the tables; one that is too wide for the terminal in parts."""
    print_grids(console, _title(study), study.notes, study.grids)


def json_text(study: Study) -> str:
    """Returns the content of study.json."""
    content = {
        "kind": KIND,
        "format": FORMAT,
        "study": study.name,
        "headline": study.headline,
        "notes": list(study.notes),
        "numbers": [asdict(line) for line in study.lines],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def csv_text(study: Study) -> str:
    """Returns the content of study.csv.

    What a spreadsheet would take for a formula begins with an apostrophe.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(line) for line in study.lines)
    return stream.getvalue()


def _cells(line: Line) -> list[str]:
    texts = [visible(text) for text in (line.run, line.task, line.measure)]
    numbers = (line.at, line.value, line.low, line.high)
    return [
        *(f"'{text}" if text.startswith(_FORMULA) else text for text in texts),
        *("" if number is None else repr(number) for number in numbers),
    ]


def _title(study: Study) -> str:
    return f"Study {study.name}: {study.headline}"


def _markdown(study: Study, figures: Sequence[Path]) -> str:
    parts = [
        f"# {markdown_text(_title(study))}\n",
        markdown_notes(study.notes),
        f"{markdown_pictures(figures)}\n",
        *(markdown_table(grid) for grid in study.grids),
        "study.csv and study.json hold every number, scores as shares of 1 (a loss as a score is "
        "negative); figures/ each figure as PNG and SVG.\n",
    ]
    return "\n".join(part for part in parts if part)
