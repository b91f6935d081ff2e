"""Settings of the optimizer, and the pure functions of the step that need no state."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of a `Trainer`.

    Attributes:
        learning_rate: after warm-up, constant.
        per_device_train_batch_size: rows in one forward and backward pass; a memory setting that
            changes results by rounding alone.
        warmup_steps: steps over which the rate rises linearly; 0 starts at the full rate.
        weight_decay: decoupled, on every trainable parameter.
        adam_beta1: decay of the first moment.
        adam_beta2: decay of the second moment.
        adam_epsilon: added to the root of the second moment.
        max_grad_norm: longer gradients are scaled to this Euclidean norm; 0 never clips.
        optim: AdamW with moments in the dtype of the trainable weights.
    """

    learning_rate: float
    per_device_train_batch_size: int
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 0.0
    optim: Literal["adamw"] = "adamw"


def lr_at(settings: TrainSettings, step: int) -> float:
    """Returns the learning rate of the step after ``step`` done ones.

    With ``w`` warm-up steps it is 1/w, 2/w, ... of the full rate, and full from step w - 1 on.
    """
    if step >= settings.warmup_steps:
        return settings.learning_rate
    return settings.learning_rate * (step + 1) / settings.warmup_steps


def seed_at(seed: int, key: str, step: int, micro: int) -> int:
    """Returns the random seed, below 2**63, of one micro-batch's forward pass.

    Args:
        seed: of the run.
        key: of the roll-out's optimizer, as given to `Trainer.renew`.
        step: optimizer steps done before.
        micro: number of the micro-batch in the step.
    """
    text = f"{seed}/{step}/{micro}/{key}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
