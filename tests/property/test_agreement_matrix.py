"""Law 9 over architectures: trainer and vLLM agree, whatever is tuned and however it gets there.

A few cells of the matrix are tested. All of them, 48 starts of an engine, with
``MSFT_LITE_MATRIX=figures.jsonl``; to that file a line of figures is added for every cell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

pytest.importorskip("bitsandbytes")  # in the extras alone

from msft_lite.engine.base import EvalEngine
from msft_lite.engine.dequantised import DequantisedBase
from msft_lite.engine.merged import MergingEngine
from msft_lite.engine.vllm_engine import VllmEngine
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import ModelSettings, capture, load_model
from msft_lite.model.settings import Dtype
from tests.both_engines import canary, moved, prompts, torch_engine, vllm_settings
from tests.tiny_models import FAMILIES, random_model, spread

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


@contextmanager
def started(cell: Cell, model: torch.nn.Module, base: Path, log: Path) -> Iterator[VllmEngine]:
    """The engine that a run would start for ``model``."""
    dequantised = DequantisedBase(model, base, fallback=log.parent) if cell.way == "qlora" else None
    settings = replace(
        vllm_settings(base if dequantised is None else dequantised.folder, log),
        dtype=cell.dtype,
        adapter=None if cell.way == "whole" else adapter_config(model),
    )
    engine = VllmEngine(settings, base=dequantised)
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.parametrize("cell", ALL if MATRIX else CHOSEN, ids=lambda c: "-".join(vars_of(c)))
def test_trainer_and_engine_agree_swap_after_swap(cell: Cell, tmp_path: Path) -> None:
    base = tmp_path / "base"
    spread(random_model(cell.family, tied=cell.head == "tied")).save_pretrained(base)
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
    trainer, root, asked = torch_engine(model), capture(model), prompts(least=8)
    bird = canary(trainer, cell.dtype)
    equal, total, differences, seen = 0, 0, list[float](), list[object]()
    for seed in range(3):
        weights = moved(root, seed, SPREAD.get(name, ADAPTER_SPREAD))
        for one in (engine, trainer):
            one.swap(weights, f"s{seed}")
        bird.check(engine, f"s{seed}")
        found = engine.complete(asked, log_probabilities=True)
        wanted = trainer.complete(asked)
        pairs = [(prompt.ids, one.ids) for prompt, one in zip(asked, found, strict=True)]
        expected = trainer.log_probabilities(pairs)
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
