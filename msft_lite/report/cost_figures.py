"""Figures of what a run did and cost: its stages as a tree, scores for work, disk, seconds."""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from msft_lite.report.canvas import (
    BOUNDARY,
    COLUMN_INCHES,
    LETTER_POINTS,
    PAGE_INCHES,
    best_marker,
    draw_best,
    draw_curve,
    draw_ground,
    ground_entries,
    new_figure,
    split_text,
    tidy,
    titled,
    write_title,
)
from msft_lite.report.page.axes import Span, padded, text_width
from msft_lite.report.page.costs import counted_unit, unit_prefix
from msft_lite.report.page.curves import mean_curve
from msft_lite.report.page.ground import Scene, spent_epochs
from msft_lite.report.page.spending import Measure, mean_held
from msft_lite.report.page.texts import clipped
from msft_lite.report.page.tree import (
    Branch,
    Label,
    branches,
    end_epochs,
    lane_labels,
    levelled,
    levels,
)
from msft_lite.report.pictures import BLACK, BLUE, UNITS, VERMILLION
from msft_lite.report.story import Mark, RolloutStory
from msft_lite.report.wording import duration, percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#9A9A9A"
_POINTS = 72.0  # to the inch
_SIDE, _TITLE, _AXIS, _LEGEND_LINE = 12.0, 18.0, 28.0, 11.0  # points
_LANE, _LEVEL = 15.0, 9.0  # points of a lane and of a line of text over it
# A bit more than the letters' size: DejaVu Sans is wider than the mean of faces.
_LETTER = 1.1 * LETTER_POINTS
_MOST_DOTS = 400
_KIND_LENGTH = 14


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where everything of the tree stands.

    Attributes:
        across: from epochs to points from the left.
        labels: what is written on every lane.
        ys: points from the top to every lane.
        bottom: points from the top to the axis.
    """

    scene: Scene
    branches: tuple[Branch, ...]
    across: Span
    labels: tuple[tuple[Label, ...], ...]
    ys: tuple[float, ...]
    bottom: float


def timeline(scene: Scene) -> Figure:
    """Returns the stages as a tree: time to the right, a lane a branch.

    A stage that starts anywhere but at the end of the one before begins a lane below it.
    """
    lanes, entries = _lanes(scene), _tree_entries(scene)
    width, columns = _POINTS * PAGE_INCHES, 3
    below = _AXIS + _LEGEND_LINE * -(-len(entries) // columns) + 4
    height = lanes.bottom + below
    figure = new_figure(PAGE_INCHES, height / _POINTS, is_laid_out=False)
    inside = lanes.across.end - lanes.across.begin
    axes = figure.add_axes(
        (
            lanes.across.begin / width,
            below / height,
            inside / width,
            (lanes.bottom - _TITLE) / height,
        )
    )
    axes.set_xlim(0.0, lanes.across.high)
    axes.set_ylim(lanes.bottom, _TITLE)
    _dress(axes, scene)
    for branch in lanes.branches:
        _draw_connector(axes, lanes, branch)
        _draw_stage(axes, lanes, branch.rollout, lanes.ys[branch.lane])
    for labels, y in zip(lanes.labels, lanes.ys, strict=True):
        for label in labels:
            _write_label(axes, label, y)
    _draw_returned(axes, lanes)
    figure.legend(handles=entries, loc="lower center", ncols=columns, frameon=False)
    return figure


def _lanes(scene: Scene) -> Lanes:
    story, laid = scene.story, branches(scene.story)
    count = laid[-1].lane + 1
    plain = [tuple(lane_labels(story, laid, lane)) for lane in range(count)]
    high = max(end_epochs(story, rollout) for rollout in story.rollouts)
    beside = [
        text_width(label.text, _LETTER) for lane in plain for label in lane if label.is_beside
    ]
    across = Span(0.0, high, _SIDE, _POINTS * PAGE_INCHES - _SIDE - max(beside, default=0.0))
    labels = tuple(tuple(levelled(lane, across, _LETTER)) for lane in plain)
    heights = accumulate((_LANE + _LEVEL * levels(lane) for lane in labels), initial=_TITLE + 2)
    *_, bottom = tops = tuple(heights)
    ys = tuple(low - _LANE / 2 for low in tops[1:])
    return Lanes(scene, laid, across, labels, ys, bottom + 2)


def _dress(axes: Axes, scene: Scene) -> None:
    """Writes title and axis; there is no axis upwards."""
    tidy(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_xlabel(scene.x_label, loc="left")
    title = titled(scene, "stages in the order of training")
    axes.annotate(
        title, (0, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
        fontsize=LETTER_POINTS + 1.5, parse_math=False,
    )  # fmt: skip


def _draw_connector(axes: Axes, lanes: Lanes, branch: Branch) -> None:
    """Draws the way from the mark gone back to, down to the new lane and along to its start."""
    if branch.source is None:
        return
    mark, lane = branch.source
    x, start = spent_epochs(mark), float(branch.rollout.spent.epochs)
    y = lanes.ys[branch.lane]
    axes.plot([x, x, start], [lanes.ys[lane], y, y], color=BOUNDARY, lw=0.7, zorder=1)
    axes.plot(
        x, lanes.ys[lane], marker="o", ms=8.5, mfc="none", mec=BLACK, mew=0.8, zorder=5,
        clip_on=False,
    )  # fmt: skip


def _draw_stage(axes: Axes, lanes: Lanes, rollout: RolloutStory, y: float) -> None:
    begin = float(rollout.spent.epochs)
    if not rollout.is_complete:
        end = end_epochs(lanes.scene.story, rollout)
        axes.plot([begin, end], [y, y], color=BLUE, lw=0.8, ls=":", zorder=2)
    if not rollout.marks:
        return
    kept = lanes.scene.turn(rollout)
    turn, end = spent_epochs(kept), spent_epochs(rollout.marks[-1])
    axes.plot([turn, end], [y, y], color=_GREY, lw=2.2, solid_capstyle="butt", zorder=2.5)
    axes.plot([begin, turn], [y, y], color=BLUE, lw=2.2, solid_capstyle="butt", zorder=3)
    axes.plot([begin, begin], [y - 4, y + 4], color=BLACK, lw=1.0, zorder=3.5, clip_on=False)
    if len(lanes.scene.marks) <= _MOST_DOTS:
        for colour, marks in _dots(rollout, kept):
            places = [spent_epochs(mark) for mark in marks]
            axes.plot(
                places, [y] * len(places), marker="o", ms=3.2, mfc=colour, mec="white", mew=0.4,
                ls="none", zorder=4, clip_on=False,
            )  # fmt: skip


def _dots(rollout: RolloutStory, kept: Mark) -> Iterator[tuple[str, list[Mark]]]:
    """Yields the marks after the start that were kept and those that were rolled back."""
    yield BLUE, [mark for mark in rollout.marks[1:] if mark.k <= kept.k]
    yield _GREY, [mark for mark in rollout.marks[1:] if mark.k > kept.k]


def _write_label(axes: Axes, label: Label, y: float) -> None:
    at = (6.0, 0.0) if label.is_beside else (1.0, 6.0 + _LEVEL * label.level)
    axes.annotate(
        label.text, (label.x, y), xytext=at, textcoords="offset points", parse_math=False,
        va="center" if label.is_beside else "baseline", annotation_clip=False,
        color=VERMILLION if label.css == "dropped" else BLACK,
    )  # fmt: skip


def _draw_returned(axes: Axes, lanes: Lanes) -> None:
    best = lanes.scene.best
    for branch in lanes.branches:
        if best is not None and branch.rollout.n == best.n:
            marker = best_marker([spent_epochs(best)], [lanes.ys[branch.lane]])
            marker.set_clip_on(False)
            axes.add_line(marker)


def _tree_entries(scene: Scene) -> list[Artist]:
    from matplotlib.lines import Line2D

    story = scene.story
    has_back = story.totals().rolled_back_steps > 0
    has_turn = any(branch.source for branch in branches(story))
    has_drop = any(rollout.drops for rollout in story.rollouts)
    is_planned = any(not rollout.is_complete for rollout in story.rollouts)
    entries = [
        (True, Line2D([], [], color=BLUE, lw=2.2, marker="o", ms=3.2,
                      label="training, with its marks")),
        (has_back, Line2D([], [], color=_GREY, lw=2.2, marker="o", ms=3.2, label="rolled back")),
        (has_turn, Line2D([], [], color=BLACK, marker="o", ms=8.5, mfc="none", mew=0.8, ls="none",
                          label="mark gone back to")),
        (True, best_marker([], [], scene.best_name)),
        (has_drop, Line2D([], [], color=VERMILLION, marker="_", ms=6, ls="none",
                          label="tasks dropped after the stage")),
        (is_planned, Line2D([], [], color=BLUE, lw=0.8, ls=":", label="still to come")),
    ]  # fmt: skip
    return [entry for is_shown, entry in entries if is_shown]


def spent(scene: Scene, work: Measure) -> Figure:
    """Returns the mean score with its interval against the work of training."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    divisor, prefix = unit_prefix(max(work.values))
    where = {(m.n, m.k): x / divisor for m, x in zip(scene.marks, work.values, strict=True)}

    def across(mark: Mark) -> float:
        return where[mark.n, mark.k]

    curve = mean_curve(scene)
    name = "mean score" if len(scene.story.tasks) > 1 else "score"
    figure = new_figure(COLUMN_INCHES, 2.7)
    write_title(figure, scene, f"{name}, {split_text(scene)}")
    axes = figure.subplots()
    draw_ground(axes, scene, across)
    tidy(axes, "y")
    draw_curve(axes, scene, across, curve)
    draw_best(axes, scene, across, curve)
    axes.set_ylim(*padded(curve.heights(), share=0.08))
    axes.set_xlabel(f"{work.name}, {counted_unit(prefix, work.unit)}")
    axes.set_ylabel(f"{name}: {UNITS[curve.scale]}")
    entries = [
        Line2D([], [], color=BLUE, marker=".", ms=4, label=name),
        Patch(color=BLUE, alpha=0.15, lw=0, label="95 % interval"),
        best_marker([], [], scene.best_name),
        *ground_entries(scene),
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=2, frameon=False)
    return figure


def disk(scene: Scene, held: Measure) -> Figure:
    """Returns the disk in use at every evaluation point, and its mean."""
    mean = mean_held(held)
    places = range(1, len(held.values) + 1)
    figure = new_figure(COLUMN_INCHES, 2.2)
    write_title(figure, scene, "snapshots and crash copy on the disk")
    axes = figure.subplots()
    axes.plot(places, held.values, color=BLUE, lw=1.1, marker=".", ms=3.2, label="in use", zorder=3)
    axes.fill_between(places, held.values, color=BLUE, alpha=0.15, lw=0)
    axes.axhline(mean, color=VERMILLION, lw=1.1, ls="--", label=f"mean: {mean:.3g} {held.unit}")
    axes.set_ylim(0.0, 1.08 * max(held.values))
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("evaluation point, in the order of training")
    axes.set_ylabel(held.name)
    tidy(axes, "y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def seconds(scene: Scene, kinds: Mapping[str, float]) -> Figure:
    """Returns a bar for every kind of work, longest on top."""
    whole = sum(kinds.values())
    bars = sorted(kinds.items(), key=lambda item: (item[1], item[0]))
    unit, length = _unit_of_time(bars[-1][1])
    figure = new_figure(COLUMN_INCHES, 0.8 + 0.2 * len(bars))
    write_title(figure, scene, f"wall-clock time, {duration(whole)} in all")
    axes = figure.subplots()
    axes.barh(range(len(bars)), [value / length for _, value in bars], height=0.65, color=BLUE)
    for place, (_, value) in enumerate(bars):
        axes.annotate(
            f"{duration(value)}, {percent(value / whole)} %", (value / length, place),
            xytext=(3, 0), textcoords="offset points", va="center", fontsize=LETTER_POINTS - 0.5,
        )  # fmt: skip
    _name_bars(axes, [kind for kind, _ in bars])
    axes.set_xlim(0.0, 1.5 * bars[-1][1] / length)  # room for the longest bar's text
    axes.set_xlabel(f"time, {unit}")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)))
    for label in axes.set_yticklabels([clipped(name, _KIND_LENGTH) for name in names]):
        label.set_parse_math(False)


def _unit_of_time(longest: float) -> tuple[str, float]:
    """Returns a unit for an axis up to so many seconds, and its seconds."""
    return next(
        (unit for unit in (("hours", 3600.0), ("minutes", 60.0)) if longest >= 2 * unit[1]),
        ("seconds", 1.0),
    )
