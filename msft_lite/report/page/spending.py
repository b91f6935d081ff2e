"""What every mark had cost by then, for the axes of the page: work of training, and disk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from msft_lite.report.cost import trained_flops
from msft_lite.report.story import Story

_GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity at every mark of a story, in the marks' order.

    Attributes:
        name: the quantity, for an axis: ``tokens trained``.
        unit: short, for a tip: ``tokens``.
    """

    name: str
    unit: str
    values: tuple[float, ...]


def training_spent(story: Story) -> Measure:
    """Returns the work of training behind every mark, rolled-back stretches included.

    It is in model FLOPs, forward and backward without recomputing, where the start row says what a
    token costs, else in tokens.
    """
    rates = story.setting.rates
    works = [mark.spending.trained for mark in story.marks]
    if rates is None:
        values = accumulate(float(work.tokens) for work in works)
        return Measure("tokens trained", "tokens", tuple(values))
    values = accumulate(float(trained_flops(rates, work).model) for work in works)
    return Measure("training work", "FLOPs", tuple(values))


def disk_held(story: Story) -> Measure | None:
    """Returns the disk that snapshots and crash copy took at every mark; None if not recorded.

    It is in copies of the model where the start row says how large one is, else in GiB.
    """
    held = [mark.disk_bytes for mark in story.marks]
    if not any(held):
        return None
    copy_bytes = story.setting.model_bytes
    values = tuple(value / (copy_bytes or _GIB) for value in held)
    if copy_bytes:
        return Measure("disk, in copies of the model", "copies", values)
    return Measure("disk, GiB", "GiB", values)


def mean_held(held: Measure) -> float:
    """Returns the mean over the marks at which anything was held, of which there is one."""
    values = [value for value in held.values if value]
    return sum(values) / len(values)
