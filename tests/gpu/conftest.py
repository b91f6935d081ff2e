"""What tests of vLLM on a GPU have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def gpu_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random Qwen2 (tied embeddings), its parts aligned as those of true models."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("gpu-model")
    config = Qwen2Config(
        vocab_size=257,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = Qwen2ForCausalLM(config)
    # Greedy choices of a random model are otherwise nearly tied.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(2.5)
    model.save_pretrained(folder)
    return folder
