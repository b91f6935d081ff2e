"""How the tasks' best moments move when the one that peaks first is taken out.

Source: the bifurcation of Koh et al., arXiv 2603.21606; 0.91 epochs in the mean.
"""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from msft_lite.errors import LedgerError
from msft_lite.report.intervals import estimate_of
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
)
from msft_lite.report.scale import F1, PERCENT, Scale, scale_of
from msft_lite.report.story import Mark, RolloutStory, Story
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

_PANEL_INCHES = (3.6, 2.4)


@dataclass(frozen=True, slots=True)
class Optimum:
    """Where one of the other tasks is best in either branch, at the earliest of equals."""

    task: str
    kept: Mark
    left_out: Mark

    @property
    def shift(self) -> float:
        """By how many epochs the optimum is later once the task is left out."""
        return epochs_of(self.left_out) - epochs_of(self.kept)


@dataclass(frozen=True, slots=True)
class Bifurcation:
    """Two roll-outs from one point, with all tasks and without the one that peaked first.

    Attributes:
        task: the one that peaked first.
        fork: where the branches begin.
        kept: the branch with all tasks.
        left_out: the branch without ``task``.
        optima: of the other tasks.
    """

    task: str
    fork: Mark
    kept: RolloutStory
    left_out: RolloutStory
    optima: tuple[Optimum, ...]

    @property
    def mean_shift(self) -> float:
        """The mean of the shifts, all taken as positive."""
        return sum(abs(optimum.shift) for optimum in self.optima) / len(self.optima)


def bifurcation_of(story: Story) -> Bifurcation:
    """Returns the branches of a run of the method shift.

    Raises:
        LedgerError: the run has none, as no task was best before the last mark or there is one
            task alone.
    """
    if len(story.rollouts) < 3 or not story.rollouts[1].drops:
        raise LedgerError(
            "the study shift: the run has no branches to compare, as no task was at its best "
            "before the last mark, or there is one task alone; train longer by --epochs with "
            "--overwrite, or give more tasks"
        )
    _, kept, left_out = story.rollouts[:3]
    optima = (Optimum(task, kept.peak(task), left_out.peak(task)) for task in left_out.tasks)
    return Bifurcation(kept.drops[0].task, kept.marks[0], kept, left_out, tuple(optima))


def shift(stories: Stories) -> Study:
    """Returns the study of one run of the method shift."""
    (label, story), *_ = checked(stories).items()
    fork = bifurcation_of(story)
    return Study(
        name="shift",
        headline=f'without "{fork.task}" the optima of the other tasks move by '
        f"{fork.mean_shift:.2f} epochs on average",
        grids=(_grid(story, fork),),
        pictures=(
            Picture("shifts", lambda: _shifts_figure(fork)),
            Picture("branches", lambda: _branches_figure(story, fork)),
        ),
        lines=tuple(_lines(label, story, fork)),
    )


def _grid(story: Story, fork: Bifurcation) -> Grid:
    metrics = story.setting.steering_metrics()
    rows = [
        (
            optimum.task,
            f"{epochs_of(optimum.kept):g}",
            scale.interval(estimate_of(optimum.kept.scores[optimum.task])),
            f"{epochs_of(optimum.left_out):g}",
            scale.interval(estimate_of(optimum.left_out.scores[optimum.task])),
            signed(optimum.shift),
        )
        for optimum in fork.optima
        for scale in [scale_of([metrics[optimum.task]])]
    ]
    ends = (fork.kept.marks[-1], fork.left_out.marks[-1])
    at_end = [o.task for o in fork.optima if o.kept is ends[0] or o.left_out is ends[1]]
    total = (MEAN, "", "", "", "", f"{fork.mean_shift:.2f} off")
    return Grid(
        f'Optima with all tasks and without "{fork.task}"',
        ("Task ", "With, epoch", "Score there", "Without, epoch", "Score there", "Shift, epochs"),
        (*rows, total),
        (f"Both branches begin at epoch {epochs_of(fork.fork):g}, where that task was best in "
         "the first roll-out, each with a new optimizer. Epochs are passes over the task's own "
         "rows, from the base. An optimum is the branch's earliest mark with the best score, the "
         "fork included. Last row: the mean of the shifts without their signs.",
         *ends_text(at_end), *steering_notes(story)),
        has_total=True,
    )  # fmt: skip


def _lines(label: str, story: Story, fork: Bifurcation) -> list[Line]:
    found = [Line(label, fork.task, "fork_epoch", epochs_of(fork.fork))]
    for optimum in fork.optima:
        values = (
            ("optimum_epoch_with", epochs_of(optimum.kept)),
            ("optimum_epoch_without", epochs_of(optimum.left_out)),
            ("shift_epochs", optimum.shift),
        )
        found += [Line(label, optimum.task, measure, value) for measure, value in values]
    found.append(Line(label, "", "mean_shift_epochs", fork.mean_shift))
    for name, branch in (("with", fork.kept), ("without", fork.left_out)):
        for mark in branch.marks:
            for task, graded in mark.scores.items():
                score = estimate_of(graded)
                found.append(
                    Line(label, task, f"score_{name}", score.value, epochs_of(mark), score.low,
                         score.high)
                )  # fmt: skip
    return found


def _shifts_figure(fork: Bifurcation) -> Figure:
    """Returns a row a task: its optimum in either branch, an arrow from one to the other."""
    ordered = sorted(fork.optima, key=lambda optimum: (-epochs_of(optimum.kept), optimum.task))
    figure = new_figure(
        8.0, 2.2 + 0.36 * len(ordered),
        f'Best moments without the task "{drawable(fork.task)}": they move by '
        f"{fork.mean_shift:.2f} epochs on average",
    )  # fmt: skip
    axes = figure.subplots()
    axes.axvline(epochs_of(fork.fork), color=BLACK, lw=1.2, ls=(0, (4, 3)), zorder=1)
    for place, optimum in enumerate(ordered):
        before, after = epochs_of(optimum.kept), epochs_of(optimum.left_out)
        axes.plot([before, after], [place, place], color=VERMILLION, lw=2.2, alpha=0.5, zorder=2)
        axes.plot(before, place, marker="o", ms=10, mfc="white", mec=BLUE, mew=1.8, zorder=3)
        axes.plot(after, place, marker="D", ms=5.5, color=VERMILLION, zorder=4)
        axes.annotate(
            signed(optimum.shift), (1.0, place), xycoords=("axes fraction", "data"),
            xytext=(6, 0), textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    name_rows(axes, [optimum.task for optimum in ordered])
    _frame(axes, fork)
    axes.set_xlabel("epochs over the task's own rows, from the base; right: the shift", fontsize=9)
    clean(axes)
    _legend(figure, fork, is_line=False)
    return figure


def _frame(axes: Axes, fork: Bifurcation) -> None:
    begin = epochs_of(fork.fork)
    end = max(epochs_of(branch.marks[-1]) for branch in (fork.kept, fork.left_out))
    axes.set_xlim(begin - 0.04 * (end - begin), end + 0.04 * (end - begin))


def _branches_figure(story: Story, fork: Bifurcation) -> Figure:
    """Returns a panel for each of the other tasks: its score along both branches."""
    metrics = story.setting.steering_metrics()
    columns = min(len(fork.optima), MOST_COLUMNS)
    rows = ceil(len(fork.optima) / columns)
    figure = new_figure(
        max(8.0, _PANEL_INCHES[0] * columns), 1.3 + _PANEL_INCHES[1] * rows,
        f'Scores with all tasks and without "{drawable(fork.task)}", '
        f"{story.setting.steer_on} split",
    )  # fmt: skip
    grid = figure.subplots(rows, columns, squeeze=False)
    for number in range(rows * columns):
        axes = grid[number // columns][number % columns]
        if number >= len(fork.optima):
            axes.set_axis_off()
            continue
        optimum = fork.optima[number]
        scale = scale_of([metrics[optimum.task]])
        _draw_branch(axes, fork.kept.marks, optimum, scale=scale, is_kept=True)
        _draw_branch(axes, fork.left_out.marks, optimum, scale=scale, is_kept=False)
        _frame(axes, fork)
        if scale in (PERCENT, F1):
            axes.set_ylim(-4, 104)
            axes.set_yticks(range(0, 101, 25))
        axes.set_title(drawable(optimum.task), fontsize=9.5, loc="left", parse_math=False)
        axes.set_ylabel(UNITS[scale] if number % columns == 0 else "", fontsize=8.5)
        axes.set_xlabel(
            "epochs from the base" if number + columns >= len(fork.optima) else "", fontsize=8.5
        )
        clean(axes, "y")
    _legend(figure, fork, is_line=True)
    return figure


def _draw_branch(
    axes: Axes, marks: Sequence[Mark], optimum: Optimum, *, scale: Scale, is_kept: bool
) -> None:
    colour, style = (BLUE, "-") if is_kept else (VERMILLION, (0, (5, 1.5)))
    best = optimum.kept if is_kept else optimum.left_out
    task = optimum.task
    axes.plot(
        [epochs_of(mark) for mark in marks],
        [scale.factor * float(mark.scores[task].value) for mark in marks],
        color=colour, ls=style, lw=1.5, zorder=2,
    )  # fmt: skip
    axes.plot(
        epochs_of(best), scale.factor * float(best.scores[task].value), ls="none", zorder=4,
        marker="o" if is_kept else "D", ms=9 if is_kept else 5.5, color=colour,
        mfc="white" if is_kept else colour, mew=1.8,
    )  # fmt: skip


def _legend(figure: Figure, fork: Bifurcation, *, is_line: bool) -> None:
    from matplotlib.lines import Line2D

    kept, left_out = ("-", (0, (5, 1.5))) if is_line else ("none", "none")
    handles = [
        Line2D([], [], color=BLUE, marker="o", ms=8, mfc="white", mew=1.8, ls=kept),
        Line2D([], [], color=VERMILLION, marker="D", ms=5.5, ls=left_out),
    ]
    dropped = drawable(fork.task)
    names = ["best with all tasks", f'best without "{dropped}"']
    if is_line:
        names = ["with all tasks, its best marked", f'without "{dropped}", its best marked']
    if not is_line:
        handles.append(Line2D([], [], color=BLACK, ls=(0, (4, 3)), lw=1.2))
        names.append(f'fork: "{dropped}" was best')
    legend = figure.legend(
        handles, ["-"] * len(handles), loc="outside lower center", ncols=3, fontsize=9,
        frameon=False,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
