from __future__ import annotations

import json
from pathlib import Path

import pytest

from msft_lite.engine.cache_size import MOST_BYTES, batched_tokens, cache_bytes
from msft_lite.errors import EngineError


def test_the_size_is_the_models(tiny_model_folder: Path) -> None:
    # 2 layers, one key and one value of 1 head of width 32, 4 bytes a number: 512 bytes a token.
    size = cache_bytes(tiny_model_folder, "float32", max_model_len=256, max_num_seqs=4)
    assert size == (256 + 256) * 512 * 4


def test_a_large_model_is_capped_but_holds_one_sequence(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 80, "num_attention_heads": 64, "hidden_size": 8192}
    (tmp_path / "config.json").write_text(json.dumps(config))
    size = cache_bytes(tmp_path, "bfloat16", max_model_len=2048, max_num_seqs=64)
    assert size == MOST_BYTES
    size = cache_bytes(tmp_path, "float32", max_model_len=32_768, max_num_seqs=64)
    assert size == (32_768 + 256) * 2 * 80 * 8192 * 4


def test_a_model_that_does_not_tell_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match=r"engine\.kv_cache_bytes"):
        cache_bytes(tmp_path, "float32", max_model_len=10, max_num_seqs=1)


def test_few_tokens_are_computed_at_a_time_but_as_many_as_vllm_insists_on() -> None:
    assert batched_tokens(64, 512) == 4096
    assert batched_tokens(8, 256) == 8 * 256
    assert batched_tokens(64, 8192) == 8192
    assert batched_tokens(5000, 512) == 5000
