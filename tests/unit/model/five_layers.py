"""A model deep enough to tell its layers apart, and what a training step makes of it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config

from msft_lite.data.task import Example
from msft_lite.model.batch import collate_examples
from msft_lite.model.load import trainable_parameters
from msft_lite.model.loss import row_losses

LAYERS = 5
CONFIG = Qwen2Config(
    vocab_size=40,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=LAYERS,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.3,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=None,
)
ROWS = [
    Example("a", 0, (5, 6, 7), (8, 9, 3)),
    Example("a", 1, (1,), (2,)),
    Example("a", 2, (9, 8, 7, 6, 5, 4), (3, 2, 1, 2, 3), ((1, 3),)),
]


def write_model(folder: Path) -> Path:
    """Writes a random model of `CONFIG`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(CONFIG).save_pretrained(folder)
    return folder


def losses_and_gradients(model: nn.Module, *, packed: bool) -> list[torch.Tensor]:
    """Each row's loss and every gradient of their sum, with masks of one seed."""
    batch = collate_examples(ROWS, pad_id=0, device="cpu", packed=packed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        losses = row_losses(model.train(), batch)
        gradients = torch.autograd.grad(losses.sum(), list(trainable_parameters(model).values()))
    return [losses.detach(), *gradients]
