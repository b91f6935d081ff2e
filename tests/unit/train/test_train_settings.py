"""The pure functions of the step: learning rate and seeds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msft_lite.train.settings import TrainSettings, lr_at, seed_at


def settings(warmup_steps: int) -> TrainSettings:
    return TrainSettings(
        learning_rate=0.5, per_device_train_batch_size=1, warmup_steps=warmup_steps
    )


def test_the_rate_is_constant_without_warm_up() -> None:
    assert [lr_at(settings(0), step) for step in (0, 1, 1000)] == [0.5, 0.5, 0.5]


def test_the_rate_rises_in_equal_parts_and_stays() -> None:
    rates = [lr_at(settings(4), step) for step in range(6)]
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


@given(st.integers(0, 1 << 40), st.text(), st.integers(0, 10**6), st.integers(0, 999))
def test_seeds_are_pure_and_fit_every_generator(seed: int, key: str, step: int, micro: int) -> None:
    value = seed_at(seed, key, step, micro)
    assert value == seed_at(seed, key, step, micro)
    assert 0 <= value < 1 << 63


def test_every_argument_changes_the_seed() -> None:
    seeds = {
        seed_at(seed, key, step, micro)
        for seed in (1, 11)
        for key in ("", "1", "a/1")
        for step in (0, 1, 11)
        for micro in (0, 1, 11)
    }
    assert len(seeds) == 2 * 3 * 3 * 3


def test_seeds_are_the_same_on_every_machine() -> None:
    assert seed_at(20, "key", 3, 1) == 5387304232266648182
