"""The made-up world: what driving each method with it counts."""

from __future__ import annotations

import pytest

from msft_lite.core import Clock
from msft_lite.methods import build_method
from msft_lite.run.assumed import AssumedWorld, Tally
from msft_lite.run.loop import drive

CLOCK = Clock({"a": 16, "b": 32}, batch_rows=4)  # 4 + 8 rows and 3 steps a mark


def tally(name: str, *, dropped_every: int = 1, **options: object) -> Tally:
    world = AssumedWorld(CLOCK, 2, deferred=False, dropped_every=dropped_every)
    drive(build_method(name, CLOCK, options), world.execute, world)
    return world.tally()


def test_sft_passes_over_everything() -> None:
    found = tally("sft", epochs=2)
    assert (found.stages, found.steps, found.rows) == (1, 24, {"a": 32, "b": 64})
    assert (found.evaluations, found.snapshots_written) == (9, 8)
    assert found.snapshots_alive == 3  # the latest, the one before it, and the best
    assert (found.probed_rows, found.read_rows) == (0, 0)


def test_sro_searches_and_trains_again() -> None:
    found = tally("sro", epochs=2)
    # peaks at marks 2 and 8: 8 marks of search, 2 of both tasks, 6 of b alone (8 rows, 2 steps)
    assert found.rows == {"a": 32 + 8, "b": 64 + 64}
    assert (found.stages, found.steps) == (2, 24 + 2 * 3 + 6 * 2)
    assert found.drops == ("a", "b")


def test_soft_sro_draws_as_many_rows() -> None:
    found = tally("soft_sro", epochs=2)
    # 2 marks of a's 4 rows and 8 of b's 8: 72 rows at 12 a mark of 3 steps
    assert (found.steps, sum(found.rows.values())) == (24 + 18, 96 + 72)


def test_dynamix_probes_both_tasks_and_saves_only_what_is_scored() -> None:
    found = tally("dynamix", epochs=2, period=5)
    assert (found.stages, found.steps, found.evaluations) == (1, 24, 9)
    assert (found.probed_rows, found.read_rows) == (4 * 8, 4 * 16)  # after 5, 10, 15, 20 steps
    assert found.snapshots_written == 8
    assert sum(found.rows.values()) == pytest.approx(96, abs=8)  # rounded once a segment and task


def test_ies_reads_every_row_after_every_epoch_but_the_last() -> None:
    found = tally("ies", epochs=4)
    assert (found.stages, found.rows, found.read_rows) == (1, {"a": 64, "b": 128}, 3 * 48)


def test_tasks_that_wait_or_left_are_scored_less() -> None:
    # a for 8 marks from the base, then b from a's peak at mark 2, where b was not scored yet
    assert tally("continual", epochs=2).scored == {"a": 17, "b": 17}
    found = tally("continual", epochs=2, dropped_every=8)
    assert found.scored == {"a": 9 + 1, "b": 2 + 9}
    assert found.evaluations == 17


def test_continual_trains_one_task_after_another() -> None:
    found = tally("continual", epochs=2)
    assert (found.stages, found.rows) == (2, {"a": 32, "b": 64})
