"""Colours, units and marks of figures; matplotlib is imported on first use only."""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msft_lite.report.intervals import Estimate
from msft_lite.report.scale import F1, LOSS, OWN, PERCENT, Scale
from msft_lite.report.wording import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.typing import RcKeyType

# Okabe and Ito's palette, told apart with every common colour blindness, without its yellow, which
# is faint on white.
BLUE, VERMILLION, GREEN, BLACK = "#0072B2", "#D55E00", "#009E73", "#222222"
COLOURS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GRID, ZERO = "#D0D0D0", "#6A6A6A"
MOST_COLUMNS = 3
_MOST_LABEL = 31  # characters of a name that a figure shows
UNITS = {
    PERCENT: "correct, %",
    F1: "F1, 0 to 100",
    LOSS: "loss in nats, lower is better",
    OWN: "score",
}
DIFFERENCE_UNITS = {
    PERCENT: "percentage points",
    F1: "points of F1",
    LOSS: "nats of loss saved",
    OWN: "difference of scores",
}


def save(
    draw: Callable[[], Figure], path: Path, settings: Mapping[RcKeyType, object] | None = None
) -> Path:
    """Writes what ``draw`` makes to ``path`` as PNG, and as SVG beside it.

    Equal figures give equal bytes: no date, no version, ids that depend on the file's name alone,
    of matplotlib's settings only ``settings`` and none of the reader's own.

    Returns:
        ``path``.

    Raises:
        OSError: a file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with warnings.catch_warnings(), matplotlib.rc_context():
        # A name in a script that the font lacks is drawn as boxes; that is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings or {})
        matplotlib.rcParams["svg.hashsalt"] = path.stem
        figure = draw()
        # Not by savefig, which draws twice; and laid out once, so that both files show the same.
        FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
        figure.set_layout_engine("none")
        vector = path.with_suffix(".svg")
        FigureCanvasSVG(figure).print_svg(vector, metadata={"Date": None, "Creator": None})
    return path


def new_figure(width: float, height: float, title: str) -> Figure:
    """Returns an empty figure of that many inches under ``title``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr]
    figure.suptitle(visible(title), fontsize=12, parse_math=False)
    return figure


def draw_estimate(axes: Axes, place: float, estimate: Estimate, *, is_full: bool) -> None:
    """Draws a value and its interval on row ``place``; hollow unless ``is_full``."""
    axes.errorbar(
        estimate.value, place, xerr=arms(estimate), marker="o", ms=6.5, color=BLUE, lw=1.3,
        mfc=BLUE if is_full else "white", mec=BLUE, mew=1.4, ls="none", zorder=3,
    )  # fmt: skip


def scaled(estimate: Estimate, scale: Scale) -> Estimate:
    """Returns ``estimate`` in the unit of ``scale``."""
    low, high = sorted((scale.factor * estimate.low, scale.factor * estimate.high))
    return Estimate(scale.factor * estimate.value, low, high)


def arms(estimate: Estimate) -> list[list[float]]:
    """Returns the lengths to either side; a bootstrap's interval may leave out its value."""
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    return [[max(0.0, below)], [max(0.0, above)]]


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Writes ``names`` beside the rows of ``axes``, the first at the bottom."""
    axes.set_yticks(range(len(names)))
    # Ticks are given their texts anew when they are drawn, so those must be right from the start.
    for label in axes.set_yticklabels([drawable(name) for name in names]):
        label.set_parse_math(False)
    axes.set_ylim(-0.6, len(names) - 0.4)


def set_names(texts: Iterable[Text], names: Sequence[str]) -> None:
    """Sets ``texts`` to foreign names: none is mathematics, or hidden because it begins with _."""
    for text, name in zip(texts, names, strict=True):
        text.set_parse_math(False)
        text.set_text(drawable(name))


def clean(axes: Axes, grid_axis: Literal["x", "y", "both"] = "x") -> None:
    """Leaves of the frame what is needed to read values, and draws a faint grid."""
    axes.grid(visible=True, axis=grid_axis, color=GRID, lw=0.6, zorder=0.2)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def drawable(name: str) -> str:
    """Returns a name on one line, its middle left out where it would take the picture's room."""
    shown, half = visible(name), _MOST_LABEL // 2
    return shown if len(shown) <= _MOST_LABEL else f"{shown[:half]}…{shown[-half:]}"
