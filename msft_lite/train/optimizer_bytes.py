"""What an optimizer keeps on the device, for the prediction of a step's memory."""

from __future__ import annotations

from msft_lite.model.memory.step import OptimizerBytes
from msft_lite.model.settings import Dtype
from msft_lite.train.settings import PAGED, Optim, moment_bytes
from msft_lite.train.update_rules import LEAST_8BIT_ELEMENTS


def optimizer_bytes(
    optim: Optim, dtype: Dtype, *, is_stochastic: bool, in_backward: bool = False
) -> OptimizerBytes:
    """Returns what ``optim`` keeps of weights in ``dtype``.

    Paged moments count nothing: they may lie on the host, all of them, while the device is full.
    """
    if optim in PAGED:
        return OptimizerBytes(moment_bytes=0, in_backward=in_backward)
    return OptimizerBytes(
        moment_bytes=moment_bytes(optim, dtype, is_stochastic=is_stochastic),
        least_elements=LEAST_8BIT_ELEMENTS if optim.endswith("8bit") else 0,
        in_backward=in_backward,
    )
