"""The figures of a run as PNG and SVG files; matplotlib is imported on first use only."""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from msft_lite.report.canvas import (
    COLUMN_INCHES,
    PAGE_INCHES,
    PRINT,
    best_marker,
    draw_best,
    draw_curve,
    draw_ground,
    ground_entries,
    new_figure,
    split_text,
    tidy,
    write_title,
)
from msft_lite.report.cost_figures import disk, seconds, spent, timeline
from msft_lite.report.page.curves import loss_curve, mean_curve, task_curve, with_loss
from msft_lite.report.page.ground import Curve, Scene, scene_of, spent_epochs
from msft_lite.report.page.spending import disk_held, training_spent
from msft_lite.report.page.texts import clipped
from msft_lite.report.pictures import BLACK, BLUE, UNITS, VERMILLION, save
from msft_lite.report.scale import F1, PERCENT
from msft_lite.report.story import Standing, Story

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[], "Figure"]
_ROW_INCHES, _MARGIN_INCHES, _ENTRY_INCHES = 1.55, 0.75, 0.16
_MOST_COLUMNS = 3
_TITLE_LENGTH = 28


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that was written.

    Attributes:
        path: of the PNG file; the SVG file lies beside it.
        caption: what it shows, in one line.
    """

    path: Path
    caption: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: what is drawn there and what is written over it."""

    title: str
    unit: str
    curve: Curve
    standing: Standing | None = None


def write_figures(story: Story, folder: Path) -> tuple[Picture, ...]:
    """Draws every figure for which something is recorded, each as PNG and as SVG.

    Returns:
        What was written; nothing while no mark is recorded.
    """
    if not story.marks:
        return ()
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Picture] = []
    for name, caption, draw in _figures(scene_of(story)):
        path = folder / f"{name}.png"
        save(draw, path, PRINT)
        drawn.append(Picture(path, caption))
    return tuple(drawn)


def _figures(scene: Scene) -> list[tuple[str, str, Draw]]:
    """Returns name and caption of every figure that there is something for, and what draws it."""
    held, work = disk_held(scene.story), training_spent(scene.story)
    kinds = scene.story.totals().spending.seconds
    candidates: list[tuple[str, str, Draw | None]] = [
        ("scores", "The score of every task at every mark, with its 95 % interval.",
         partial(_scores, scene)),
        ("loss", "Training loss of every task since the mark before.",
         partial(_losses, scene) if with_loss(scene) else None),
        ("timeline", "The stages of the run as a tree: a roll-back goes on in a new lane from the "
         "ringed mark.", partial(timeline, scene)),
        ("spent", f"The mean score over all tasks against {work.name}, what was rolled back "
         "included.", partial(spent, scene, work)),
        ("disk", "What snapshots and crash copy take on the disk at every evaluation point.",
         partial(disk, scene, held) if held else None),
        ("seconds", "Wall-clock time by kind of work; swap: weights on their way to the evaluation "
         "engine, wait: for an engine that still started.",
         partial(seconds, scene, kinds) if any(kinds.values()) else None),
    ]  # fmt: skip
    return [(name, caption, draw) for name, caption, draw in candidates if draw is not None]


def _scores(scene: Scene) -> Figure:
    panels = [_score_panel(scene, task) for task in scene.story.names]
    if len(panels) > 1:
        mean = mean_curve(scene)
        panels.insert(0, Panel("mean over all tasks", UNITS[mean.scale], mean))
    return _figure(scene, f"score at every mark, {split_text(scene)}", panels)


def _score_panel(scene: Scene, task: str) -> Panel:
    standing, curve = scene.story.standing(task), task_curve(scene, task)
    after = f" after roll-out {standing.n}" if standing.word == "dropped" else ""
    title = f"{clipped(task, _TITLE_LENGTH)}\n{standing.word}{after}"
    return Panel(title, UNITS[curve.scale], curve, standing)


def _losses(scene: Scene) -> Figure:
    panels = [
        Panel(
            clipped(task, _TITLE_LENGTH), "loss, nats per token", loss_curve(scene, task),
            scene.story.standing(task),
        )
        for task in with_loss(scene)
    ]  # fmt: skip
    return _figure(scene, "training loss since the mark before", panels)


def _figure(scene: Scene, title: str, panels: Sequence[Panel]) -> Figure:
    columns = min(len(panels), _MOST_COLUMNS)
    rows = ceil(len(panels) / columns)
    entries = _entries(scene, panels)
    width = COLUMN_INCHES if columns == 1 else PAGE_INCHES
    legend_columns = 2 if columns == 1 else 3
    legend_inches = _ENTRY_INCHES * ceil(len(entries) / legend_columns)
    figure = new_figure(width, _MARGIN_INCHES + rows * _ROW_INCHES + legend_inches)
    write_title(figure, scene, title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for number in range(rows * columns):
        axes = grid[number // columns][number % columns]
        if number >= len(panels):
            axes.set_axis_off()
            continue
        _draw_panel(axes, scene, panels[number])
        if number + columns >= len(panels):  # nothing stands below
            axes.set_xlabel("epochs trained")
    figure.legend(handles=entries, loc="outside lower center", ncols=legend_columns, frameon=False)
    return figure


def _draw_panel(axes: Axes, scene: Scene, panel: Panel) -> None:
    draw_ground(axes, scene, spent_epochs)
    tidy(axes, "y")
    if panel.curve.has_interval and panel.curve.scale in (PERCENT, F1):
        # One scale for all panels, so that they can be compared; the rim keeps markers whole.
        axes.set_ylim(-4, 104)
        axes.set_yticks(range(0, 101, 25))
    draw_curve(axes, scene, spent_epochs, panel.curve)
    _draw_drop(axes, scene, panel)
    if not panel.curve.has_interval:  # a loss, which is to be seen beside 0
        axes.set_ylim(bottom=0.0)
    else:
        draw_best(axes, scene, spent_epochs, panel.curve)
    axes.set_title(panel.title, loc="left", pad=10, parse_math=False)
    axes.set_ylabel(panel.unit)


def _draw_drop(axes: Axes, scene: Scene, panel: Panel) -> None:
    """Draws the line where the task left and, on its scores, the peak that led to it."""
    standing = panel.standing
    if standing is None or standing.word != "dropped":
        return
    marks = scene.story.rollouts[standing.n - 1].marks
    axes.axvline(spent_epochs(marks[-1]), color=VERMILLION, lw=1.1, ls="--", zorder=3)
    peak = panel.curve.height(marks[standing.mark]) if standing.mark < len(marks) else None
    if panel.curve.has_interval and peak is not None:
        axes.plot(
            spent_epochs(marks[standing.mark]), peak, marker="^", ms=5.5, color=VERMILLION,
            ls="none", zorder=5,
        )  # fmt: skip


def _entries(scene: Scene, panels: Sequence[Panel]) -> list[Artist]:
    """Returns what the legend says."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rollouts = scene.story.rollouts
    has_drop = any(rollout.drops for rollout in rollouts)
    has_rest = any(len(rollout.tasks) < len(scene.story.tasks) for rollout in rollouts)
    has_scores = any(panel.curve.has_interval for panel in panels)
    entries = [
        (True, Line2D([], [], color=BLUE, marker=".", ms=4, label="task in training")),
        (has_scores and has_rest, Line2D([], [], color=BLACK, marker=".", ms=4, ls=":",
                                         label="task not in training")),
        (has_scores, Patch(color=BLUE, alpha=0.15, lw=0, label="95 % interval")),
        (has_scores, best_marker([], [], scene.best_name)),
        (has_scores and has_drop, Line2D([], [], color=VERMILLION, marker="^", ms=5.5, ls="none",
                                         label="peak that led to the drop")),
        (has_drop, Line2D([], [], color=VERMILLION, ls="--", label="task dropped")),
    ]  # fmt: skip
    return [*(entry for is_shown, entry in entries if is_shown), *ground_entries(scene)]
