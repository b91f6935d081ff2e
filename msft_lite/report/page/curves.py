"""A panel per task: its score at every mark, and its training loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msft_lite.report.intervals import Estimate, estimate_of, mean_estimate
from msft_lite.report.page.axes import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    Frame,
    padded,
    panel_axes,
    panel_frame,
)
from msft_lite.report.page.ground import (
    Curve,
    best_marker,
    ground,
    spent_epochs,
    stretches,
)
from msft_lite.report.page.svg import Element, drawing, line, triangle
from msft_lite.report.page.texts import NAME_LENGTH, clipped, shortened
from msft_lite.report.scale import F1, LOSS, OWN, PERCENT, Scale, scale_of
from msft_lite.report.story import Mark, Standing, Story
from msft_lite.report.wording import place, standing_text

_UNITS = {
    PERCENT: "correct, %",
    F1: "F1, 0 to 100",
    LOSS: "loss, nats per answer token (lower is better)",
    OWN: "score",
}
_NATS = Scale("nats", 1.0, 3)
_SHARES = (PERCENT, F1)


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture and the words over it."""

    title: str
    subtitle: str
    picture: Element


def score_panels(story: Story) -> tuple[Panel, ...]:
    """Returns a panel for the mean, if there are several tasks, and one for every task."""
    if not story.marks:
        return ()
    panels = [_task_panel(story, task) for task in story.names]
    return tuple(panels) if len(panels) == 1 else (_mean_panel(story), *panels)


def _mean_panel(story: Story) -> Panel:
    scale = scale_of(story.setting.steering_metrics().values())
    curve = Curve(lambda mark: mean_estimate(mark.scores), scale, lambda _rollout: True)
    best = story.best
    subtitle = "" if best is None else f"best at {place(best)}"
    return Panel("mean over all tasks", subtitle, _scores(story, curve, "mean over all tasks"))


def _task_panel(story: Story, task: str) -> Panel:
    scale = scale_of([story.setting.steering_metrics()[task]])
    curve = Curve(
        lambda mark: estimate_of(mark.scores[task]),
        scale,
        lambda rollout: task in rollout.tasks,
    )
    standing = story.standing(task)
    picture = _scores(story, curve, clipped(task, NAME_LENGTH), standing)
    return Panel(shortened(task, NAME_LENGTH), standing_text(standing), picture)


def _scores(story: Story, curve: Curve, name: str, standing: Standing | None = None) -> Element:
    frame = panel_frame((0.0, spent_epochs(story.marks[-1])), _range(story, curve))
    ticks = (0.0, 25.0, 50.0, 75.0, 100.0) if curve.scale in _SHARES else ()
    parts = [
        *ground(story, frame, spent_epochs),
        *panel_axes(frame, x_label=epochs_label(story), y_label=_UNITS[curve.scale], y_ticks=ticks),
        *stretches(story, frame, spent_epochs, curve, lambda mark: _tip(curve, mark)),
        *(_drop(story, frame, standing, curve) if standing else []),
        *best_marker(story, frame, spent_epochs, curve),
    ]
    return drawing(PANEL_WIDTH, PANEL_HEIGHT, _spoken(story, curve, name, standing), parts)


def epochs_label(story: Story) -> str:
    """Returns what the axis of epochs is called."""
    has_back = story.totals().rolled_back_steps > 0
    return "epochs trained, rolled-back ones included" if has_back else "epochs trained"


def _range(story: Story, curve: Curve) -> tuple[float, float]:
    """Returns 0 to 100 for shares, so that panels compare; else what the values need."""
    if curve.scale in _SHARES:
        return (-4.0, 104.0)
    return padded(heights(curve, story.marks))


def heights(curve: Curve, marks: Iterable[Mark]) -> list[float]:
    """Returns every value that is drawn, with the ends of its interval if there is a band."""
    found = [estimate for mark in marks if (estimate := curve.value(mark)) is not None]
    bounds = [(e.low, e.value, e.high) if curve.has_interval else (e.value,) for e in found]
    return [curve.scale.factor * value for group in bounds for value in group]


def _tip(curve: Curve, mark: Mark) -> str:
    estimate = curve.value(mark)
    value = "" if estimate is None else f"{curve.scale.interval(estimate)} {curve.scale.unit}"
    if not curve.has_interval and estimate is not None:
        value = f"{curve.scale.text(estimate.value)} {curve.scale.unit}"
    return f"{place(mark)}: {value}, after {spent_epochs(mark):g} epochs"


def _spoken(story: Story, curve: Curve, name: str, standing: Standing | None) -> str:
    """Returns the curve in one sentence."""
    first, best = story.marks[0], story.best
    points = [mark for mark in (first, best) if mark is not None]
    texts = [
        f"{curve.scale.text(e.value)} {curve.scale.unit} at {place(mark)}"
        for mark in points
        if (e := curve.value(mark)) is not None
    ]
    tail = f"; {standing_text(standing)}" if standing else ""
    return f"{name}, score against epochs trained: {', '.join(texts)}{tail}"


def _drop(
    story: Story, frame: Frame, standing: Standing, curve: Curve | None = None
) -> list[Element]:
    """Returns the line where a task left, and on a curve its peak."""
    if standing.word != "dropped":
        return []
    rollout = next((r for r in story.rollouts if r.n == standing.n), None)
    if rollout is None or not rollout.marks:
        return []
    x = frame.x.at(spent_epochs(rollout.marks[-1]))
    left = f"dropped after roll-out {rollout.n}"
    parts = [line((x, frame.y.begin), (x, frame.y.end), "drop").titled(left)]
    peak = next((mark for mark in rollout.marks if mark.k == standing.mark), None)
    height = None if peak is None or curve is None else curve.height(peak)
    if curve is not None and peak is not None and height is not None:
        tip = f"peak that led to the drop, {_tip(curve, peak)}"
        parts.append(triangle(frame.at(spent_epochs(peak), height), "peak").titled(tip))
    return parts


def loss_panels(story: Story) -> tuple[Panel, ...]:
    """Returns a panel for every task whose training loss is recorded."""
    recorded = [t for t in story.names if any(t in mark.train_loss for mark in story.marks)]
    return tuple(_loss_panel(story, task) for task in recorded)


def _loss_panel(story: Story, task: str) -> Panel:
    def value(mark: Mark) -> Estimate | None:
        loss = mark.train_loss.get(task)
        return None if loss is None else Estimate(loss, loss, loss)

    curve = Curve(value, _NATS, lambda rollout: task in rollout.tasks, has_interval=False)
    frame = panel_frame((0.0, spent_epochs(story.marks[-1])), _loss_range(story, curve))
    parts = [
        *ground(story, frame, spent_epochs),
        *panel_axes(frame, x_label=epochs_label(story), y_label="loss, nats per answer token"),
        *stretches(story, frame, spent_epochs, curve, lambda mark: _tip(curve, mark)),
        *_drop(story, frame, story.standing(task)),
    ]
    values = heights(curve, story.marks)
    spoken = (
        f"{clipped(task, NAME_LENGTH)}, training loss against epochs trained: "
        f"{values[0]:.3f} at first, {values[-1]:.3f} at last"
    )
    picture = drawing(PANEL_WIDTH, PANEL_HEIGHT, spoken, parts)
    return Panel(shortened(task, NAME_LENGTH), "", picture)


def _loss_range(story: Story, curve: Curve) -> tuple[float, float]:
    """Returns 0 to a little over the highest loss."""
    highest = max(heights(curve, story.marks), default=1.0)
    return (0.0, highest * 1.06 or 1.0)
