"""The stages of a run as a tree: time to the right, one lane a branch, roll-backs branch off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from msft_lite.report.page.axes import Span, round_ticks, text_width, tick_texts
from msft_lite.report.page.ground import Scene, spent_epochs
from msft_lite.report.page.svg import (
    Element,
    Place,
    circle,
    diamond,
    drawing,
    line,
    polyline,
    words,
)
from msft_lite.report.page.texts import clipped, shortened
from msft_lite.report.story import Mark, RolloutStory, Story
from msft_lite.report.wording import counted, place

WIDTH = 1080.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 16.0, 900.0, 12.0, 44.0
_LANE_HEIGHT, _LEVEL_HEIGHT = 20.0, 14.0
_LETTER_SIZE = 11.0
_LABEL_LENGTH, _DROPS_LENGTH = 22, 300
_MOST_DOTS = 400


@dataclass(frozen=True, slots=True)
class Branch:
    """A stage, the lane it lies in, and the mark of an earlier lane that it leaves from.

    Attributes:
        lane: counted from the top; stages that go on from an end share their lane.
        source: the mark it goes back to, and that mark's lane; None where it goes on or begins.
    """

    rollout: RolloutStory
    lane: int
    source: tuple[Mark, int] | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """A text over a lane, or, beside the end of a lane, on it.

    Attributes:
        x: where it begins, in epochs.
        level: lines over the lane; labels of one level do not overlap.
    """

    x: float
    text: str
    tip: str
    css: str
    is_beside: bool = False
    level: int = 0


def branches(story: Story) -> tuple[Branch, ...]:
    """Returns every stage with its lane.

    A stage that starts from the tip of a lane goes on in it; any other begins a new lane below.
    """
    found: list[Branch] = []
    for rollout in story.rollouts:
        source = _source(found, rollout.start)
        if source is None:
            lane = 0 if not found else found[-1].lane + 1
            found.append(Branch(rollout, lane))
            continue
        branch, mark = source
        is_tip = branch is found[-1] and mark is branch.rollout.marks[-1]
        if is_tip:
            found.append(Branch(rollout, branch.lane))
        else:
            lane = 1 + max(b.lane for b in found)
            found.append(Branch(rollout, lane, (mark, branch.lane)))
    return tuple(found)


def _source(found: Sequence[Branch], snapshot: str) -> tuple[Branch, Mark] | None:
    """Returns the latest stage that scored ``snapshot``, and its mark there."""
    for branch in reversed(found):
        for mark in branch.rollout.marks:
            if mark.snapshot == snapshot:
                return branch, mark
    return None


def tree(scene: Scene) -> Element | None:
    """Returns the picture of all stages; None while there is none."""
    story = scene.story
    if not story.rollouts:
        return None
    laid = branches(story)
    across = _across(story)
    labels = [
        levelled(lane_labels(story, laid, lane), across, _LETTER_SIZE)
        for lane in range(laid[-1].lane + 1)
    ]
    heights = [_LANE_HEIGHT + _LEVEL_HEIGHT * levels(lane) for lane in labels]
    ys = [_TOP + low - _LANE_HEIGHT / 2 for low in accumulate(heights)]
    bottom = _TOP + sum(heights) + 4
    parts = [
        *_axis(scene, across, bottom),
        *(part for branch in laid for part in _connector(branch, across, ys)),
        *(part for branch in laid for part in _lane(scene, branch, across, ys)),
        *(part for branch in laid for part in _turn(branch, across, ys)),
        *(_text(label, across, y) for lane, y in zip(labels, ys, strict=True) for label in lane),
        *_best(scene, laid, across, ys),
    ]
    return drawing(WIDTH, bottom + _BOTTOM, _spoken(story, laid), parts)


def _across(story: Story) -> Span:
    """Returns the span of the time axis, the marks still to come included."""
    return Span(0.0, max(end_epochs(story, rollout) for rollout in story.rollouts), _LEFT, _RIGHT)


def end_epochs(story: Story, rollout: RolloutStory) -> float:
    """Returns when ``rollout`` ends or is to end."""
    if rollout.is_complete:
        return spent_epochs(rollout.marks[-1])
    return float(rollout.spent.epochs) + len(rollout.steps) / story.setting.marks_per_epoch


def _axis(scene: Scene, across: Span, bottom: float) -> Iterator[Element]:
    ticks = round_ticks(0.0, across.high, 10)
    yield line((_LEFT, bottom), (_RIGHT, bottom), "axis")
    for value, text in zip(ticks, tick_texts(ticks), strict=True):
        x = across.at(value)
        yield line((x, _TOP), (x, bottom), "grid")
        yield line((x, bottom), (x, bottom + 4), "axis")
        yield words((x, bottom + 16), text, "tick", anchor="middle")
    yield words((_LEFT, bottom + 34), scene.x_label, "axis-label")


def _connector(branch: Branch, across: Span, ys: Sequence[float]) -> Iterator[Element]:
    """Yields the way from the mark gone back to, down to the new lane and along to its start."""
    if branch.source is None:
        return
    mark, lane = branch.source
    x, start = across.at(spent_epochs(mark)), across.at(float(branch.rollout.spent.epochs))
    y = ys[branch.lane]
    yield polyline([(x, ys[lane]), (x, y), (start, y)], "connector").titled(
        f"back to {place(mark)}"
    )


def _turn(branch: Branch, across: Span, ys: Sequence[float]) -> Iterator[Element]:
    """Yields the ring around the mark gone back to, to be drawn over its lane."""
    if branch.source is not None:
        mark, lane = branch.source
        at = (across.at(spent_epochs(mark)), ys[lane])
        yield circle(at, 4.6, "branching").titled(f"roll-out {branch.rollout.n} begins here")


def _lane(scene: Scene, branch: Branch, across: Span, ys: Sequence[float]) -> Iterator[Element]:
    rollout, y = branch.rollout, ys[branch.lane]
    begin = across.at(float(rollout.spent.epochs))
    if not rollout.is_complete:
        yield line((begin, y), (across.at(end_epochs(scene.story, rollout)), y), "planned")
    if not rollout.marks:
        return
    kept = scene.turn(rollout)
    turn, end = (across.at(spent_epochs(mark)) for mark in (kept, rollout.marks[-1]))
    if end > turn:
        yield line((turn, y), (end, y), "lane-back")
    if turn > begin:
        yield line((begin, y), (turn, y), "lane-kept")
    yield line((begin, y - 6), (begin, y + 6), "boundary-solid")
    if len(scene.marks) <= _MOST_DOTS:
        for mark in rollout.marks[1:]:
            yield _dot(mark, across, y, is_kept=mark.k <= kept.k)


def _dot(mark: Mark, across: Span, y: float, *, is_kept: bool) -> Element:
    css = "dot kept" if is_kept else "dot rolled-back"
    radius = 3.4 if is_kept else 2.4
    return circle((across.at(spent_epochs(mark)), y), radius, css).titled(place(mark))


def lane_labels(story: Story, laid: Sequence[Branch], lane: int) -> Iterator[Label]:
    """Yields what is written on a lane, from left to right."""
    stages = [branch for branch in laid if branch.lane == lane]
    for branch in stages:
        rollout = branch.rollout
        yield Label(
            float(rollout.spent.epochs), f"{rollout.n}: {_trained(rollout)}",
            f"roll-out {rollout.n} trains {shortened(', '.join(rollout.tasks), _DROPS_LENGTH)}",
            "stage",
        )  # fmt: skip
        if rollout.drops:
            names = [clipped(drop.task, _LABEL_LENGTH) for drop in rollout.drops]
            full = shortened(", ".join(drop.task for drop in rollout.drops), _DROPS_LENGTH)
            shown = clipped(", ".join(names), _LABEL_LENGTH)
            yield Label(
                end_epochs(story, rollout), f"\N{MINUS SIGN} {shown}",
                f"dropped: {full}", "dropped", is_beside=branch is stages[-1],
            )  # fmt: skip


def _trained(rollout: RolloutStory) -> str:
    """Returns how many tasks a stage trains; a single one is named."""
    if len(rollout.tasks) == 1:
        return clipped(rollout.tasks[0], _LABEL_LENGTH)
    return counted(len(rollout.tasks), "task")


def levelled(labels: Iterable[Label], across: Span, letter_size: float) -> list[Label]:
    """Returns the labels, each over a lane on the lowest level that has room for it.

    Args:
        labels: of one lane, from left to right.
        across: from epochs to places.
        letter_size: in the unit of those places.
    """
    ends: list[float] = []  # of the last label on every level
    found: list[Label] = []
    for label in labels:
        if label.is_beside:
            found.append(label)
            continue
        x = across.at(label.x)
        level = next((k for k, end in enumerate(ends) if end <= x), len(ends))
        ends[level : level + 1] = [x + text_width(label.text, letter_size) + 8]
        found.append(replace(label, level=level))
    return found


def levels(labels: Sequence[Label]) -> int:
    """Returns how many lines of text stand over a lane."""
    return max((label.level + 1 for label in labels if not label.is_beside), default=0)


def _text(label: Label, across: Span, y: float) -> Element:
    x = across.at(label.x)
    at: Place = (x + 8, y + 4) if label.is_beside else (x + 2, y - 8 - label.level * _LEVEL_HEIGHT)
    return words(at, label.text, f"label {label.css}").titled(label.tip)


def _best(
    scene: Scene, laid: Sequence[Branch], across: Span, ys: Sequence[float]
) -> Iterator[Element]:
    best = scene.best
    branch = next((b for b in laid if best is not None and b.rollout.n == best.n), None)
    if best is not None and branch is not None:
        at = (across.at(spent_epochs(best)), ys[branch.lane])
        yield diamond(at, "best").titled(f"{scene.best_name}: {place(best)}")


def _spoken(story: Story, laid: Sequence[Branch]) -> str:
    """Returns the tree in words, one clause a stage."""
    clauses = [_clause(branch) for branch in laid[:40]]
    rest = f"; and {len(laid) - 40} more" if len(laid) > 40 else ""
    return f"Stages of the run in the order of training: {'; '.join(clauses)}{rest}"


def _clause(branch: Branch) -> str:
    rollout = branch.rollout
    start = f" from {place(branch.source[0])}" if branch.source else ""
    drops = ", ".join(clipped(drop.task, _LABEL_LENGTH) for drop in rollout.drops)
    return f"{rollout.n}{start}, {counted(len(rollout.tasks), 'task')}" + (
        f", drops {drops}" if drops else ""
    )
