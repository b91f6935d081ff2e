"""When every task is at its best in one run over all of them, and how far that is from the mean's.

Source: the problem of Koh et al., arXiv 2603.21606; 1.93 epochs in the mean with Qwen3 8B.
"""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from msft_lite.report.intervals import Estimate, estimate_of, mean_estimate
from msft_lite.report.pictures import (
    BLACK,
    BLUE,
    MOST_COLUMNS,
    UNITS,
    VERMILLION,
    clean,
    drawable,
    name_rows,
    new_figure,
    scaled,
)
from msft_lite.report.scale import F1, PERCENT, Scale, scale_of
from msft_lite.report.story import Mark, Story
from msft_lite.report.studies.study import (
    Line,
    Picture,
    Stories,
    Study,
    checked,
    ends_text,
    epochs_of,
    signed,
    steering_notes,
)
from msft_lite.report.tables import MEAN, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_INCHES = (3.4, 2.3)


@dataclass(frozen=True, slots=True)
class Peaks:
    """Where the curves of a run are highest, at the earliest of equals.

    Attributes:
        marks: all of the run's.
        tasks: the best mark of each task.
        mean: the best mark of the mean over tasks.
    """

    marks: tuple[Mark, ...]
    tasks: Mapping[str, Mark]
    mean: Mark

    def distance(self, task: str) -> float:
        """Returns by how many epochs the task's peak lies after the mean's."""
        return epochs_of(self.tasks[task]) - epochs_of(self.mean)

    @property
    def mean_distance(self) -> float:
        """The mean over tasks of the distances, all taken as positive."""
        return sum(abs(self.distance(task)) for task in self.tasks) / len(self.tasks)


@dataclass(frozen=True, slots=True)
class Panel:
    """A curve of the figure: a value at every mark, and which of them is the peak."""

    title: str
    scale: Scale
    peak: Mark
    values: tuple[Estimate, ...]


def peaks_of(story: Story) -> Peaks:
    """Returns the peaks of a run that is one roll-out; the untouched base competes."""
    marks = story.rollouts[0].marks
    tasks = {task: story.rollouts[0].peak(task) for task in story.names}
    return Peaks(marks, tasks, max(marks, key=lambda mark: mark.mean))


def heterogeneity(stories: Stories) -> Study:
    """Returns the study of one run of sft."""
    (label, story), *_ = checked(stories).items()
    peaks = peaks_of(story)
    return Study(
        name="heterogeneity",
        headline=f"the tasks' peaks lie {peaks.mean_distance:.2f} epochs from the mean's on "
        "average",
        grids=(_grid(story, peaks),),
        pictures=(
            Picture("peaks", lambda: _peaks_figure(peaks)),
            Picture("curves", lambda: _curves_figure(story, peaks)),
        ),
        lines=tuple(_lines(label, story, peaks)),
    )


def _grid(story: Story, peaks: Peaks) -> Grid:
    metrics = story.setting.steering_metrics()
    ordered = sorted(story.names, key=lambda task: epochs_of(peaks.tasks[task]))
    rows = [
        (
            task,
            f"{epochs_of(peaks.tasks[task]):g}",
            scale.interval(estimate_of(peaks.tasks[task].scores[task])),
            scale.text(float(peaks.mean.scores[task].value)),
            signed(peaks.distance(task)),
        )
        for task in ordered
        for scale in [scale_of([metrics[task]])]
    ]
    whole = scale_of(metrics.values())
    at_end = [task for task in ordered if peaks.tasks[task] is peaks.marks[-1]]
    total = (
        MEAN, f"{epochs_of(peaks.mean):g}", whole.interval(mean_estimate(peaks.mean.scores)),
        whole.text(float(peaks.mean.mean)), f"{peaks.mean_distance:.2f} off",
    )  # fmt: skip
    return Grid(
        "Peaks of the tasks",
        ("Task ", "Peak, epoch", f"There {whole.unit}", f"At the mean's peak {whole.unit}",
         "Epochs after the mean's peak"),
        (*rows, total),
        ("A peak is the earliest mark with the best score; the base, epoch 0, competes. Last row: "
         "the peak of the mean over tasks, and the mean of the distances without their signs.",
         *ends_text(at_end), *steering_notes(story)),
        has_total=True,
    )  # fmt: skip


def _lines(label: str, story: Story, peaks: Peaks) -> list[Line]:
    found = [Line(label, task, "peak_epoch", epochs_of(mark)) for task, mark in peaks.tasks.items()]
    found += [Line(label, task, "epochs_after_mean_peak", peaks.distance(task))
              for task in peaks.tasks]  # fmt: skip
    found.append(Line(label, "", "peak_epoch", epochs_of(peaks.mean)))
    found.append(Line(label, "", "mean_distance_epochs", peaks.mean_distance))
    for mark in peaks.marks:
        at = epochs_of(mark)
        scores = {task: estimate_of(mark.scores[task]) for task in story.names}
        for task, score in {**scores, "": mean_estimate(mark.scores)}.items():
            found.append(Line(label, task, "score", score.value, at, score.low, score.high))
    return found


def _peaks_figure(peaks: Peaks) -> Figure:
    """Returns a row a task: its peak, and a line to the peak of the mean."""
    ordered = sorted(peaks.tasks, key=lambda task: -epochs_of(peaks.tasks[task]))
    figure = new_figure(
        8.0, 2.2 + 0.34 * len(ordered),
        f"Where each task is at its best: on average {peaks.mean_distance:.2f} epochs from the "
        "mean's peak",
    )  # fmt: skip
    axes = figure.subplots()
    centre, end = epochs_of(peaks.mean), epochs_of(peaks.marks[-1])
    axes.axvline(centre, color=BLACK, lw=1.3, ls=(0, (4, 3)), zorder=1)
    for place, task in enumerate(ordered):
        peak = epochs_of(peaks.tasks[task])
        axes.plot([centre, peak], [place, place], color=BLUE, lw=2.2, alpha=0.45, zorder=2)
        is_end = peaks.tasks[task] is peaks.marks[-1]
        axes.plot(
            peak, place, marker="o", ms=7.5, color=BLUE, mfc="white" if is_end else BLUE, mew=1.6,
            zorder=3,
        )  # fmt: skip
        axes.annotate(
            signed(peaks.distance(task)), (1.0, place), xycoords=("axes fraction", "data"),
            xytext=(6, 0), textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    name_rows(axes, ordered)
    axes.set_xlim(-0.03 * end, 1.03 * end)
    axes.set_xlabel("epochs of training", fontsize=9)
    figure.supxlabel(
        f"dashed: peak of the mean over tasks, epoch {centre:g}; right: epochs after that peak\n"
        "hollow: the last mark of the run, so that a later peak is possible",
        fontsize=8.5,
    )
    clean(axes)
    return figure


def _curves_figure(story: Story, peaks: Peaks) -> Figure:
    """Returns a panel a task and one of the mean: score over epochs, both peaks marked."""
    metrics = story.setting.steering_metrics()
    panels = [
        Panel(
            MEAN,
            scale_of(metrics.values()),
            peaks.mean,
            tuple(mean_estimate(mark.scores) for mark in peaks.marks),
        )
    ]
    panels += [
        Panel(
            task, scale_of([metrics[task]]), peaks.tasks[task],
            tuple(estimate_of(mark.scores[task]) for mark in peaks.marks),
        )
        for task in story.names
    ]  # fmt: skip
    columns = min(len(panels), MOST_COLUMNS)
    rows = ceil(len(panels) / columns)
    figure = new_figure(
        _PANEL_INCHES[0] * columns, 1.2 + _PANEL_INCHES[1] * rows,
        f"Score of every task along one run, {story.setting.steer_on} split",
    )  # fmt: skip
    grid = figure.subplots(rows, columns, squeeze=False)
    for number in range(rows * columns):
        axes = grid[number // columns][number % columns]
        if number >= len(panels):
            axes.set_axis_off()
            continue
        panel = panels[number]
        _draw_curve(axes, peaks, panel)
        axes.set_title(drawable(panel.title), fontsize=9.5, loc="left", parse_math=False)
        if number % columns == 0 or len({p.scale for p in panels}) > 1:
            axes.set_ylabel(UNITS[panel.scale], fontsize=8.5)
        if number + columns >= len(panels):
            axes.set_xlabel("epochs of training", fontsize=8.5)
    _legend(figure)
    return figure


def _draw_curve(axes: Axes, peaks: Peaks, panel: Panel) -> None:
    x, scale = [epochs_of(mark) for mark in peaks.marks], panel.scale
    values = [scaled(value, scale) for value in panel.values]
    low, high = [v.low for v in values], [v.high for v in values]
    axes.axvline(epochs_of(peaks.mean), color=BLACK, lw=1.1, ls=(0, (4, 3)), zorder=1)
    axes.fill_between(x, low, high, color=BLUE, alpha=0.13, lw=0, zorder=2)
    axes.plot(x, [v.value for v in values], color=BLUE, lw=1.5, zorder=3)
    best = values[peaks.marks.index(panel.peak)].value
    axes.plot(epochs_of(panel.peak), best, marker="^", ms=8, color=VERMILLION, ls="none", zorder=4)
    if scale in (PERCENT, F1):
        axes.set_ylim(-4, 104)
        axes.set_yticks(range(0, 101, 25))
    clean(axes, "y")


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=VERMILLION, marker="^", ls="none", label="the curve's own peak"),
        Line2D([], [], color=BLACK, ls=(0, (4, 3)), label="peak of the mean over tasks"),
        Patch(color=BLUE, alpha=0.13, label="95 % interval"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
