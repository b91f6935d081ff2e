"""What the run cost, as pictures: mean score against training, disk, and where seconds went."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.report.page.axes import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    Frame,
    padded,
    panel_axes,
    panel_frame,
    text_width,
)
from msft_lite.report.page.curves import mean_curve
from msft_lite.report.page.ground import MOST_POINTS, Scene, best_marker, ground, stretches
from msft_lite.report.page.spending import Measure
from msft_lite.report.page.svg import (
    Element,
    Place,
    box,
    circle,
    drawing,
    polygon,
    polyline,
    words,
)
from msft_lite.report.page.texts import clipped
from msft_lite.report.story import Mark
from msft_lite.report.wording import duration, percent, place

_PREFIXES = (
    (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""),
)  # fmt: skip
_BAR_LEFT, _BAR_RIGHT, _BAR_HEIGHT, _BAR_WIDTH = 86.0, 225.0, 26.0, 360.0
_KIND_LENGTH = 11


def mean_panel(scene: Scene, spent: Measure) -> Element | None:
    """Returns the mean score against the training spent; None while no mark is recorded."""
    if not scene.marks:
        return None
    where = {(mark.n, mark.k): x for mark, x in zip(scene.marks, spent.values, strict=True)}
    divisor, prefix = unit_prefix(max(spent.values))
    curve = mean_curve(scene)
    frame = panel_frame((0.0, max(spent.values) / divisor), padded(curve.heights(), share=0.08))

    def across(mark: Mark) -> float:
        return where[mark.n, mark.k] / divisor

    def tip(mark: Mark) -> str:
        estimate = curve.values[mark.n, mark.k]
        value = f"{curve.scale.interval(estimate)} {curve.scale.unit}"
        return f"{place(mark)}: mean {value}, after {across(mark):.4g} {prefix}{spent.unit}"

    x_label = f"{spent.name}, {counted_unit(prefix, spent.unit)}"
    parts = [
        *ground(scene, frame, across),
        *panel_axes(frame, x_label=x_label, y_label=f"mean score, {curve.scale.unit}"),
        *stretches(scene, frame, across, curve, tip),
        *best_marker(scene, frame, across, curve),
    ]
    return drawing(PANEL_WIDTH, PANEL_HEIGHT, f"Mean score against {x_label}", parts)


def unit_prefix(largest: float) -> tuple[float, str]:
    """Returns what to divide by so that ``largest`` is short to write, and the prefix for it."""
    return next((p for p in _PREFIXES if largest >= p[0]), _PREFIXES[-1])


def counted_unit(prefix: str, unit: str) -> str:
    """Returns a unit in words: ``thousand tokens``, ``PFLOPs``."""
    if unit == "FLOPs":
        return f"{prefix}{unit}"
    names = {"k": "thousands", "M": "millions", "G": "billions", "T": "trillions", "": "count"}
    return names.get(prefix, f"{prefix}{unit}")


def disk_panel(scene: Scene, held: Measure) -> Element:
    """Returns the disk in use at every evaluation point, in the order of evaluation."""
    count = len(held.values)
    frame = panel_frame((1.0, float(count)), (0.0, max(held.values) * 1.08 or 1.0))
    places = [frame.at(k, value) for k, value in enumerate(held.values, start=1)]
    peak = max(held.values)
    parts = [
        *panel_axes(frame, x_label="evaluation point", y_label=held.name),
        polygon(_under(frame, places), "area"),
        polyline(places, "line trained"),
    ]
    if count <= MOST_POINTS:
        parts += [
            circle(at, 2.3, "point trained").titled(f"{place(mark)}: {value:.4g} {held.unit}")
            for at, mark, value in zip(places, scene.marks, held.values, strict=True)
        ]
    spoken = f"Disk in use at every evaluation point, at most {peak:.3g} {held.unit}"
    return drawing(PANEL_WIDTH, PANEL_HEIGHT, spoken, parts)


def _under(frame: Frame, places: list[Place]) -> list[Place]:
    bottom = frame.y.begin
    return [(places[0][0], bottom), *places, (places[-1][0], bottom)]


def seconds_panel(seconds: Mapping[str, float]) -> Element | None:
    """Returns a bar for every kind of work, longest first; None if nothing took time."""
    whole = sum(seconds.values())
    if whole <= 0:
        return None
    kinds = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
    longest = kinds[0][1]
    parts: list[Element] = []
    for number, (kind, value) in enumerate(kinds):
        y = 18.0 + number * _BAR_HEIGHT
        width = value / longest * (_BAR_RIGHT - _BAR_LEFT)
        text = f"{duration(value)}, {percent(value / whole)} %"
        parts += [
            words((_BAR_LEFT - 6, y + 12), clipped(kind, _KIND_LENGTH), "bar-name", anchor="end"),
            box((_BAR_LEFT, y), (max(width, 1.0), _BAR_HEIGHT - 9), "bar").titled(text),
            words((_BAR_LEFT + width + 6, y + 12), text, "tick"),
        ]
    height = 24.0 + len(kinds) * _BAR_HEIGHT
    widest = max(text_width(f"{duration(v)}, {percent(v / whole)} %", 11) for _, v in kinds)
    spoken = f"Seconds by kind of work, {duration(whole)} in all: " + ", ".join(
        f"{clipped(kind, _KIND_LENGTH)} {duration(value)}" for kind, value in kinds
    )
    parts.insert(0, words((2, 11), "wall-clock time and share", "axis-label"))
    return drawing(max(_BAR_WIDTH, _BAR_RIGHT + 8 + widest), height, spoken, parts)
