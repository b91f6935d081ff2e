"""The pure functions of the step: learning rate and seeds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msft_lite.model.settings import Dtype
from msft_lite.train.settings import (
    Optim,
    TrainSettings,
    lr_at,
    moment_bytes,
    rounding_seed_at,
    seed_at,
)


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
    assert rounding_seed_at(20, "key", 3, "layer.weight") == 8391865030552803998


def test_every_argument_changes_the_seed_of_rounding() -> None:
    seeds = {
        rounding_seed_at(seed, key, step, name)
        for seed in (1, 11)
        for key in ("", "1", 'a", "b')
        for step in (0, 1, 11)
        for name in ("a", 'a", "b', "b")
    }
    others = {
        seed_at(seed, key, step, 0) for seed in (1, 11) for key in ("", "1") for step in (0, 1)
    }
    assert len(seeds) == 2 * 3 * 3 * 3
    assert not seeds & others


@pytest.mark.parametrize(
    ("optim", "dtype", "is_stochastic", "expected"),
    [
        ("adamw", "float32", True, 8),
        ("adamw", "bfloat16", True, 8),
        ("adamw", "bfloat16", False, 4),
        ("adamw_8bit", "bfloat16", False, 2 + 2 / 64),
        ("paged_adamw", "bfloat16", False, 8),
        ("paged_adamw_8bit", "float32", True, 2 + 2 / 64),
    ],
)
def test_bytes_of_the_moments(
    optim: Optim, dtype: Dtype, is_stochastic: bool, expected: float
) -> None:
    """float32 has 4 bytes, bfloat16 2, a code 1, and 256 codes share a scale of 4."""
    assert moment_bytes(optim, dtype, is_stochastic=is_stochastic) == expected
