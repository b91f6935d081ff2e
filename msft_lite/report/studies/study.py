"""What a study comes to: tables, figures, and every number once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from msft_lite.report.compare.comparable import check_comparable
from msft_lite.report.intervals import Estimate
from msft_lite.report.scale import Scale
from msft_lite.report.story import Mark, Story
from msft_lite.report.tables import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Line:
    """A number of a study.

    Attributes:
        run: label of the run, or of the runs, that it is of.
        task: empty for a number over all tasks.
        value: a score is a share of 1, a loss as a score negative.
        at: where on a curve it stands, in the measure's own unit; None if it is on none.
        low: end of the 95 % interval, None where there is none; so is high.
    """

    run: str
    task: str
    measure: str
    value: float
    at: float | None = None
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(run: str, task: str, measure: str, estimate: Estimate) -> Line:
        """Returns the line of a value with an interval."""
        return Line(run, task, measure, estimate.value, low=estimate.low, high=estimate.high)


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that is drawn on demand, and the name of its file."""

    name: str
    draw: Callable[[], Figure]


@dataclass(frozen=True, slots=True)
class Study:
    """A finished study.

    Attributes:
        headline: its result in one sentence.
        notes: what a reader has to know beside the tables' own notes.
    """

    name: str
    headline: str
    grids: tuple[Grid, ...]
    pictures: tuple[Picture, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


Stories: TypeAlias = Mapping[str, Story]  # finished runs by their label, in the study's order


def checked(stories: Stories) -> Stories:
    """Returns ``stories`` if they are finished and of the same rows and base.

    Raises:
        LedgerError: they are not.
    """
    check_comparable(list(stories.items()))
    return stories


def epochs_of(mark: Mark) -> float:
    """Returns the passes over its rows that a task had seen there, if it trained all the way."""
    return float(mark.path.epochs)


def signed(value: float, digits: int = 2) -> str:
    """Returns ``+0.50`` or ``-1.25``; nothing is 0.00."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def ends_text(tasks: Sequence[str]) -> list[str]:
    """Returns a note on tasks whose best mark is the last, so that the true one may lie later."""
    if not tasks:
        return []
    return [
        f"Best at the last mark, so that a longer run might find a later peak: {', '.join(tasks)}."
    ]


def steering_notes(story: Story) -> list[str]:
    """Returns which rows scores along a run are of, and how far peaks of them can be trusted."""
    split = "report" if story.setting.steer_on == "report" else "control"
    rows = [task.report if split == "report" else task.control for task in story.tasks]
    span = f"{min(rows):,}" if min(rows) == max(rows) else f"{min(rows):,} to {max(rows):,}"
    return [
        f"Scores are of the {split} rows ({span} a task) that steer the run. A peak is the best of "
        "many marks, picked partly for its luck: on few rows it moves by chance, and so does what "
        "is told of it. One seed."
    ]


def better_up(scale: Scale) -> Scale:
    """Returns ``scale`` for differences, of which more is better in a loss too."""
    return Scale(scale.unit, abs(scale.factor), scale.digits, scale.note)
