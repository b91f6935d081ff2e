"""Who holds what on the device, by tables of bytes."""

from __future__ import annotations

import pytest

from msft_lite.engine.tenancy import Demand, Tenancy, choose_tenancy

# A device with the trainer's model and moments on it; the engine's copy is the largest thing.
DEMAND = Demand(free=0, step=20, weights=30, cache=10, context=1, moments=12)


def demand(free: int) -> Demand:
    return Demand(free, DEMAND.step, DEMAND.weights, DEMAND.cache, DEMAND.context, DEMAND.moments)


@pytest.mark.parametrize(
    ("free", "shares", "sleeps", "is_full", "wanted"),
    [
        # A step of 20 beside 1 + 10 of the engine's.
        (31, True, True, False, Tenancy("share")),
        (30, True, True, False, Tenancy("share", 1)),
        (21, True, True, True, Tenancy("share", 1)),
        (20, True, True, False, Tenancy("share", 1, parks_moments=True, fits=False)),
        (30, True, False, False, Tenancy("share", parks_moments=True, fits=False)),
        # The same with a copy of 30.
        (61, False, True, False, Tenancy("resident")),
        (60, False, True, False, Tenancy("sleep", 1)),
        (60, False, True, True, Tenancy("sleep", 2)),
        (41, False, True, False, Tenancy("sleep", 1)),
        # Answering needs 41, of which the moments can give way for 12.
        (40, False, True, False, Tenancy("sleep", 1, parks_moments=True)),
        (29, False, True, True, Tenancy("sleep", 2, parks_moments=True)),
        (28, False, True, False, Tenancy("sleep", 1, parks_moments=True, fits=False)),
        (60, False, False, False, Tenancy("resident", parks_moments=True, fits=False)),
    ],
)
def test_the_cheapest_that_fits_is_chosen(
    free: int, shares: bool, sleeps: bool, is_full: bool, wanted: Tenancy
) -> None:
    found = choose_tenancy(demand(free), shares=shares, sleeps=sleeps, is_full=is_full)
    assert found == wanted


def test_moments_give_way_where_training_fits_and_answering_does_not() -> None:
    small_step = Demand(free=36, step=5, weights=20, cache=16, context=1, moments=9)
    assert choose_tenancy(small_step, shares=False, sleeps=True, is_full=False) == Tenancy(
        "sleep", 1, parks_moments=True
    )


@pytest.mark.parametrize(
    ("tenancy", "training", "answering"),
    [
        (Tenancy("share"), 11, 11),
        (Tenancy("share", 1), 1, 11),
        (Tenancy("resident"), 41, 41),
        (Tenancy("sleep", 2), 1, 41),
    ],
)
def test_what_the_engine_holds(tenancy: Tenancy, training: int, answering: int) -> None:
    assert tenancy.while_training(DEMAND) == training
    assert tenancy.while_answering(DEMAND) == answering


@pytest.mark.parametrize(
    ("tenancy", "words"),
    [
        (Tenancy("share"), "one copy of the weights for trainer and engine"),
        (Tenancy("share", 1), "keys and values only while it answers"),
        (Tenancy("sleep", 2, parks_moments=True), "the moments wait on the host meanwhile"),
        (Tenancy("resident", fits=False), "predicted not to fit"),
    ],
)
def test_what_is_told(tenancy: Tenancy, words: str) -> None:
    assert words in tenancy.line
