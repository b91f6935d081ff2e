"""The figures of a comparison; matplotlib is imported on first use only."""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from msft_lite.report.compare.comparison import Comparison, System
from msft_lite.report.compare.cost_grids import flops_unit
from msft_lite.report.compare.grids import steered, whole_scale
from msft_lite.report.pictures import (
    COLOURS,
    DIFFERENCE_UNITS,
    GRID,
    MARKERS,
    MOST_COLUMNS,
    UNITS,
    ZERO,
    arms,
    clean,
    draw_estimate,
    drawable,
    name_rows,
    new_figure,
    save,
    scaled,
    set_names,
)
from msft_lite.report.tables import MEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_figures(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Draws every figure as PNG and as SVG into ``folder``.

    Returns:
        The PNG files, means.png, spent.png and, where there is more than one system,
        differences.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[tuple[str, Callable[[Comparison], Figure]]] = [
        ("means", _means),
        ("spent", _spent),
    ]
    if comparison.others:
        drawn.append(("differences", differences_figure))
    return tuple(save(partial(draw, comparison), folder / f"{name}.png") for name, draw in drawn)


def _means(comparison: Comparison) -> Figure:
    """Returns the mean of every system with its interval, the best on top."""
    scale = whole_scale(comparison)
    ordered = sorted(comparison.systems, key=lambda system: system.mean.score.value)
    figure = new_figure(
        8.0, 1.7 + 0.42 * len(ordered), f"Mean over tasks with 95 % interval{steered(comparison)}"
    )
    axes = figure.subplots()
    reference = scale.factor * comparison.reference_system.mean.score.value
    axes.axvline(reference, color=ZERO, lw=1.0, ls=(0, (4, 3)), zorder=1)
    for place, system in enumerate(ordered):
        is_reference = system.label == comparison.reference
        draw_estimate(axes, place, scaled(system.mean.score, scale), is_full=not is_reference)
        axes.annotate(
            scale.text(system.mean.score.value), (1.0, place),
            xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
    name_rows(axes, [_named(system) for system in ordered])
    axes.set_xlabel(
        f"{UNITS[scale]}; dashed line and hollow mark: {drawable(comparison.reference)}\n"
        "differences are of the same rows, so their own intervals say more than these",
        fontsize=9, parse_math=False,
    )  # fmt: skip
    clean(axes)
    return figure


def _spent(comparison: Comparison) -> Figure:
    """Returns mean score against training FLOPs, or tokens where FLOPs are unknown."""
    scale = whole_scale(comparison)
    values, unit = spending(comparison)
    places, columns = side_by_side(values), 2 if _has_long_labels(comparison) else 4
    height = 4.4 + 0.22 * ceil(len(values) / columns)
    figure = new_figure(8.0, height, f"Mean score against what training took{steered(comparison)}")
    axes = figure.subplots()
    for number, (system, value) in enumerate(zip(comparison.systems, places, strict=True)):
        score = scaled(system.mean.score, scale)
        axes.errorbar(
            value, score.value, yerr=arms(score), color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)], ls="none", mec="white", mew=0.6,
            ms=8, lw=1.1,
            label=str(number), zorder=3,
        )  # fmt: skip
    axes.set_xlim(left=0, right=1.06 * max(places) or 1.0)
    axes.set_ylabel(f"mean over tasks: {UNITS[scale]}", fontsize=9)
    moved = "" if places == values else "\nsystems that took the same stand side by side"
    axes.set_xlabel(f"{unit}{moved}", fontsize=9)
    clean(axes, "both")
    legend = figure.legend(loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    # Set late: as a handle's label a name is mathematics, or hidden if it begins with _.
    set_names(legend.get_texts(), [_named(system) for system in comparison.systems])
    return figure


def _has_long_labels(comparison: Comparison) -> bool:
    return any(len(_named(system)) > 18 for system in comparison.systems)


def side_by_side(values: Sequence[float]) -> list[float]:
    """Returns ``values``, those less than a mark's width apart moved to either side."""
    width = 0.016 * max(values)
    order = sorted(range(len(values)), key=lambda place: values[place])
    groups: list[list[int]] = []
    for place in order:
        if groups and values[place] - values[groups[-1][-1]] < width:
            groups[-1].append(place)
        else:
            groups.append([place])
    found = list(values)
    for group in groups:
        if len(group) > 1:
            centre = sum(values[place] for place in group) / len(group)
            for number, place in enumerate(sorted(group)):
                found[place] = centre + (number - (len(group) - 1) / 2) * width
    return found


def spending(comparison: Comparison) -> tuple[list[float], str]:
    """Returns what every system's training took, and what that is called."""
    flops = [system.costs.spent_flops for system in comparison.systems]
    known = [value for value in flops if value is not None]
    if len(known) < len(flops):
        tokens = [system.costs.trained_tokens / 1e6 for system in comparison.systems]
        return tokens, "million tokens trained, rolled-back ones included"
    prefix, factor = flops_unit(known)
    has_probes = any(system.costs.probe_flops for system in comparison.systems)
    probes = " and probes" if has_probes else ""
    unit = f"{prefix}FLOPs of training{probes}, rolled-back steps included"
    return [value / factor for value in known], unit


def differences_figure(comparison: Comparison) -> Figure:
    """Returns a panel a system with the difference of every task and of the mean."""
    others, reference = comparison.others, drawable(comparison.reference)
    columns = min(len(others), MOST_COLUMNS)
    rows = ceil(len(others) / columns)
    names = [*comparison.tasks, MEAN] if len(comparison.tasks) > 1 else [*comparison.tasks]
    figure = new_figure(
        max(8.0, 2.2 + 3.0 * columns), 1.3 + rows * (0.9 + 0.24 * len(names)),
        f"Difference to {reference} with 95 % interval{steered(comparison)}",
    )  # fmt: skip
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for number in range(rows * columns):
        axes = grid[number // columns][number % columns]
        if number >= len(others):
            axes.set_axis_off()
            continue
        _draw_differences(axes, comparison, others[number])
        if number + columns >= len(others):  # nothing stands below
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(DIFFERENCE_UNITS[whole_scale(comparison)], fontsize=8.5)
    name_rows(grid[0][0], names[::-1])
    figure.supxlabel(
        f"right of the line: better than {reference}; full mark: the interval leaves out 0 "
        "(not corrected for several comparisons)",
        fontsize=8.5, parse_math=False,
    )  # fmt: skip
    return figure


def _draw_differences(axes: Axes, comparison: Comparison, system: System) -> None:
    # One scale for all rows, with better to the right for losses too.
    scale = replace(whole_scale(comparison), factor=abs(whole_scale(comparison).factor))
    drawn = [system.tasks[task].difference for task in comparison.tasks]
    if len(drawn) > 1:
        drawn.append(system.mean.difference)
        axes.axhline(0.5, color=GRID, lw=0.8, zorder=0.5)
    axes.axvline(0, color=ZERO, lw=1.0, zorder=1)
    for place, difference in enumerate(drawn[::-1]):
        is_full = not difference.low <= 0 <= difference.high
        draw_estimate(axes, place, scaled(difference, scale), is_full=is_full)
    axes.set_title(drawable(system.label), fontsize=10, loc="left", parse_math=False)
    clean(axes)


def _named(system: System) -> str:
    """Returns the label of a system, with the number of its seeds where there are several."""
    count = len(system.seeds)
    label = drawable(system.label)
    return label if count == 1 else f"{label}, {count} seeds"
