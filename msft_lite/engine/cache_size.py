"""How much memory the engine needs beside its weights: for keys and values, and to compute."""

from __future__ import annotations

from pathlib import Path

from msft_lite.errors import EngineError
from msft_lite.model.folder import read_config

BLOCK_TOKENS = 128  # vLLM's largest default block; each sequence wastes less than one
MOST_BYTES = 16 << 30
# vLLM's default on a CPU. On a large GPU that is 16,384: gigabytes of activations beside a step.
BATCHED_TOKENS = 4096
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LENGTHS = ("num_hidden_layers", "num_attention_heads", "hidden_size")


def cache_bytes(model_folder: Path, dtype: str, *, max_model_len: int, max_num_seqs: int) -> int:
    """Returns bytes that hold ``max_num_seqs`` sequences of full length, 16 GiB at most.

    Above that, vLLM answers fewer at a time; one sequence of full length always fits.

    Raises:
        EngineError: the model's configuration does not tell; the size must then be given.
        ModelError: there is no such configuration.
    """
    config = read_config(model_folder)
    if not all(isinstance(config.get(key), int) for key in _LENGTHS):
        raise EngineError(
            f"the config.json in {model_folder} lacks one of {', '.join(_LENGTHS)}: set "
            "engine.kv_cache_bytes"
        )
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    token_bytes = 2 * config["num_hidden_layers"] * heads * width * _DTYPE_BYTES[dtype]
    # One block more is vLLM's own, never used for a sequence.
    sequence_bytes = (max_model_len + 2 * BLOCK_TOKENS) * token_bytes
    return max(sequence_bytes, min(MOST_BYTES, sequence_bytes * max_num_seqs))


def batched_tokens(max_num_seqs: int, max_model_len: int) -> int:
    """Returns how many tokens are computed at a time: `BATCHED_TOKENS`, or what vLLM insists on."""
    return max(max_num_seqs, max_model_len, min(BATCHED_TOKENS, max_num_seqs * max_model_len))
