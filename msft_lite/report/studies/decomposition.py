"""Where the gain of msft over sft comes from, task by task.

Source: Koh et al., arXiv 2603.21606, Eq. 4: the score at the returned checkpoint without the score
at the task's own peak, in the roll-out it left in, is what it forgot (negative) or what others
taught it (positive); the rest of the gain over sft is what avoiding over-fitting gave. In the paper
there is forgetting in the mean, and it is outweighed.
"""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msft_lite.core import Drop, Score
from msft_lite.errors import LedgerError
from msft_lite.report.intervals import RESAMPLES, Estimate, task_differences
from msft_lite.report.pictures import (
    BLACK,
    BLUE,
    DIFFERENCE_UNITS,
    GRID,
    VERMILLION,
    ZERO,
    clean,
    name_rows,
    new_figure,
)
from msft_lite.report.scale import Scale, scale_of
from msft_lite.report.story import Mark, RolloutStory, Story
from msft_lite.report.studies.study import (
    Line,
    Picture,
    Stories,
    Study,
    better_up,
    checked,
    signed,
    steering_notes,
)
from msft_lite.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOOTSTRAP_SEED = 0  # the same runs give the same intervals
_MEAN = "mean over dropped tasks"


@dataclass(frozen=True, slots=True)
class Parts:
    """The gain of msft over sft on the rows that steer, and the two parts that add up to it."""

    avoided: Estimate
    afterwards: Estimate
    gain: Estimate


@dataclass(frozen=True, slots=True)
class Departure:
    """A task that left, and what was behind it.

    Attributes:
        stage: number of the roll-out it left in.
        peak: its best mark there.
        is_before: whether it left before the returned point; else nothing can be forgotten there.
    """

    task: str
    stage: int
    peak: Mark
    is_before: bool


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Both runs taken apart.

    Attributes:
        departures: of the tasks that left, in that order.
        parts: of each of them.
        mean: over those that left before the returned point; None where there is none.
    """

    departures: tuple[Departure, ...]
    parts: Mapping[str, Parts]
    mean: Parts | None


def decomposition_of(sft: Story, msft: Story) -> Decomposition:
    """Returns the gain at the returned points, on the rows that steered.

    Raises:
        LedgerError: no task was dropped.
    """
    returned, reference = _returned(msft), _returned(sft)
    departures = tuple(
        Departure(drop.task, stage.n, _peak(stage, drop), stage.n < returned.n)
        for stage in msft.rollouts
        for drop in stage.drops
    )
    if not departures:
        raise LedgerError(
            "the study decomposition: msft dropped no task, so there is nothing to take apart; "
            "train longer by a larger method.budget with --overwrite"
        )
    parts = {each.task: _parts([each], returned, reference) for each in departures}
    before = [each for each in departures if each.is_before]
    return Decomposition(departures, parts, _parts(before, returned, reference) if before else None)


def _returned(story: Story) -> Mark:
    assert story.best is not None, "only finished runs lead here"
    return story.best


def _peak(stage: RolloutStory, drop: Drop) -> Mark:
    """Returns the mark that ``drop`` rolled back to, which is the task's peak."""
    return next(mark for mark in stage.marks if mark.snapshot == drop.rolled_back_to)


def _parts(departures: list[Departure], returned: Mark, reference: Mark) -> Parts:
    """Returns the mean over ``departures``; all three are of the same rows."""
    peaks = {each.task: each.peak.scores[each.task] for each in departures}
    ours = {task: returned.scores[task] for task in peaks}
    theirs = {task: reference.scores[task] for task in peaks}
    return Parts(_mean(theirs, peaks), _mean(peaks, ours), _mean(theirs, ours))


def _mean(before: Mapping[str, Score], after: Mapping[str, Score]) -> Estimate:
    return task_differences(before, after, seed=BOOTSTRAP_SEED)[1]


def decomposition(stories: Stories) -> Study:
    """Returns the study of one run of sft and one of msft."""
    sft, msft = checked(stories).values()
    found = decomposition_of(sft, msft)
    scale = better_up(scale_of(msft.setting.steering_metrics().values()))
    return Study(
        name="decomposition",
        headline=_headline(found, scale),
        grids=(_grid(msft, found, scale),),
        pictures=(Picture("parts", lambda: _figure(msft, found, scale)),),
        lines=tuple(_lines(found)),
    )


def _headline(found: Decomposition, scale: Scale) -> str:
    if found.mean is None:
        return "no task left before the returned point"
    gain, avoided, afterwards = (
        signed(scale.factor * part.value, scale.digits)
        for part in (found.mean.gain, found.mean.avoided, found.mean.afterwards)
    )
    return (
        f"over the dropped tasks {gain} against sft: {avoided} from avoided over-fitting and "
        f"{afterwards} after they left"
    )


def _grid(msft: Story, found: Decomposition, scale: Scale) -> Grid:
    metrics = msft.setting.steering_metrics()
    rows = [
        (
            each.task,
            f"{each.stage}{'' if each.is_before else ' (not before)'}",
            own.text(float(each.peak.scores[each.task].value)),
            own.text(float(_returned(msft).scores[each.task].value)),
            *_cells(found.parts[each.task], own),
        )
        for each in found.departures
        for own in [better_up(scale_of([metrics[each.task]]))]
    ]
    rows += _totals(found, scale)
    return Grid(
        "Gain of msft over sft, taken apart",
        ("Task ", "Left in roll-out", "Own peak", "Returned", "Over-fitting avoided",
         "After it left", "Gain over sft"),
        tuple(rows),
        tuple(_notes(msft, found, scale)),
    )  # fmt: skip


def _cells(parts: Parts, scale: Scale) -> tuple[str, str, str]:
    return (
        scale.difference(parts.avoided),
        scale.difference(parts.afterwards),
        scale.difference(parts.gain),
    )


def _totals(found: Decomposition, scale: Scale) -> list[tuple[str, ...]]:
    """Returns the sums and means over tasks that left before the returned point."""
    if found.mean is None:
        return []
    count = sum(each.is_before for each in found.departures)
    sums = tuple(
        signed(scale.factor * count * part.value, scale.digits)
        for part in (found.mean.avoided, found.mean.afterwards, found.mean.gain)
    )
    return [
        ("sum over dropped tasks", "", "", "", *sums),
        (_MEAN, "", "", "", *_cells(found.mean, scale)),
    ]


def _notes(msft: Story, found: Decomposition, scale: Scale) -> list[str]:
    notes = [
        "Over-fitting avoided: own peak without sft's returned score. After it left: returned "
        "without own peak (Eq. 4); negative is forgetting, positive is transfer. The two add up to "
        "the gain.",
        "A peak is picked for being high, so by luck alone avoided over-fitting looks larger and "
        "what came after looks like forgetting.",
        f"In brackets 95 % intervals: a paired bootstrap over rows ({RESAMPLES:,} resamples).",
        *steering_notes(msft),
    ]
    late = [each.task for each in found.departures if not each.is_before]
    if late:
        notes.append(
            f"Not before: the returned point stands in the same roll-out or an earlier one, so "
            f"that nothing was forgotten after the task left; not in sum and mean: "
            f"{', '.join(late)}."
        )
    stayed = len(msft.names) - len(found.departures)
    if stayed:
        notes.append(f"Of {len(msft.names)} tasks {stayed} never left and are not shown.")
    return [*notes, scale.note] if scale.note else notes


def _lines(found: Decomposition) -> list[Line]:
    lines: list[Line] = []
    for each in found.departures:
        lines.append(Line("msft", each.task, "left_in_rollout", each.stage))
        lines.append(Line("msft", each.task, "left_before_returned", float(each.is_before)))
    parts = {**found.parts, "": found.mean}
    for task, part in parts.items():
        if part is not None:
            lines.append(Line.of("msft", task, "overfitting_avoided", part.avoided))
            lines.append(Line.of("msft", task, "after_it_left", part.afterwards))
            lines.append(Line.of("msft", task, "gain_over_sft", part.gain))
    return lines


def _figure(msft: Story, found: Decomposition, scale: Scale) -> Figure:
    """Returns a bar a task, in the order of leaving, of the two parts and their sum."""
    rows = [(each.task, found.parts[each.task]) for each in found.departures]
    if found.mean is not None:
        rows.append((_MEAN, found.mean))
    figure = new_figure(
        8.5, 2.5 + 0.42 * len(rows),
        f"Gain of msft over sft on the tasks that left, {msft.setting.steer_on} split",
    )  # fmt: skip
    axes = figure.subplots()
    axes.axvline(0, color=ZERO, lw=1.0, zorder=3)
    for place, (_, parts) in enumerate(rows[::-1]):
        _draw_parts(axes, place, parts, scale)
    if found.mean is not None:
        axes.axhline(0.5, color=GRID, lw=1.0, zorder=1)
    late = {each.task for each in found.departures if not each.is_before}
    name_rows(axes, [f"{name} *" if name in late else name for name, _ in rows[::-1]])
    unit = DIFFERENCE_UNITS[scale_of(msft.setting.steering_metrics().values())]
    star = "\n* left after the returned point; not in the mean" if late else ""
    axes.set_xlabel(f"{unit}; tasks in the order of leaving{star}", fontsize=9)
    clean(axes)
    _legend(figure)
    return figure


def _draw_parts(axes: Axes, place: float, parts: Parts, scale: Scale) -> None:
    avoided, afterwards = scale.factor * parts.avoided.value, scale.factor * parts.afterwards.value
    # Bars of one sign stand end to end, bars of two signs to either side of 0.
    begin = avoided if avoided * afterwards > 0 else 0.0
    axes.barh(place, avoided, height=0.56, color=BLUE, zorder=2)
    axes.barh(place, afterwards, left=begin, height=0.56, color=VERMILLION, hatch="///",
              edgecolor="white", lw=0, zorder=2)  # fmt: skip
    axes.plot(scale.factor * parts.gain.value, place, marker="D", ms=7, mfc="white", mec=BLACK,
              mew=1.5, ls="none", zorder=4)  # fmt: skip


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=BLUE, label="over-fitting avoided: own peak against sft"),
        Patch(fc=VERMILLION, ec="white", hatch="///", lw=0,
              label="after it left: forgetting (left) or transfer (right)"),
        Line2D([], [], marker="D", ms=7, mfc="white", mec=BLACK, mew=1.5, ls="none",
               label="gain over sft, the sum"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
