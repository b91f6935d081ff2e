"""What the figures of one run share: sizes for print, the ground that curves stand on."""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from msft_lite.report.page.ground import Across, Curve, Scene
from msft_lite.report.page.texts import clipped
from msft_lite.report.pictures import BLACK, BLUE, GREEN, GRID
from msft_lite.report.story import RolloutStory

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.typing import RcKeyType

ROLLED_BACK, BOUNDARY = "#E3E3E3", "#8A8A8A"
COLUMN_INCHES, PAGE_INCHES = 3.5, 7.0  # one and two columns of a paper
LETTER_POINTS = 7.0
_DOTS_PER_INCH, _MOST_DOTS = 300.0, 20_000.0
_NUMBER_ROOM = 0.05  # of the width of the axes, for a roll-out's number of two digits
_NAME_LENGTH = 16
# What `pictures.save` draws them with. The texts of an SVG stay texts, to be edited and searched;
# where the first font is missing they are narrower in the next, so nothing runs into anything.
PRINT: Mapping[RcKeyType, object] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": LETTER_POINTS,
    "axes.titlesize": LETTER_POINTS + 0.5,
    "axes.labelsize": LETTER_POINTS,
    "axes.linewidth": 0.6,
    "xtick.labelsize": LETTER_POINTS - 0.5,
    "ytick.labelsize": LETTER_POINTS - 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": LETTER_POINTS,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
}


def new_figure(width: float, height: float, *, is_laid_out: bool = True) -> Figure:
    """Returns an empty figure of that size in inches; a huge one has fewer dots to the inch."""
    from matplotlib.figure import Figure

    dots = min(_DOTS_PER_INCH, _MOST_DOTS / max(width, height))
    figure = Figure(
        figsize=(width, height), dpi=dots, layout="constrained" if is_laid_out else None
    )
    if is_laid_out:
        figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05)  # type: ignore[union-attr]
    return figure


def write_title(figure: Figure, scene: Scene, text: str) -> None:
    """Writes the method and ``text`` on top."""
    figure.suptitle(titled(scene, text), fontsize=LETTER_POINTS + 1.5, parse_math=False)


def titled(scene: Scene, text: str) -> str:
    """Returns a title that begins with the method."""
    return f"{clipped(scene.story.setting.method, _NAME_LENGTH)}: {text}"


def split_text(scene: Scene) -> str:
    """Returns which rows the scores along the run are of."""
    split = scene.story.setting.steer_on
    return f"{split} split" + ("\n(these rows steered the run)" if split == "report" else "")


def tidy(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    """Draws a faint grid and leaves out the frame's upper and right side."""
    axes.grid(visible=True, axis=grid, color=GRID, lw=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_ground(axes: Axes, scene: Scene, across: Across) -> None:
    """Draws rolled-back stretches, roll-out boundaries, and the roll-outs' numbers on top.

    It sets the range from left to right, from 0 to the last mark.
    """
    whole = across(scene.marks[-1]) or 1.0
    axes.set_xlim(-0.02 * whole, 1.02 * whole)
    rollouts = [rollout for rollout in scene.story.rollouts if rollout.marks]
    free = -whole  # where there is room for the next number
    for rollout in rollouts:
        begin, end = across(rollout.marks[0]), across(rollout.marks[-1])
        turn = across(scene.turn(rollout))
        if turn < end:
            axes.axvspan(turn, end, color=ROLLED_BACK, lw=0, zorder=0)
        if rollout is not rollouts[0]:
            # The white line keeps two rolled-back stretches side by side apart.
            axes.axvline(begin, color="white", lw=2, zorder=0.5)
            axes.axvline(begin, color=BOUNDARY, lw=0.6, ls=(0, (1, 2)), zorder=1)
        middle = (begin + end) / 2
        if len(rollouts) > 1 and middle >= free:
            free = middle + _NUMBER_ROOM * whole
            axes.annotate(
                str(rollout.n), (middle, 1.0), xycoords=("data", "axes fraction"),
                xytext=(0, 2), textcoords="offset points", ha="center",
                fontsize=LETTER_POINTS - 1, color=BOUNDARY,
            )  # fmt: skip


def draw_curve(axes: Axes, scene: Scene, across: Across, curve: Curve) -> None:
    """Draws the curve; across a roll-back there is no line."""
    for rollout in scene.story.rollouts:
        _draw_stretch(axes, rollout, across, curve)


def _draw_stretch(axes: Axes, rollout: RolloutStory, across: Across, curve: Curve) -> None:
    scale = curve.scale.factor
    found = [(across(mark), e) for mark in rollout.marks if (e := curve.at(mark)) is not None]
    if not found:
        return
    x = [place for place, _ in found]
    colour, style = (BLUE, "-") if curve.is_trained(rollout) else (BLACK, ":")
    axes.plot(
        x, [scale * e.value for _, e in found], color=colour, ls=style, lw=1.1, marker=".", ms=3.2,
        zorder=4,
    )  # fmt: skip
    if curve.has_interval:
        low, high = [scale * e.low for _, e in found], [scale * e.high for _, e in found]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, zorder=2)


def draw_best(axes: Axes, scene: Scene, across: Across, curve: Curve) -> None:
    """Draws the diamond at the returned point, or at the best mean so far."""
    height = None if scene.best is None else curve.height(scene.best)
    if scene.best is not None and height is not None:
        axes.add_line(best_marker([across(scene.best)], [height]))


def best_marker(x: Sequence[float], y: Sequence[float], label: str = "") -> Line2D:
    """Returns the diamond at such places; with none, for a legend."""
    from matplotlib.lines import Line2D

    return Line2D(
        x, y, marker="D", ms=5.5, mfc="none", mec=GREEN, mew=1.4, ls="none", zorder=6, label=label
    )


def ground_entries(scene: Scene) -> list[Artist]:
    """Returns what a legend says of `draw_ground`."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Artist] = []
    if len(scene.story.rollouts) > 1:
        label = "new roll-out, number on top"
        entries.append(Line2D([], [], color=BOUNDARY, ls=(0, (1, 2)), label=label))
    if scene.story.totals().rolled_back_steps > 0:
        entries.append(Patch(color=ROLLED_BACK, label="rolled back to its left edge"))
    return entries
