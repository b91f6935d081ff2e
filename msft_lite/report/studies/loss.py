"""Training loss over compute, of sft and of msft, whose tasks leave on the way.

Source: the figure of training losses in Koh et al., arXiv 2603.21606: msft's is usually below.
Ours adds sft's loss on the tasks that msft still trains, as a mean over fewer tasks is another
number.
"""

# Keyword arguments have no types in matplotlib's stubs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msft_lite.report.compare.cost_grids import UNKNOWN, flops_unit
from msft_lite.report.cost import flops_of
from msft_lite.report.pictures import (
    BLACK,
    BLUE,
    GRID,
    VERMILLION,
    clean,
    drawable,
    new_figure,
)
from msft_lite.report.spending import Spending
from msft_lite.report.story import Mark, RolloutStory, Story
from msft_lite.report.studies.study import Line, Picture, Stories, Study, checked, signed
from msft_lite.report.tables import Grid
from msft_lite.report.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAVERS_A_LINE = 4


@dataclass(frozen=True, slots=True)
class Place:
    """A mark of a run with a training loss since the mark before.

    Attributes:
        spent: compute of the run up to here, rolled-back stretches included.
        loss: mean over the tasks in training, in nats per answer token.
        other: mean over the same tasks of the other run at the same compute; None where it has
            no loss there.
    """

    mark: Mark
    spent: float
    loss: float
    other: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A roll-out of msft: its losses, and who left at its end."""

    rollout: RolloutStory
    places: tuple[Place, ...]

    @property
    def leavers(self) -> tuple[str, ...]:
        """The tasks that left at its end."""
        return tuple(drop.task for drop in self.rollout.drops)


@dataclass(frozen=True, slots=True)
class Losses:
    """Both runs along the compute they took, in ``unit``."""

    sft: tuple[Place, ...]
    stages: tuple[Stage, ...]
    unit: str

    @property
    def compared(self) -> tuple[Place, ...]:
        """The marks of msft at which sft has a loss of the same tasks."""
        return tuple(p for stage in self.stages for p in stage.places if p.other is not None)

    @property
    def below(self) -> int:
        """How many of those have a loss below sft's."""
        return sum(place.other is not None and place.loss < place.other for place in self.compared)

    @property
    def equal(self) -> int:
        """How many have the same loss, as where both runs are still one and the same training."""
        return sum(place.loss == place.other for place in self.compared)


def losses_of(sft: Story, msft: Story) -> Losses:
    """Returns the losses over FLOPs of training, or over tokens where the FLOPs are unknown."""
    cost, unit, factor = _compute([sft, msft])
    reference = _places(sft, cost, factor)
    theirs = [place for _, places in reference for place in places]
    stages = tuple(
        Stage(rollout, tuple(_beside(place, theirs) for place in places))
        for rollout, places in _places(msft, cost, factor)
    )
    return Losses(tuple(theirs), stages, unit)


def _compute(stories: Sequence[Story]) -> tuple[Callable[[Story, Spending], float], str, float]:
    """Returns what tells the compute of a stretch, its unit, and how much of it the unit is."""
    if any(story.setting.rates is None for story in stories):
        return lambda _story, spending: spending.trained.tokens / 1e6, "million tokens", 1.0
    prefix, factor = flops_unit(_flops(s, s.totals().spending) for s in stories)
    return _flops, f"{prefix}FLOPs", factor


def _flops(story: Story, spending: Spending) -> float:
    assert story.setting.rates is not None, "asked only where the rates are known"
    flops = flops_of(story.setting.rates, spending)
    return float(flops.model + flops.probe)


def _places(
    story: Story, cost: Callable[[Story, Spending], float], factor: float
) -> list[tuple[RolloutStory, list[Place]]]:
    spent, found = 0.0, list[tuple[RolloutStory, list[Place]]]()
    for rollout in story.rollouts:
        places: list[Place] = []
        for mark in rollout.marks:
            spent += cost(story, mark.spending) / factor
            if mark.train_loss:
                places.append(Place(mark, spent, _mean(mark.train_loss.values())))
        found.append((rollout, places))
    return found


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _beside(place: Place, theirs: Sequence[Place]) -> Place:
    """Returns ``place`` with the other run's loss on the same tasks, between its two marks."""
    after = bisect_left([other.spent for other in theirs], place.spent)
    if after == len(theirs) or (after == 0 and theirs[0].spent > place.spent):
        return place
    late, early = theirs[after], theirs[max(0, after - 1)]
    tasks = place.mark.train_loss.keys()
    if not tasks <= late.mark.train_loss.keys() & early.mark.train_loss.keys():
        return place
    span = late.spent - early.spent
    weight = (place.spent - early.spent) / span if span else 1.0
    losses = [
        (1 - weight) * early.mark.train_loss[task] + weight * late.mark.train_loss[task]
        for task in tasks
    ]
    return Place(place.mark, place.spent, place.loss, _mean(losses))


def loss(stories: Stories) -> Study:
    """Returns the study of one run of sft and one of msft."""
    sft, msft = checked(stories).values()
    found = losses_of(sft, msft)
    return Study(
        name="loss",
        headline=f"msft's training loss is below sft's, on the same tasks at the same compute, at "
        f"{found.below} of {counted(len(found.compared), 'mark')} and the same at {found.equal}",
        grids=(_grid(found),),
        pictures=(Picture("losses", lambda: _figure(found)),),
        lines=tuple(_lines(found)),
    )


def _grid(found: Losses) -> Grid:
    last = found.sft[-1]
    rows = [
        (
            str(stage.rollout.n),
            str(len(stage.rollout.tasks)),
            f"{end.spent:,.2f}",
            f"{end.loss:.4f}",
            UNKNOWN if end.other is None else f"{end.other:.4f}",
            UNKNOWN if end.other is None else signed(end.loss - end.other, 4),
            ", ".join(stage.leavers) or UNKNOWN,
        )
        for stage in found.stages
        if stage.places
        for end in [stage.places[-1]]
    ]
    return Grid(
        "Training loss of msft at the end of every roll-out",
        ("Roll-out", "Tasks", f"Spent, {found.unit}", "Loss", "sft, same tasks", "Difference",
         "Left then "),
        tuple(rows),
        ("Mean over the tasks in training, in nats per answer token since the mark before. Spent: "
         "training and probes, rolled-back stretches included. sft, same tasks: its loss on the "
         "tasks of the roll-out at the same compute, on a straight line between its marks; a dash: "
         "it has none there.",
         "The first roll-out is the same training as sft's, as far as it goes.",
         f"sft ended at {last.spent:,.2f} {found.unit} with {last.loss:.4f}. A training loss says "
         "how far rows are learnt by heart, not how well others are answered.",
         "One seed."),
    )  # fmt: skip


def _lines(found: Losses) -> list[Line]:
    lines = [Line("sft", "", f"training_loss over {found.unit}", p.loss, p.spent)
             for p in found.sft]  # fmt: skip
    for stage in found.stages:
        for p in stage.places:
            lines.append(Line("msft", "", f"training_loss over {found.unit}", p.loss, p.spent))
            if p.other is not None:
                name = f"training_loss of the tasks that msft trains over {found.unit}"
                lines.append(Line("sft", "", name, p.other, p.spent))
        lines += [
            Line("msft", task, f"left at, {found.unit}", stage.places[-1].spent)
            for task in stage.leavers
            if stage.places
        ]
    return lines


def _figure(found: Losses) -> Figure:
    """Returns one panel: both losses over compute, numbered lines where tasks left."""
    leavers = [stage for stage in found.stages if stage.leavers and stage.places]
    told = [
        f"{number} {', '.join(map(drawable, stage.leavers))}"
        for number, stage in enumerate(leavers, start=1)
    ]
    lines = [told[i : i + _LEAVERS_A_LINE] for i in range(0, len(told), _LEAVERS_A_LINE)]
    figure = new_figure(9.0, 5.0 + 0.18 * len(lines), "Training loss over compute")
    axes = figure.subplots()
    for number, stage in enumerate(leavers, start=1):
        end = stage.places[-1].spent
        axes.axvline(end, color=GRID, lw=1.2, zorder=1)
        axes.annotate(
            str(number), (end, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
            textcoords="offset points", ha="center", fontsize=9,
        )  # fmt: skip
    _draw(axes, found)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_ylabel("mean loss, nats per answer token", fontsize=9)
    names = "\n".join("   ".join(line) for line in lines)
    axes.set_xlabel(
        f"{found.unit} of training, rolled-back stretches included; after a gap: the next roll-out"
        + (f"\nleft at the numbered lines:  {names}" if names else ""),
        fontsize=9, parse_math=False,
    )  # fmt: skip
    clean(axes, "y")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _draw(axes: Axes, found: Losses) -> None:
    axes.plot(
        [place.spent for place in found.sft], [place.loss for place in found.sft],
        color=BLUE, lw=1.6, marker=".", ms=5, label="sft, all tasks", zorder=2,
    )  # fmt: skip
    for number, stage in enumerate(found.stages):
        places = stage.places
        beside = [(place.spent, place.other) for place in places if place.other is not None]
        axes.plot(
            [spent for spent, _ in beside], [value for _, value in beside],
            color=BLACK, lw=1.2, ls=(0, (1.5, 1.5)), zorder=3,
            label="" if number else "sft, the tasks that msft trains",
        )  # fmt: skip
        axes.plot(
            [place.spent for place in places], [place.loss for place in places],
            color=VERMILLION, lw=1.8, ls=(0, (6, 1)), marker="s", ms=3.5, zorder=4,
            label="" if number else "msft, tasks in training",
        )  # fmt: skip
