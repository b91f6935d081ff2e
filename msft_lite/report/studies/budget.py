"""Score and operations of msft against sft, for several budgets of a stage.

Source: the sweep of C in Koh et al., arXiv 2603.21606: with Qwen2.5 3B +3.4 points and -120
PFLOPs, +2.3 and +104, +1.6 and +337 for C of 1, 3 and 5.
"""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msft_lite.report.compare import Comparison, compare
from msft_lite.report.compare.figures import spending
from msft_lite.report.compare.grids import score_notes, steered, whole_scale
from msft_lite.report.intervals import Estimate
from msft_lite.report.pictures import (
    DIFFERENCE_UNITS,
    GREEN,
    VERMILLION,
    ZERO,
    clean,
    draw_estimate,
    name_rows,
    new_figure,
    scaled,
)
from msft_lite.report.studies.study import (
    Line,
    Picture,
    Stories,
    Study,
    better_up,
    signed,
)
from msft_lite.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run came to against sft.

    Attributes:
        name: such as ``C = 3``.
        difference: of the mean score.
        spent: in the study's unit of compute.
        extra: that without what sft spent.
        share: that over what sft spent.
    """

    label: str
    name: str
    difference: Estimate
    spent: float
    extra: float
    share: float


def budgets_of(comparison: Comparison) -> tuple[tuple[Budget, ...], float, str]:
    """Returns the runs but sft, what sft spent, and the unit of compute."""
    values, unit = spending(comparison)
    spent = dict(zip((system.label for system in comparison.systems), values, strict=True))
    base = spent[comparison.reference]
    found = tuple(
        Budget(
            label=system.label,
            name=f"C = {system.label.rpartition('-')[2]}",
            difference=system.mean.difference,
            spent=spent[system.label],
            extra=spent[system.label] - base,
            share=spent[system.label] / base if base else 0.0,
        )
        for system in comparison.others
    )
    return found, base, unit


def budget(stories: Stories) -> Study:
    """Returns the study of one run of sft and several of msft."""
    comparison = compare({label: [story] for label, story in stories.items()})
    found, base, unit = budgets_of(comparison)
    best = max(found, key=lambda each: each.difference.value)
    scale = better_up(whole_scale(comparison))
    told = ", ".join(
        f"{signed(scale.factor * each.difference.value, scale.digits)} at {each.name}"
        for each in found
    )
    return Study(
        name="budget",
        headline=f"mean score against sft: {told}; best at {best.name}",
        grids=(_grid(comparison, found, base, unit),),
        pictures=(Picture("budgets", lambda: _figure(comparison, found, base, unit)),),
        lines=tuple(_lines(comparison, found, base, unit)),
        notes=comparison.notes,
    )


def _grid(comparison: Comparison, found: tuple[Budget, ...], base: float, unit: str) -> Grid:
    scale = whole_scale(comparison)
    short = unit.partition(" of ")[0]
    means = {s.label: scale.interval(s.mean.score) for s in comparison.systems}
    rows = [
        (f"msft, {each.name}", means[each.label], scale.difference(each.difference),
         f"{each.spent:,.2f}", signed(each.extra), f"{each.share:.2f}")
        for each in found
    ]  # fmt: skip
    first = (comparison.reference, means[comparison.reference], "-", f"{base:,.2f}", "-", "1.00")
    return Grid(
        f"Budgets{steered(comparison)}",
        ("Run ", f"Mean {scale.unit}", "Against sft", f"Spent, {short}", f"Against sft, {short}",
         "sft = 1"),
        (first, *rows),
        (f"C: epochs of a stage. Spent: {unit}; scoring at marks is not in it.",
         *score_notes(comparison)),
    )  # fmt: skip


def _lines(comparison: Comparison, found: tuple[Budget, ...], base: float, unit: str) -> list[Line]:
    lines = [Line.of(s.label, "", "score", s.mean.score) for s in comparison.systems]
    lines.append(Line(comparison.reference, "", f"spent, {unit}", base))
    for each in found:
        lines.append(Line.of(each.label, "", "difference to sft", each.difference))
        lines.append(Line(each.label, "", f"spent, {unit}", each.spent))
        lines.append(Line(each.label, "", f"spent against sft, {unit}", each.extra))
    return lines


def _figure(comparison: Comparison, found: tuple[Budget, ...], base: float, unit: str) -> Figure:
    """Returns two panels with a row a budget: score and compute against sft."""
    figure = new_figure(
        9.5, 2.6 + 0.5 * len(found), f"Budget of a stage: msft against sft{steered(comparison)}"
    )
    left, right = figure.subplots(1, 2, sharey=True)
    ordered = found[::-1]
    scale = whole_scale(comparison)
    up = better_up(scale)
    for place, each in enumerate(ordered):
        is_full = not each.difference.low <= 0 <= each.difference.high
        draw_estimate(left, place, scaled(each.difference, up), is_full=is_full)
    mean = scale.text(comparison.reference_system.mean.score.value)
    _finish(left, f"Mean score with 95 % interval (sft: {mean} {scale.unit})")
    left.set_xlabel(f"{DIFFERENCE_UNITS[scale]} against sft; right is better", fontsize=9)
    _draw_spent(right, ordered)
    name_rows(left, [each.name for each in ordered])
    short = unit.partition(" of ")[0]
    _finish(right, f"Training compute (sft: {base:,.2f} {short})")
    right.set_xlabel(f"{short} against sft; left is cheaper", fontsize=9)
    figure.supxlabel(
        "C: epochs of a stage; full mark: the interval leaves out 0 (not corrected for several "
        "comparisons)",
        fontsize=8.5,
    )
    return figure


def _draw_spent(axes: Axes, ordered: tuple[Budget, ...]) -> None:
    most = max(abs(each.extra) for each in ordered) or 1.0
    for place, each in enumerate(ordered):
        colour = GREEN if each.extra < 0 else VERMILLION
        axes.barh(place, each.extra, height=0.5, color=colour, zorder=2)
        axes.annotate(
            f"{signed(each.extra)} ({each.share:.2f} x sft)", (max(0.0, each.extra), place),
            xytext=(5, 0), textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    lowest, highest = min(0.0, *(e.extra for e in ordered)), max(0.0, *(e.extra for e in ordered))
    # Room on the right for what is written beside the longest bar.
    axes.set_xlim(lowest - 0.08 * most, highest + 0.7 * (highest - lowest or most))


def _finish(axes: Axes, title: str) -> None:
    axes.axvline(0, color=ZERO, lw=1.0, zorder=1)
    axes.set_title(title, fontsize=10, loc="left")
    clean(axes)
