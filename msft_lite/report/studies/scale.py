"""The gain of msft over sft as tasks and rows grow.

Source: Koh et al., arXiv 2603.21606, with 5, 10 and 15 tasks of 1,800 rows: +5.4 points in the
mean.
"""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msft_lite.report.compare import Comparison, compare
from msft_lite.report.compare.grids import multiplicity_notes, short_notes, steered, whole_scale
from msft_lite.report.intervals import Estimate
from msft_lite.report.pictures import (
    DIFFERENCE_UNITS,
    GRID,
    ZERO,
    clean,
    draw_estimate,
    name_rows,
    new_figure,
    scaled,
)
from msft_lite.report.story import Story
from msft_lite.report.studies.study import Line, Picture, Stories, Study, better_up, signed
from msft_lite.report.tables import Grid
from msft_lite.report.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of tasks and rows.

    Attributes:
        label: as the runs' labels begin.
        tasks: how many; a divided one counts with all its parts.
        rows: to train on, of all tasks, as found.
        comparison: of its two runs, sft being the reference.
    """

    label: str
    tasks: int
    rows: int
    comparison: Comparison

    @property
    def difference(self) -> Estimate:
        """Of the mean score of msft to that of sft."""
        return self.comparison.others[0].mean.difference

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{counted(self.tasks, 'task')}, {counted(self.rows, 'row')}"


def cells_of(stories: Stories) -> tuple[Cell, ...]:
    """Returns the cells of runs whose labels are ``<cell>/<method>``."""
    groups: dict[str, dict[str, Story]] = {}
    for label, story in stories.items():
        cell, _, method = label.rpartition("/")
        groups.setdefault(cell, {})[method] = story
    return tuple(_cell(label, runs) for label, runs in groups.items())


def _cell(label: str, runs: dict[str, Story]) -> Cell:
    tasks = next(iter(runs.values())).tasks
    comparison = compare({method: [story] for method, story in runs.items()})
    return Cell(label, len(tasks), sum(task.train for task in tasks), comparison)


def scale(stories: Stories) -> Study:
    """Returns the study of a run of sft and one of msft for every number of tasks and rows."""
    cells = cells_of(stories)
    mean = sum(cell.difference.value for cell in cells) / len(cells)
    unit = better_up(whole_scale(cells[-1].comparison))
    return Study(
        name="scale",
        headline=f"msft against sft: {signed(unit.factor * mean, unit.digits)} in the mean of "
        f"{counted(len(cells), 'size')}",
        grids=(_grid(cells),),
        pictures=(Picture("sizes", lambda: _figure(cells)),),
        lines=tuple(_lines(cells)),
        notes=tuple(dict.fromkeys(note for cell in cells for note in cell.comparison.notes)),
    )


def _grid(cells: tuple[Cell, ...]) -> Grid:
    last = cells[-1].comparison
    rows = [
        (f"{cell.tasks:,}", f"{cell.rows:,}",
         *(kind.interval(system.mean.score) for system in cell.comparison.systems),
         kind.difference(cell.difference))
        for cell in cells
        for kind in [whole_scale(cell.comparison)]
    ]  # fmt: skip
    kind = whole_scale(last)
    return Grid(
        f"Gain by number of tasks and training rows{steered(last)}",
        ("Tasks", "Rows in all", f"sft {kind.unit}", f"msft {kind.unit}", "Difference"),
        tuple(rows),
        ("Rows in all: training rows of all tasks as found. Fewer tasks are the first of the list, "
         "fewer rows a fixed part of the same rows; the scored rows of a task are the same in all "
         "cells. Means over other tasks cannot be compared, so read along the differences.",
         "In brackets 95 % intervals; of a difference a paired bootstrap of the rows within each "
         "task. One seed.",
         *multiplicity_notes(last, len(cells)), *short_notes(last)),
    )  # fmt: skip


def _lines(cells: tuple[Cell, ...]) -> list[Line]:
    found: list[Line] = []
    for cell in cells:
        for system in cell.comparison.systems:
            run = f"{cell.label}/{system.label}"
            found.append(Line.of(run, "", "score", system.mean.score))
        run = f"{cell.label}/{cell.comparison.others[0].label}"
        found.append(Line(run, "", "tasks", cell.tasks))
        found.append(Line(run, "", "train_rows", cell.rows))
        found.append(Line.of(run, "", "difference to sft", cell.difference))
    return found


def _figure(cells: tuple[Cell, ...]) -> Figure:
    """Returns a row a cell, tasks growing downwards, with the difference to sft."""
    last = cells[-1].comparison
    unit = better_up(whole_scale(last))
    figure = new_figure(
        8.0, 2.1 + 0.45 * len(cells), f"msft against sft as tasks and rows grow{steered(last)}"
    )
    axes = figure.subplots()
    axes.axvline(0, color=ZERO, lw=1.0, zorder=1)
    ordered = cells[::-1]
    for place, cell in enumerate(ordered):
        is_full = not cell.difference.low <= 0 <= cell.difference.high
        draw_estimate(axes, place, scaled(cell.difference, unit), is_full=is_full)
        axes.annotate(
            signed(unit.factor * cell.difference.value, unit.digits), (1.0, place),
            xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
        if place and cell.tasks != ordered[place - 1].tasks:
            axes.axhline(place - 0.5, color=GRID, lw=0.8, zorder=0.5)
    name_rows(axes, [cell.name for cell in ordered])
    axes.set_xlabel(f"{DIFFERENCE_UNITS[whole_scale(last)]}, mean over the tasks", fontsize=9)
    figure.supxlabel(
        "right of the line: msft is better; lines: 95 % intervals; full mark: the interval leaves "
        "out 0\n(not corrected for several comparisons)",
        fontsize=8.5,
    )
    clean(axes)
    return figure
