"""What all curves of a run stand on: roll-out boundaries, rolled-back stretches, drawn marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
class Scene:
    """A story with the answers that every picture asks for, found once.

    Attributes:
        best: the returned point, or the best mean so far.
        kept: mark of every roll-out, by its number, that training went on from.
        x_label: what the axis of epochs is called.
    """

    story: Story
    marks: tuple[Mark, ...]
    best: Mark | None
    kept: Mapping[int, int]
    x_label: str

    def turn(self, rollout: RolloutStory) -> Mark:
        """Returns the recorded mark of ``rollout`` after which all was rolled back, if anything."""
        kept = [mark for mark in rollout.marks if mark.k <= self.kept[rollout.n]]
        return kept[-1]

    @property
    def best_name(self) -> str:
        """What the best point is called while the run goes on and afterwards."""
        return "returned point" if self.story.finish else "best mean so far"


def scene_of(story: Story) -> Scene:
    """Returns what is drawn of ``story``."""
    has_back = story.totals().rolled_back_steps > 0
    return Scene(
        story=story,
        marks=story.marks,
        best=story.best,
        kept={rollout.n: story.kept_mark(rollout) for rollout in story.rollouts},
        x_label="epochs trained, rolled-back ones included" if has_back else "epochs trained",
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """A value at every mark.

    Attributes:
        values: the value with its interval by roll-out and mark; where there is none, no entry.
        scale: how values are drawn and written.
        is_trained: whether the curve's task was in the roll-out's mixture.
        has_interval: whether a band is drawn.
    """

    values: Mapping[tuple[int, int], Estimate]
    scale: Scale
    is_trained: Callable[[RolloutStory], bool]
    has_interval: bool = True

    def at(self, mark: Mark) -> Estimate | None:
        """Returns the value at ``mark``."""
        return self.values.get((mark.n, mark.k))

    def height(self, mark: Mark) -> float | None:
        """Returns the value at ``mark`` as it is drawn."""
        estimate = self.at(mark)
        return None if estimate is None else self.scale.factor * estimate.value

    def heights(self) -> list[float]:
        """Returns every value that is drawn, with the ends of its interval if there is a band."""
        return [
            self.scale.factor * value
            for e in self.values.values()
            for value in ((e.low, e.value, e.high) if self.has_interval else (e.value,))
        ]


def spent_epochs(mark: Mark) -> float:
    """Returns how many epochs the run had trained, rolled-back ones included."""
    return float(mark.spent.epochs)


def ground(scene: Scene, frame: Frame, across: Across) -> list[Element]:
    """Returns rolled-back stretches, roll-out boundaries and the roll-outs' numbers on top."""
    top, bottom = frame.y.end, frame.y.begin
    rollouts = [rollout for rollout in scene.story.rollouts if rollout.marks]
    sparse = ceil(len(rollouts) / _MOST_NUMBERS)
    parts: list[Element] = []
    for place, rollout in enumerate(rollouts):
        begin, end = (frame.x.at(across(rollout.marks[k])) for k in (0, -1))
        turn = scene.turn(rollout)
        if turn is not rollout.marks[-1]:
            left = frame.x.at(across(turn))
            parts.append(box((left, top), (end - left, bottom - top), "back"))
        if place:
            parts.append(line((begin, top), (begin, bottom), "boundary"))
        if len(rollouts) > 1 and place % sparse == 0:
            middle = (begin + end) / 2
            parts.append(words((middle, top - 4), str(rollout.n), "tick", anchor="middle"))
    return parts


def stretches(
    scene: Scene, frame: Frame, across: Across, curve: Curve, tip: Callable[[Mark], str]
) -> list[Element]:
    """Returns the curve: a band, a line and points for every roll-out, unjoined between them."""
    parts: list[Element] = []
    has_points = len(scene.marks) <= MOST_POINTS
    for rollout in scene.story.rollouts:
        css = "trained" if curve.is_trained(rollout) else "excluded"
        marks = [mark for mark in rollout.marks if curve.at(mark) is not None]
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
        if (estimate := curve.at(mark)) is not None:
            x, factor = across(mark), curve.scale.factor
            lower.append(frame.at(x, factor * estimate.low))
            upper.append(frame.at(x, factor * estimate.high))
    return polygon([*lower, *reversed(upper)], f"band {css}")


def _point(place: Place, css: str) -> Element:
    if css == "trained":
        return circle(place, 2.3, "point trained")
    return square(place, "point excluded")


def best_marker(scene: Scene, frame: Frame, across: Across, curve: Curve) -> list[Element]:
    """Returns the diamond at the returned point, or at the best mean so far."""
    best = scene.best
    height = None if best is None else curve.height(best)
    if best is None or height is None:
        return []
    return [diamond(frame.at(across(best), height), "best").titled(scene.best_name)]
