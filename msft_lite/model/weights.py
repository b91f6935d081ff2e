"""The trainable tensors of one point, as they are stored, swapped and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["adapter", "full"]


@dataclass(frozen=True, slots=True)
class Weights:
    """Trainable tensors, contiguous, on the host, sharing no memory with the model.

    Attributes:
        kind: ``adapter`` (names as peft saves them, ``base_model.model.<module>.lora_A.weight``)
            or ``full`` (names of the model's state dict as transformers saves it; of tied tensors
            only the first).
        tensors: name to tensor.
    """

    kind: Kind
    tensors: Mapping[str, torch.Tensor]

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())
