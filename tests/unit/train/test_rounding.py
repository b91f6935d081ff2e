"""Stochastic rounding: which neighbours, how often, and from which bits."""

from __future__ import annotations

import math

import pytest
import torch

from msft_lite.train.rounding import round_stochastically

# bfloat16 has 7 bits after the point: from 1 to 2 it holds multiples of 1/128.
STEP = 1 / 128


def rounded(values: torch.Tensor, seed: int = 3) -> torch.Tensor:
    return round_stochastically(values, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9375])
def test_a_value_goes_to_the_farther_neighbour_as_often_as_its_share(
    sign: float, share: float
) -> None:
    count = 2**18
    found = rounded(torch.full((count,), sign * (1 + share * STEP))).double() * sign
    assert set(found.tolist()) <= {1.0, 1 + STEP}
    farther = float((found > 1).double().mean())
    # five standard deviations of a mean of as many coins: 0.005 at most
    assert farther == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / count))


def test_what_bfloat16_holds_stays() -> None:
    values = torch.tensor([0.0, -0.0, 1.5, -3.0e38, 2.0**-126, math.inf, -math.inf]).bfloat16()
    found = rounded(values.float().repeat(1000)).view(torch.int16)
    assert torch.equal(found, values.repeat(1000).view(torch.int16))


def test_a_nan_of_ones_stays_a_nan() -> None:
    """As GPUs write it: added random bits would run over into the sign."""
    ones = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert rounded(ones.repeat(1000)).isnan().all()


def test_shapes_of_any_size_are_served_and_bits_depend_on_the_seed() -> None:
    for shape in ((), (1,), (3,), (5, 7), (0,)):
        assert rounded(torch.rand(shape) + 1).shape == shape
    values = torch.full((64,), 1 + STEP / 2)
    assert torch.equal(rounded(values, 1), rounded(values, 1))
    assert not torch.equal(rounded(values, 1), rounded(values, 2))


def test_neighbours_are_rounded_independently() -> None:
    """Four values share a draw of 64 bits: no two of them go up together more often than apart."""
    ups = (rounded(torch.full((2**16, 4), 1 + STEP / 2)) > 1).double() - 0.5
    together = 4 * ups.T @ ups / 2**16  # 1 on the diagonal, 0 elsewhere but for chance
    # five standard deviations of a mean of 2**16 products of signs: 5 / 256
    assert float((together - torch.eye(4)).abs().max()) < 5 / 256
