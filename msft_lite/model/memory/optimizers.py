"""What optimizers keep on the device, by the names that a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msft_lite.model.memory.step import OptimizerBytes

# One byte a weight and moment, and a float32 scale for 256 of them; bitsandbytes leaves small
# tensors in float32.
_EIGHT_BIT = OptimizerBytes(moment_bytes=2 * (1 + 4 / 256), least_elements=4096)
# Paged moments may lie on the host, all of them, while the device is full.
_PAGED = OptimizerBytes(moment_bytes=0)

OPTIMIZERS: Mapping[str, OptimizerBytes] = MappingProxyType(
    {
        "adamw": OptimizerBytes(),
        "adamw_8bit": _EIGHT_BIT,
        "paged_adamw": _PAGED,
        "paged_adamw_8bit": _PAGED,
    }
)
