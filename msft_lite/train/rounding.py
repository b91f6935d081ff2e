"""Stochastic rounding from float32 to bfloat16."""

from __future__ import annotations

import torch

_DROPPED_BITS = 16  # a bfloat16 is the upper half of a float32
_LOW_HALF = (1 << _DROPPED_BITS) - 1


def round_stochastically(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns ``values`` in bfloat16, each one rounded to one of its two neighbours at random.

    A value at a share s of the way from the neighbour nearer to zero to the other becomes the
    other with probability s, in steps of 2**-16 without remainder: the lower half of a float32,
    which bfloat16 drops, is that share. So the expectation of the result is the value itself,
    exactly. What bfloat16 can hold stays as it is; what is not finite is converted as it is.

    Args:
        values: float32, contiguous, of any shape.
        generator: on the device of ``values``; four values take one draw of 64 bits.
    """
    bits = values.view(torch.int32) + _random_halves(values, generator)
    rounded = (bits & ~_LOW_HALF).view(torch.float32)
    # The sum would run over where a nan's bits are all ones, as they are on a GPU.
    return torch.where(values.isfinite(), rounded, values).bfloat16()


def _random_halves(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns evenly distributed int32 from 0 to 2**16 - 1, in the shape of ``values``."""
    draws = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device)
    draws.random_(-(2**63), None, generator=generator)  # all 64 bits
    halves = draws.view(torch.int16)[: values.numel()].view(values.shape)
    return halves.to(torch.int32) & _LOW_HALF
