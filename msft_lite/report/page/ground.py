"""What all curves of a run stand on: roll-out boundaries, rolled-back stretches, drawn marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from msft_lite.report.intervals import Estimate
from msft_lite.report.page.axes import Frame
from msft_lite.report.page.svg import (
    Element,
    Place,
    box,
    circle,
    diamond,
    line,
    polygon,
    polyline,
    square,
    words,
)
from msft_lite.report.scale import Scale
from msft_lite.report.story import Mark, RolloutStory, Story

Across = Callable[[Mark], float]  # where a mark stands from left to right
MOST_POINTS = 300
_MOST_NUMBERS = 12


@dataclass(frozen=True, slots=True)
class Curve:
    """A value at every mark.

    Attributes:
        value: the value at a mark with its interval, None where there is none.
        scale: how values are drawn and written.
        is_trained: whether the curve's task was in the roll-out's mixture.
        has_interval: whether a band is drawn.
    """

    value: Callable[[Mark], Estimate | None]
    scale: Scale
    is_trained: Callable[[RolloutStory], bool]
    has_interval: bool = True

    def height(self, mark: Mark) -> float | None:
        """Returns the value at ``mark`` as it is drawn."""
        estimate = self.value(mark)
        return None if estimate is None else self.scale.factor * estimate.value


def spent_epochs(mark: Mark) -> float:
    """Returns how many epochs the run had trained, rolled-back ones included."""
    return float(mark.spent.epochs)


def ground(story: Story, frame: Frame, across: Across) -> list[Element]:
    """Returns rolled-back stretches, roll-out boundaries and the roll-outs' numbers on top."""
    top, bottom = frame.y.end, frame.y.begin
    sparse = ceil(len(story.rollouts) / _MOST_NUMBERS)
    parts: list[Element] = []
    for place, rollout in enumerate(r for r in story.rollouts if r.marks):
        begin, end = (frame.x.at(across(rollout.marks[k])) for k in (0, -1))
        kept = story.kept_mark(rollout)
        if kept < len(rollout.marks) - 1:
            left = frame.x.at(across(rollout.marks[kept]))
            parts.append(box((left, top), (end - left, bottom - top), "back"))
        if place:
            parts.append(line((begin, top), (begin, bottom), "boundary"))
        if len(story.rollouts) > 1 and place % sparse == 0:
            middle = (begin + end) / 2
            parts.append(words((middle, top - 4), str(rollout.n), "tick", anchor="middle"))
    return parts


def stretches(
    story: Story, frame: Frame, across: Across, curve: Curve, tip: Callable[[Mark], str]
) -> list[Element]:
    """Returns the curve: a band, a line and points for every roll-out, unjoined between them."""
    parts: list[Element] = []
    has_points = len(story.marks) <= MOST_POINTS
    for rollout in story.rollouts:
        css = "trained" if curve.is_trained(rollout) else "excluded"
        marks = [mark for mark in rollout.marks if curve.value(mark) is not None]
        places = _places(frame, across, curve, marks)
        if curve.has_interval and len(marks) > 1:
            parts.append(_band(frame, across, curve, marks, css))
        if len(marks) > 1:
            parts.append(polyline(places, f"line {css}"))
        if has_points or len(marks) == 1:
            parts += [
                _point(place, css).titled(tip(mark))
                for place, mark in zip(places, marks, strict=True)
            ]
    return parts


def _places(frame: Frame, across: Across, curve: Curve, marks: Iterable[Mark]) -> list[Place]:
    heights = ((mark, curve.height(mark)) for mark in marks)
    return [frame.at(across(mark), y) for mark, y in heights if y is not None]


def _band(frame: Frame, across: Across, curve: Curve, marks: Sequence[Mark], css: str) -> Element:
    """Returns the intervals as an area: the lower bounds to the right, the upper ones back."""
    lower, upper = list[Place](), list[Place]()
    for mark in marks:
        if (estimate := curve.value(mark)) is not None:
            x, factor = across(mark), curve.scale.factor
            lower.append(frame.at(x, factor * estimate.low))
            upper.append(frame.at(x, factor * estimate.high))
    return polygon([*lower, *reversed(upper)], f"band {css}")


def _point(place: Place, css: str) -> Element:
    if css == "trained":
        return circle(place, 2.3, "point trained")
    return square(place, "point excluded")


def best_marker(story: Story, frame: Frame, across: Across, curve: Curve) -> list[Element]:
    """Returns the diamond at the returned point, or at the best mean so far."""
    best = story.best
    height = None if best is None else curve.height(best)
    if best is None or height is None:
        return []
    return [diamond(frame.at(across(best), height), "best").titled(best_name(story))]


def best_name(story: Story) -> str:
    """Returns what the best point is called while the run goes on and afterwards."""
    return "returned point" if story.finish else "best mean so far"
