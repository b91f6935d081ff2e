"""A panel per task: its score at every mark, and its training loss."""

from __future__ import annotations

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
    Scene,
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


def score_panels(scene: Scene) -> tuple[Panel, ...]:
    """Returns a panel for the mean, if there are several tasks, and one for every task."""
    if not scene.marks:
        return ()
    panels = [_task_panel(scene, task) for task in scene.story.names]
    return tuple(panels) if len(panels) == 1 else (_mean_panel(scene), *panels)


def mean_curve(scene: Scene) -> Curve:
    """Returns the mean score over all tasks, where all were scored."""
    whole = (mark for mark in scene.marks if mark.is_whole)
    values = {(mark.n, mark.k): mean_estimate(mark.scores) for mark in whole}
    scale = scale_of(scene.story.setting.steering_metrics().values())
    return Curve(values, scale, lambda _rollout: True)


def _mean_panel(scene: Scene) -> Panel:
    subtitle = "" if scene.best is None else f"best at {place(scene.best)}"
    picture = _scores(scene, mean_curve(scene), "mean over all tasks")
    return Panel("mean over all tasks", subtitle, picture)


def task_curve(scene: Scene, task: str) -> Curve:
    """Returns the score of a task."""
    return Curve(
        {
            (mark.n, mark.k): estimate_of(mark.scores[task])
            for mark in scene.marks
            if task in mark.scores
        },
        scale_of([scene.story.setting.steering_metrics()[task]]),
        lambda rollout: task in rollout.tasks,
    )


def _task_panel(scene: Scene, task: str) -> Panel:
    curve = task_curve(scene, task)
    standing = scene.story.standing(task)
    picture = _scores(scene, curve, clipped(task, NAME_LENGTH), standing)
    return Panel(shortened(task, NAME_LENGTH), standing_text(standing), picture)


def _scores(scene: Scene, curve: Curve, name: str, standing: Standing | None = None) -> Element:
    frame = panel_frame((0.0, spent_epochs(scene.marks[-1])), _range(curve))
    ticks = (0.0, 25.0, 50.0, 75.0, 100.0) if curve.scale in _SHARES else ()
    parts = [
        *ground(scene, frame, spent_epochs),
        *panel_axes(frame, x_label=scene.x_label, y_label=_UNITS[curve.scale], y_ticks=ticks),
        *stretches(scene, frame, spent_epochs, curve, lambda mark: _tip(curve, mark)),
        *(_drop(scene.story, frame, standing, curve) if standing else []),
        *best_marker(scene, frame, spent_epochs, curve),
    ]
    return drawing(PANEL_WIDTH, PANEL_HEIGHT, _spoken(scene, curve, name, standing), parts)


def _range(curve: Curve) -> tuple[float, float]:
    """Returns 0 to 100 for shares, so that panels compare; else what the values need."""
    if curve.scale in _SHARES:
        return (-4.0, 104.0)
    return padded(curve.heights())


def _tip(curve: Curve, mark: Mark) -> str:
    estimate = curve.at(mark)
    value = "" if estimate is None else f"{curve.scale.interval(estimate)} {curve.scale.unit}"
    if not curve.has_interval and estimate is not None:
        value = f"{curve.scale.text(estimate.value)} {curve.scale.unit}"
    return f"{place(mark)}: {value}, after {spent_epochs(mark):g} epochs"


def _spoken(scene: Scene, curve: Curve, name: str, standing: Standing | None) -> str:
    """Returns the curve in one sentence."""
    points = [mark for mark in (scene.marks[0], scene.best) if mark is not None]
    texts = [
        f"{curve.scale.text(e.value)} {curve.scale.unit} at {place(mark)}"
        for mark in points
        if (e := curve.at(mark)) is not None
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


def loss_panels(scene: Scene) -> tuple[Panel, ...]:
    """Returns a panel for every task whose training loss is recorded."""
    return tuple(_loss_panel(scene, task) for task in with_loss(scene))


def with_loss(scene: Scene) -> list[str]:
    """Returns the tasks whose training loss is recorded."""
    names = scene.story.names
    return [task for task in names if any(task in mark.train_loss for mark in scene.marks)]


def loss_curve(scene: Scene, task: str) -> Curve:
    """Returns the training loss of a task since the mark before."""
    values = {
        (mark.n, mark.k): Estimate(loss, loss, loss)
        for mark in scene.marks
        if (loss := mark.train_loss.get(task)) is not None
    }
    return Curve(values, _NATS, lambda rollout: task in rollout.tasks, has_interval=False)


def _loss_panel(scene: Scene, task: str) -> Panel:
    curve = loss_curve(scene, task)
    heights = curve.heights()
    frame = panel_frame((0.0, spent_epochs(scene.marks[-1])), (0.0, max(heights) * 1.06 or 1.0))
    parts = [
        *ground(scene, frame, spent_epochs),
        *panel_axes(frame, x_label=scene.x_label, y_label="loss, nats per answer token"),
        *stretches(scene, frame, spent_epochs, curve, lambda mark: _tip(curve, mark)),
        *_drop(scene.story, frame, scene.story.standing(task)),
    ]
    spoken = (
        f"{clipped(task, NAME_LENGTH)}, training loss against epochs trained: "
        f"{heights[0]:.3f} at first, {heights[-1]:.3f} at last"
    )
    picture = drawing(PANEL_WIDTH, PANEL_HEIGHT, spoken, parts)
    return Panel(shortened(task, NAME_LENGTH), "", picture)
