"""How trainer and engine share one device's memory: a choice from counts of bytes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["share", "resident", "sleep"]


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes that are asked of a device.

    Attributes:
        free: with the trainer's model and moments on it and nothing of the engine's.
        step: of a training step, beside model and moments.
        weights: a copy of the base for the engine.
        cache: the engine's keys and values.
        context: of the engine's process beside both.
        moments: the optimizer's, which could wait on the host.
    """

    free: int
    step: int
    weights: int
    cache: int
    context: int
    moments: int


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Who holds what, and when.

    Attributes:
        kind: ``share``: the engine computes with the trainer's weights; ``resident``: it holds a
            copy all the time; ``sleep``: it holds one only while it answers.
        sleep_level: of vLLM while training goes on: 0 it keeps all; 1 it forgets keys and values
            and holds what else is its own on the host; 2 it forgets its weights too.
        parks_moments: whether the moments wait on the host while the engine answers.
        fits: whether this is predicted to suffice.
    """

    kind: Kind
    sleep_level: Literal[0, 1, 2] = 0
    parks_moments: bool = False
    fits: bool = True

    @property
    def line(self) -> str:
        """What to tell of it."""
        what = {
            "share": "one copy of the weights for trainer and engine",
            "resident": "the engine keeps a copy of the weights",
            "sleep": "the engine holds a copy of the weights only while it answers",
        }[self.kind]
        if self.kind == "share" and self.sleep_level:
            what += ", keys and values only while it answers"
        if self.parks_moments:
            what += ", the moments wait on the host meanwhile"
        return f"memory of the engine: {what}" + (
            "" if self.fits else "; predicted not to fit, try smaller batches"
        )

    def while_training(self, demand: Demand) -> int:
        """Returns the bytes that the engine holds beside a training step."""
        if self.sleep_level:
            return demand.context
        return demand.context + demand.cache + (0 if self.kind == "share" else demand.weights)

    def while_answering(self, demand: Demand) -> int:
        """Returns the bytes that the engine holds while it answers."""
        return demand.context + demand.cache + (0 if self.kind == "share" else demand.weights)


def choose_tenancy(demand: Demand, *, shares: bool, sleeps: bool, is_full: bool) -> Tenancy:
    """Returns what costs an evaluation least among what fits; the most frugal if nothing does.

    Args:
        demand: of the device.
        shares: whether the engine can compute with the trainer's weights.
        sleeps: whether the engine can give memory back while training goes on.
        is_full: whether all weights are put into the engine anew at every evaluation anyway.
    """
    choices = list(_by_cost(shares=shares, sleeps=sleeps, is_full=is_full))
    for choice in choices:
        if _fits(choice, demand):
            return choice
    return replace(choices[-1], fits=False)


def _by_cost(*, shares: bool, sleeps: bool, is_full: bool) -> Iterator[Tenancy]:
    """Yields what is possible, what costs an evaluation least first."""
    kind: Kind = "share" if shares else "resident"
    yield Tenancy(kind)
    yield Tenancy(kind, parks_moments=True)
    if sleeps:
        asleep = Tenancy("share" if shares else "sleep", 2 if is_full and not shares else 1)
        yield asleep
        yield replace(asleep, parks_moments=True)


def _fits(choice: Tenancy, demand: Demand) -> bool:
    free = demand.free + (demand.moments if choice.parks_moments else 0)
    return (
        demand.step + choice.while_training(demand) <= demand.free
        and choice.while_answering(demand) <= free
    )
