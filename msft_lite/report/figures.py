"""The curves of a run as PNG files; matplotlib is imported on first use only."""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from msft_lite.report.intervals import Estimate, estimate_of, mean_estimate
from msft_lite.report.scale import F1, LOSS, OWN, PERCENT, Scale, scale_of
from msft_lite.report.story import Mark, RolloutStory, Story
from msft_lite.report.wording import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common colour blindness.
_BLUE, _VERMILLION, _GREEN, _BLACK = "#0072B2", "#D55E00", "#009E73", "#222222"
_ROLLED_BACK, _BOUNDARY, _GRID = "#E3E3E3", "#8A8A8A", "#D0D0D0"
_PANEL_INCHES = (4.4, 2.9)
_MOST_COLUMNS = 3
_UNITS = {
    PERCENT: "correct, %",
    F1: "F1",
    LOSS: "loss in nats, lower is better",
    OWN: "score",
}

Draw = Callable[["Axes"], None]


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: its title, the unit of its y axis and what draws its curves."""

    title: str
    unit: str
    draw: Draw


@dataclass(frozen=True, slots=True)
class Curve:
    """A value at every mark, and what stands out on it.

    Attributes:
        value: the value at a mark with its interval, None where there is none.
        scale: how values are drawn.
        is_trained: whether the curve's task was in the roll-out's mixture.
        dropped_in: roll-out after which the task left, 0 for none.
        peak_mark: the mark of that roll-out which was its peak.
    """

    value: Callable[[Mark], Estimate | None]
    scale: Scale
    is_trained: Callable[[RolloutStory], bool]
    dropped_in: int = 0
    peak_mark: int = 0


def write_figures(story: Story, folder: Path) -> tuple[Path, ...]:
    """Draws scores.png (a panel for every task and for the mean) and loss.png.

    Returns:
        The files; none if no mark is recorded yet, no loss.png if no loss is.
    """
    if not story.marks:
        return ()
    folder.mkdir(parents=True, exist_ok=True)
    method, split = visible(story.setting.method), story.setting.steer_on
    steered = " (these reported rows steered the run)" if split == "report" else ""
    pages = [
        (
            "scores.png",
            f"{method}: score at every mark, {split} split{steered}",
            _score_panels(story),
        ),
        ("loss.png", f"{method}: training loss since the mark before", _loss_panels(story)),
    ]
    drawn = [(folder / name, title, panels) for name, title, panels in pages if panels]
    for path, title, panels in drawn:
        _save(_figure(story, title, panels), path)
    return tuple(path for path, _, _ in drawn)


def _score_panels(story: Story) -> list[Panel]:
    panels = [_score_panel(story, task) for task in story.names]
    if len(panels) == 1:
        return panels
    scale = scale_of(story.setting.steering_metrics().values())
    mean = Curve(lambda mark: mean_estimate(mark.scores), scale, lambda _rollout: True)
    title = "mean over all tasks"
    return [Panel(title, _UNITS[scale], lambda axes: _draw_scores(axes, story, mean)), *panels]


def _score_panel(story: Story, task: str) -> Panel:
    standing = story.standing(task)
    scale = scale_of([story.setting.steering_metrics()[task]])
    curve = Curve(
        lambda mark: estimate_of(mark.scores[task]),
        scale,
        lambda rollout: task in rollout.tasks,
        standing.n,
        standing.mark,
    )
    after = f" after roll-out {standing.n}" if standing.word == "dropped" else ""
    title = f"{visible(task)}: {standing.word}{after}"
    return Panel(title, _UNITS[scale], lambda axes: _draw_scores(axes, story, curve))


def _loss_panels(story: Story) -> list[Panel]:
    """Returns a panel for every task that has a recorded loss."""
    return [
        _loss_panel(story, task)
        for task in story.names
        if any(task in mark.train_loss for mark in story.marks)
    ]


def _loss_panel(story: Story, task: str) -> Panel:
    def value(mark: Mark) -> Estimate | None:
        loss = mark.train_loss.get(task)
        return None if loss is None else Estimate(loss, loss, loss)

    curve = Curve(value, OWN, lambda rollout: task in rollout.tasks, story.standing(task).n)
    unit = "loss, nats per token"
    return Panel(visible(task), unit, lambda axes: _draw_loss(axes, story, curve))


def _figure(story: Story, title: str, panels: Sequence[Panel]) -> Figure:
    from matplotlib.figure import Figure

    columns = min(len(panels), _MOST_COLUMNS)
    rows = ceil(len(panels) / columns)
    width, height = columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]
    figure = Figure(figsize=(max(width, 8.0), height + 1.3), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr]
    figure.suptitle(title, fontsize=13, parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for number in range(rows * columns):
        axes = grid[number // columns][number % columns]
        if number >= len(panels):
            axes.set_axis_off()
            continue
        _draw_panel(axes, story, panels[number])
    _legend(figure, story, has_scores=any(p.unit in _UNITS.values() for p in panels))
    return figure


def _draw_panel(axes: Axes, story: Story, panel: Panel) -> None:
    _draw_ground(axes, story)
    panel.draw(axes)
    axes.set_title(panel.title, fontsize=9.5, loc="left", pad=14, parse_math=False)
    axes.set_ylabel(panel.unit, fontsize=8.5)
    rolled_back = story.totals().rolled_back_steps > 0
    label = "epochs trained, rolled-back ones included" if rolled_back else "epochs trained"
    axes.set_xlabel(label, fontsize=8.5)
    axes.tick_params(labelsize=8)
    end = _spent(story.marks[-1]) or 1.0
    axes.set_xlim(-0.02 * end, 1.02 * end)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_ground(axes: Axes, story: Story) -> None:
    """Draws what all panels share: roll-out boundaries and numbers, rolled-back stretches."""
    sparse = ceil(len(story.rollouts) / 12)
    for rollout in story.rollouts:
        if not rollout.marks:
            continue
        begin, end = _spent(rollout.marks[0]), _spent(rollout.marks[-1])
        kept = story.kept_mark(rollout)
        if kept < len(rollout.marks) - 1:
            axes.axvspan(_spent(rollout.marks[kept]), end, color=_ROLLED_BACK, lw=0, zorder=0)
        if rollout.n > 1:
            # The white line keeps two rolled-back stretches side by side apart.
            axes.axvline(begin, color="white", lw=3, zorder=0.5)
            axes.axvline(begin, color=_BOUNDARY, lw=0.7, ls=(0, (1, 2)), zorder=1)
        if len(story.rollouts) > 1 and (rollout.n - 1) % sparse == 0:
            axes.annotate(
                str(rollout.n), ((begin + end) / 2, 1.0), xycoords=("data", "axes fraction"),
                xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7.5,
                color=_BOUNDARY,
            )  # fmt: skip


def _draw_scores(axes: Axes, story: Story, curve: Curve) -> None:
    if curve.scale in (PERCENT, F1):
        # One scale for all panels, so that they can be compared; the rim keeps markers whole.
        axes.set_ylim(-4, 104)
        axes.set_yticks(range(0, 101, 25))
    axes.grid(visible=True, axis="y", color=_GRID, lw=0.6, zorder=0.2)
    for rollout in story.rollouts:
        _draw_stretch(axes, rollout, curve, has_interval=True)
    _draw_drop(axes, story, curve, has_peak=True)
    best = story.best
    if best is not None and (estimate := curve.value(best)) is not None:
        axes.plot(
            _spent(best), curve.scale.factor * estimate.value, marker="D", ms=7, mfc="none",
            mec=_GREEN, mew=1.8, ls="none", zorder=6,
        )  # fmt: skip


def _draw_loss(axes: Axes, story: Story, curve: Curve) -> None:
    for rollout in story.rollouts:
        _draw_stretch(axes, rollout, curve, has_interval=False)
    _draw_drop(axes, story, curve, has_peak=False)


def _draw_stretch(axes: Axes, rollout: RolloutStory, curve: Curve, *, has_interval: bool) -> None:
    """Draws the curve over one roll-out; across a roll-back there is no line."""
    scale = curve.scale.factor
    found = [(_spent(mark), e) for mark in rollout.marks if (e := curve.value(mark)) is not None]
    if not found:
        return
    x = [place for place, _ in found]
    trained = curve.is_trained(rollout)
    colour, style = (_BLUE, "-") if trained else (_BLACK, ":")
    axes.plot(
        x, [scale * e.value for _, e in found], color=colour, ls=style, lw=1.4, marker=".", ms=4.5,
        zorder=4,
    )  # fmt: skip
    if has_interval:
        low, high = [scale * e.low for _, e in found], [scale * e.high for _, e in found]
        axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0, zorder=2)


def _draw_drop(axes: Axes, story: Story, curve: Curve, *, has_peak: bool) -> None:
    if curve.dropped_in == 0:
        return
    marks = story.rollouts[curve.dropped_in - 1].marks
    axes.axvline(_spent(marks[-1]), color=_VERMILLION, lw=1.4, ls="--", zorder=3)
    peak = curve.value(marks[curve.peak_mark]) if curve.peak_mark < len(marks) else None
    if has_peak and peak is not None:
        axes.plot(
            _spent(marks[curve.peak_mark]), curve.scale.factor * peak.value, marker="^", ms=8,
            color=_VERMILLION, ls="none", zorder=5,
        )  # fmt: skip


def _legend(figure: Figure, story: Story, *, has_scores: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    has_drop = any(rollout.drops for rollout in story.rollouts)
    has_rest = any(len(rollout.tasks) < len(story.tasks) for rollout in story.rollouts)
    has_roll_back = story.totals().rolled_back_steps > 0
    best = "returned point" if story.finish else "best mean so far"
    entries = [
        (True, Line2D([], [], color=_BLUE, marker=".", label="task in training")),
        (has_scores and has_rest, Line2D([], [], color=_BLACK, marker=".", ls=":",
                                         label="task no longer in training")),
        (has_scores, Patch(color=_BLUE, alpha=0.13, label="95 % interval")),
        (has_scores, Line2D([], [], mfc="none", mec=_GREEN, mew=1.8, marker="D", ls="none",
                            label=best)),
        (has_scores and has_drop, Line2D([], [], color=_VERMILLION, marker="^", ls="none",
                                         label="peak that led to the drop")),
        (has_drop, Line2D([], [], color=_VERMILLION, ls="--", label="task dropped")),
        (len(story.rollouts) > 1, Line2D([], [], color=_BOUNDARY, ls=(0, (1, 2)),
                                         label="new roll-out (number on top)")),
        (has_roll_back, Patch(color=_ROLLED_BACK,
                              label="rolled back: training went on from its left edge")),
    ]  # fmt: skip
    figure.legend(
        handles=[handle for is_shown, handle in entries if is_shown],
        loc="outside lower center",
        ncols=2 if figure.get_size_inches()[0] < 9 else 4,
        fontsize=8,
        frameon=False,
    )


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        # A task's name in a script that the font lacks is drawn as boxes; that is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, format="png", metadata={"Software": None})


def _spent(mark: Mark) -> float:
    return float(mark.spent.epochs)
