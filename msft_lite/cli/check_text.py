"""How the outcome of `check` is printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from rich.console import Console

from msft_lite.cli.texts import print_lines
from msft_lite.report.tables import Grid, rich_grid
from msft_lite.report.wording import counted
from msft_lite.run.survey import Survey, TaskSurvey

COLUMNS = (
    "Task ",
    "Train",
    "Left\nout",
    "Control",
    "Report",
    "Longest\nrow",
    "Trained\ntokens",
    "Rows as ",
)


def print_check(found: Survey, console: Console) -> None:
    """Prints a row per task, what became of its rows, and every problem."""
    rows = tuple(_cells(task) for task in found.tasks)
    console.print(rich_grid(Grid("Tasks", COLUMNS, rows), width=console.width))
    print_lines(task_notes(found.tasks), console)
    print_lines(found.notes, console)
    print_lines((f"warning: {text}" for text in found.warnings), console, style="yellow")
    print_lines((f"problem: {text}" for text in found.problems), console, style="red")


def print_verdict(found: Survey, run_command: Sequence[str], console: Console) -> None:
    """Prints the last line."""
    print_lines([verdict(found, run_command)], console, style="bold")


def task_notes(tasks: Iterable[TaskSurvey]) -> list[str]:
    """Returns what was left out, shortened or carved, task by task."""
    notes: list[str] = []
    for task in tasks:
        found = task.task.notes if task.task else task.rows.notes if task.rows else ()
        notes += [f"{task.name}: {note}" for note in found]
    return notes


def verdict(found: Survey, run_command: Sequence[str]) -> str:
    """Returns the last line: the command to go on with, or the first thing to mend."""
    if not found.problems:
        return f"ready: {shlex.join(run_command)}"
    count = counted(len(found.problems), "problem")
    return f"not ready: {count}; first: {found.problems[0]}"


def _cells(task: TaskSurvey) -> tuple[str, ...]:
    if task.rows is None:
        return (task.name, *"-------")
    splits = task.rows.splits
    counts = (f"{len(splits.control):,}", f"{len(splits.report):,}")
    if task.task is None:
        return (task.name, f"{len(splits.train):,}", "-", *counts, "-", "-", task.form)
    train = task.task.train
    return (
        task.name,
        f"{len(train):,}",
        f"{len(splits.train) - len(train):,}",
        *counts,
        f"{max(len(row.prompt) + len(row.answer) for row in train):,}",
        f"{sum(row.trained_tokens for row in train):,}",
        task.form,
    )
