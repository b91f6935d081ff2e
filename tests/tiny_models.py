"""Models of random weights that a CPU trains in no time."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from msft_lite.model.load import trainable_parameters

FAMILIES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
SHAPE: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": 0,
}


def random_model(family: str, *, tied: bool, **shape: int) -> PreTrainedModel:
    """A model in float32 of two layers, or of the shape given; its weights are always the same."""
    config, model_class = FAMILIES[family]
    sizes = SHAPE | ({"head_dim": 32} if family == "qwen3" else {}) | shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return model_class(config.from_dict(sizes | {"tie_word_embeddings": tied}))


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """The model with five times the usual spread: its greedy choices are nearly tied otherwise."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(5)
    return model


def move_adapter(model: torch.nn.Module) -> None:
    """Gives an adapter, if the model has one, other values than its first ones, which are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
