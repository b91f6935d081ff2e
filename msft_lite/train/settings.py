"""Settings of the optimizer, and the pure functions of the step that need no state."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from msft_lite.model.settings import Dtype

Optim = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
PAGED = ("paged_adamw", "paged_adamw_8bit")


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
        optim: AdamW, with moments of 8 bits, or paged (needs a GPU), or both.
        bf16_update: how bfloat16 weights take an update; of no effect on float32 weights.
            ``stochastic`` adds it in float32 and rounds at random without bias, ``nearest`` loses
            what is below half of the weight's last bit.
        optimizer_in_backward: update each parameter as soon as its gradient is complete; a step
            is then one forward and backward pass, and no gradient is clipped.
        loraplus_lr_ratio: the rate of an adapter's B matrices is this many times the rate.
            Source: Hayou et al., *LoRA+*, arXiv 2402.12354.
        deterministic: let torch use deterministic algorithms alone, see `determinism`.
    """

    learning_rate: float
    per_device_train_batch_size: int
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 0.0
    optim: Optim = "adamw"
    bf16_update: Literal["stochastic", "nearest"] = "stochastic"
    optimizer_in_backward: bool = False
    loraplus_lr_ratio: float = 1.0
    deterministic: bool = False


def lr_at(settings: TrainSettings, step: int) -> float:
    """Returns the learning rate of the step after ``step`` done ones.

    With ``w`` warm-up steps it is 1/w, 2/w, ... of the full rate, and full from step w - 1 on.
    """
    if step >= settings.warmup_steps:
        return settings.learning_rate
    return settings.learning_rate * (step + 1) / settings.warmup_steps


def moment_bytes(optim: Optim, dtype: Dtype, *, is_stochastic: bool) -> float:
    """Returns how many bytes both moments of a weight take.

    Args:
        optim: the optimizer.
        dtype: of the weights.
        is_stochastic: how bfloat16 weights are rounded; of no effect on float32 ones.
    """
    if optim.endswith("8bit"):
        return 2 * (1 + 4 / 256)
    is_short = optim == "adamw" and dtype == "bfloat16" and not is_stochastic
    return 4.0 if is_short else 8.0


def seed_at(seed: int, key: str, step: int, micro: int) -> int:
    """Returns the random seed, below 2**63, of one micro-batch's forward pass.

    Args:
        seed: of the run.
        key: of the roll-out's optimizer, as given to `Trainer.renew`.
        step: optimizer steps done before.
        micro: number of the micro-batch in the step.
    """
    return _hashed(f"{seed}/{step}/{micro}/{key}")


def rounding_seed_at(seed: int, key: str, step: int, name: str) -> int:
    """Returns the random seed, below 2**63, of the rounding of one parameter in one step.

    Args:
        seed: of the run.
        key: of the roll-out's optimizer, as given to `Trainer.renew`.
        step: optimizer steps done before.
        name: of the parameter.
    """
    return _hashed(json.dumps([seed, step, name, key]))  # never the text of a micro-batch


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
