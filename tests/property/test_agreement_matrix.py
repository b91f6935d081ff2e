"""Law 9 over architectures: trainer and vLLM agree, whatever is tuned and however it gets there.

A few cells of the matrix are tested. All of them, 48 starts of an engine, with
``MSFT_LITE_MATRIX=figures.jsonl``; to that file a line of figures is added for every cell.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
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

pytest.importorskip("bitsandbytes")  # in the extras alone

from msft_lite.engine.base import EvalEngine, Prompt
from msft_lite.engine.canary import Canary, tolerance_of
from msft_lite.engine.dequantised import DequantisedBase
from msft_lite.engine.merged import MergingEngine
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import ModelSettings, capture, load_model
from msft_lite.model.settings import Dtype
from msft_lite.model.weights import Weights

FAMILIES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
SHAPE = {
    "vocab_size": 257,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": 0,
}
Way = Literal["lora", "qlora", "whole"]
# What one engine answers: one that takes whole models is given full tuning, and DoRA merged.
TUNINGS: dict[Way, dict[str, dict[str, Any]]] = {
    "lora": {"lora": {}},
    "qlora": {"qlora": {"load_in_4bit": True}},
    "whole": {
        "full": {"tuning": "full"},
        "dora": {"use_dora": True},
        "qdora": {"use_dora": True, "load_in_4bit": True},
    },
}
SPREAD = {"full": 0.02}  # of what training moved; of an adapter's tensors more
ADAPTER_SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class Cell:
    """One engine of the matrix."""

    family: str
    head: Literal["tied", "untied"]
    way: Way
    dtype: Dtype


MATRIX = os.environ.get("MSFT_LITE_MATRIX")
HEADS: tuple[Literal["tied", "untied"], ...] = ("tied", "untied")
WAYS: tuple[Way, ...] = ("lora", "qlora", "whole")
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
CHOSEN = (
    Cell("qwen3", "tied", "qlora", "float32"),
    Cell("llama", "untied", "qlora", "bfloat16"),
    Cell("olmo2", "untied", "whole", "float32"),
)
ALL = tuple(Cell(*cell) for cell in product(FAMILIES, HEADS, WAYS, DTYPES))


def write_model(cell: Cell, folder: Path) -> Path:
    """Writes a random model of the family in float32."""
    config, model_class = FAMILIES[cell.family]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = model_class(config.from_dict(SHAPE | {"tie_word_embeddings": cell.head == "tied"}))
    # Five times the usual spread: greedy choices of a random model are otherwise nearly tied.
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.mul_(5)
    made.save_pretrained(folder)
    return folder


def prompts() -> list[Prompt]:
    """Prompts that share their first 96 tokens, as those with the same shots do, and others."""
    draw = random.Random(11)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, 257) for _ in range(count))

    shots = ids(96)
    shared = [Prompt(shots + ids(draw.randint(1, 50)), 16) for _ in range(12)]
    return shared + [Prompt(ids(draw.randint(1, 120)), draw.randint(8, 24)) for _ in range(12)]


def moved(weights: Weights, seed: int, spread: float) -> Weights:
    """The weights after training that went somewhere."""
    generator = torch.Generator().manual_seed(seed)
    return Weights(
        weights.kind,
        {
            name: (tensor + spread * torch.randn(tensor.shape, generator=generator)).to(tensor)
            for name, tensor in weights.tensors.items()
        },
    )


@contextmanager
def started(cell: Cell, model: torch.nn.Module, base: Path, log: Path) -> Iterator[VllmEngine]:
    """The engine that a run would start for ``model``."""
    dequantised = DequantisedBase(model, base, fallback=log.parent) if cell.way == "qlora" else None
    settings = VllmSettings(
        model_folder=base if dequantised is None else dequantised.folder,
        dtype=cell.dtype,
        max_model_len=256,
        eos_ids=(0,),
        log_path=log,
        adapter=None if cell.way == "whole" else adapter_config(model),
        threads=1,
        max_num_seqs=8,
    )
    engine = VllmEngine(settings, base=dequantised)
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.parametrize("cell", ALL if MATRIX else CHOSEN, ids=lambda c: "-".join(vars_of(c)))
def test_trainer_and_engine_agree_swap_after_swap(cell: Cell, tmp_path: Path) -> None:
    base = write_model(cell, tmp_path / "base")
    plain = ModelSettings(str(base), dtype=cell.dtype, lora_r=8, lora_alpha=12)
    models = {
        name: load_model(replace(plain, **changes), seed=1)
        for name, changes in TUNINGS[cell.way].items()
    }
    with started(cell, next(iter(models.values())), base, tmp_path / "engine.log") as vllm:
        for name, model in models.items():
            adapted = cell.way == "whole" and name != "full"
            engine: EvalEngine = MergingEngine(vllm, model) if adapted else vllm
            compare(cell, name, model, engine)


def compare(cell: Cell, name: str, model: torch.nn.Module, engine: EvalEngine) -> None:
    """Swaps three sets of weights in and compares what both sides answer."""
    torch_engine, root = TorchEngine(model, eos_ids=(0,), pad_id=0), capture(model)
    bird = Canary(
        [prompt.ids for prompt in prompts()[:4]],
        tolerance=tolerance_of(cell.dtype),
        log_probabilities=torch_engine.log_probabilities,
    )
    equal, total, differences, seen = 0, 0, list[float](), list[object]()
    for seed in range(3):
        weights = moved(root, seed, SPREAD.get(name, ADAPTER_SPREAD))
        for one in (engine, torch_engine):
            one.swap(weights, f"s{seed}")
        bird.check(engine, f"s{seed}")
        found = engine.complete(prompts(), log_probabilities=True)
        wanted = torch_engine.complete(prompts())
        pairs = [(prompt.ids, one.ids) for prompt, one in zip(prompts(), found, strict=True)]
        expected = torch_engine.log_probabilities(pairs)
        equal += sum(one.ids == other.ids for one, other in zip(found, wanted, strict=True))
        total += len(found)
        differences += [
            abs(ours - theirs)
            for one, values in zip(found, expected, strict=True)
            for ours, theirs in zip(one.log_probabilities, values, strict=True)
        ]
        seen.append([one.ids for one in found])
    assert seen[0] != seen[1] != seen[2]
    mean, largest = sum(differences) / len(differences), max(differences)
    if MATRIX:
        row = (*vars_of(cell)[:2], name, cell.dtype, equal, total, mean, largest)
        with Path(MATRIX).open("a") as file:
            file.write(json.dumps(row) + "\n")
    if cell.dtype == "float32":
        assert equal == total
        assert largest < 1e-3  # of two implementations of the same sums
    else:
        # Tokens may differ where two are nearly tied. Rounding moves log probabilities as much
        # between two kernels of transformers' own, see the canary's tolerances.
        assert mean < 0.15


def vars_of(cell: Cell) -> tuple[str, ...]:
    return (cell.family, cell.head, cell.way, cell.dtype)
