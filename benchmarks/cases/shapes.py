"""Models of true shapes and random weights: nothing is downloaded.

The shapes are written here as the models' published config.json has them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Olmo2Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

SEED = 20
SMALL = "Qwen2, 10M"
VOCABULARY = 8_000  # of the small model and of the tokenizer: ids of all rows are below it
SHARD_BYTES = 2 * 10**9
BLOCK_NUMBERS = (
    1_000_003  # random numbers that are repeated; a prime, so that no two rows are equal
)
_QWEN_TOKENS = 151_936


def configs() -> dict[str, PretrainedConfig]:
    """Returns the shapes of the models by name."""
    return {
        SMALL: _qwen2((256, 1024), layers=8, heads=(8, 2), tokens=VOCABULARY),
        "Qwen2.5-0.5B": _qwen2((896, 4864), layers=24, heads=(14, 2)),
        "OLMo-2-1B": Olmo2Config(
            vocab_size=100_352,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=16,
            num_key_value_heads=16,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        ),
        "Qwen2.5-1.5B": _qwen2((1536, 8960), layers=28, heads=(12, 2)),
        "Qwen2.5-3B": _qwen2((2048, 11_008), layers=36, heads=(16, 2)),
        "Llama-3.2-3B": LlamaConfig(
            vocab_size=128_256,
            hidden_size=3072,
            intermediate_size=8192,
            num_hidden_layers=28,
            num_attention_heads=24,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=131_072,
            tie_word_embeddings=True,
        ),
        "Qwen2.5-7B": _qwen2((3584, 18_944), layers=28, heads=(28, 4), tokens=152_064),
        "Qwen3-8B": Qwen3Config(
            vocab_size=_QWEN_TOKENS,
            hidden_size=4096,
            intermediate_size=12_288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=False,
        ),
    }


def _qwen2(
    widths: tuple[int, int], *, layers: int, heads: tuple[int, int], tokens: int = _QWEN_TOKENS
) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=tokens,
        hidden_size=widths[0],
        intermediate_size=widths[1],
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        tie_word_embeddings=tokens != 152_064,  # those up to 3B share embedding and head
        pad_token_id=0,
        eos_token_id=0,
    )


def write_model(folder: Path, name: str = SMALL, dtype: torch.dtype = torch.float32) -> None:
    """Writes a model, and a tokenizer that nothing is tokenised with, as TRL wants one.

    It is written shard by shard, so that a model larger than the memory can be; its matrices repeat
    one block of random numbers.
    """
    config = configs()[name]
    config.architectures = [AutoModelForCausalLM._model_mapping[type(config)].__name__]
    config.dtype = dtype
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(config, dtype), 1):
        file = f"model-{number:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="w1"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="w0", pad_token="w0"
    ).save_pretrained(folder)


def _shards(config: PretrainedConfig, dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the model's tensors, as many at a time as a shard holds."""
    with torch.device("meta"):
        shapes = dict(AutoModelForCausalLM.from_config(config).named_parameters())
    generator = torch.Generator().manual_seed(SEED)
    block = (0.02 * torch.randn(BLOCK_NUMBERS, generator=generator)).to(dtype)
    shard: dict[str, torch.Tensor] = {}
    for name, parameter in shapes.items():
        shard[name] = _filled(name, parameter.shape, block)
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def _filled(name: str, shape: torch.Size, block: torch.Tensor) -> torch.Tensor:
    """Returns a matrix of random numbers, a norm of ones or a bias of zeros."""
    if len(shape) == 1:
        return torch.full(shape, float(not name.endswith("bias")), dtype=block.dtype)
    copies = -(-math.prod(shape) // len(block))
    return block.repeat(copies)[: math.prod(shape)].reshape(shape).clone()
