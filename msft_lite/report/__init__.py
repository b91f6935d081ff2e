"""Reads ledgers and shows them: tables, curves, cost. Changes nothing in a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from msft_lite.errors import StorageError
from msft_lite.report.figures import Picture, write_figures
from msft_lite.report.page import PAGE_NAME, write_page
from msft_lite.report.plain import finish_line
from msft_lite.report.settings import settings_rows
from msft_lite.report.story import Story
from msft_lite.report.summary import summary
from msft_lite.report.tables import Grid, all_grids, markdown_table, printed_grids, rich_grid
from msft_lite.report.telling import read_story
from msft_lite.report.whole import write_whole
from msft_lite.report.wording import markdown_text, place, visible

LEDGER_NAME = "ledger.jsonl"


def write_report(run_folder: Path) -> Path:
    """Writes summary.json, report.md, report.html and figures/ into ``run_folder``.

    Works on unfinished runs too.

    Returns:
        The path of report.md.

    Raises:
        LedgerError: the ledger is missing or damaged.
        StorageError: a file cannot be written.
    """
    story = read_story(run_folder / LEDGER_NAME)
    try:
        write_whole(run_folder / "summary.json", _json(summary(story)))
        figures = write_figures(story, run_folder / "figures")
        write_whole(run_folder / "report.md", _markdown(story, figures))
        write_page(run_folder)
    except OSError as error:
        raise StorageError(
            f"{error.filename or run_folder}: cannot write the report: {error.strerror}; mend "
            "that and write it again with: msft-lite report"
        ) from None
    return run_folder / "report.md"


def write_reports(run_folders: Iterable[Path]) -> None:
    """Writes the report of every run that has none, or one older than its ledger.

    Raises:
        LedgerError: a ledger is missing or damaged.
        StorageError: a file cannot be written.
    """
    for folder in run_folders:
        page, ledger = folder / PAGE_NAME, folder / LEDGER_NAME
        if not page.exists() or page.stat().st_mtime < ledger.stat().st_mtime:
            write_report(folder)


def print_report(run_folder: Path, console: Console) -> None:
    """Prints in one sentence how far the run in ``run_folder`` is, and its tables.

    Of long tables after the first only the end is printed; report.md has them whole.

    Raises:
        LedgerError: the ledger is missing or damaged.
    """
    story = read_story(run_folder / LEDGER_NAME)
    console.print(Text(visible(state_text(story)), style="bold"))
    for grid in printed_grids(story):
        console.print(rich_grid(grid, width=console.width))


def state_text(story: Story) -> str:
    """Returns in one sentence how far the run is."""
    run = f"Run with {story.setting.method}"
    if story.finish is not None:
        return f"{run}, {finish_line(story)}"
    if not story.marks:
        return f"{run}, not finished; no mark is recorded yet"
    last = story.marks[-1]
    return (
        f"{run}, not finished; recorded up to roll-out {last.n}, mark {last.k}; "
        f"best mean so far: {place(story.best)}"
    )


def _json(content: dict[str, object]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _markdown(story: Story, figures: tuple[Picture, ...]) -> str:
    parts = [
        f"# Report of a run with {markdown_text(story.setting.method)}\n",
        f"{markdown_text(state_text(story))}.\n",
        *(markdown_table(grid) for grid in all_grids(story)),
        _decisions(story),
        _figures(figures),
        markdown_table(Grid("Settings", ("Setting ", "Value "), tuple(settings_rows(story)))),
    ]
    return "\n".join(part for part in parts if part)


def _decisions(story: Story) -> str:
    lines = [
        f"{rollout.n}. {markdown_text(drop.task)}: {markdown_text(drop.reason)}"
        for rollout in story.rollouts
        for drop in rollout.drops
    ]
    return "## Why tasks were dropped\n\n" + "\n".join(lines) + "\n" if lines else ""


def _figures(figures: tuple[Picture, ...]) -> str:
    if not figures:
        return ""
    lines = [
        f"![{name}](figures/{name}.png)\n\n{caption} As SVG: [{name}.svg](figures/{name}.svg)"
        for name, caption in ((figure.path.stem, figure.caption) for figure in figures)
    ]
    note = (
        "Left to right is the order of training; an epoch is one pass over the tasks still active. "
        "Every point is one evaluation; nothing is smoothed."
    )
    return "\n\n".join(["## Figures", *lines, note]) + "\n"
