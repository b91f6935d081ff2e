"""vLLM beside the trainer on one GPU: swaps of adapters and of full weights are the trainer's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from msft_lite.engine.base import Prompt
from msft_lite.engine.canary import Canary, tolerance_of
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import EngineError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import capture
from msft_lite.model.weights import Weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
Pair = tuple[VllmEngine, TorchEngine, Weights]


@pytest.fixture(scope="module", params=["adapter", "full"])
def pair(
    gpu_model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Pair]:
    """An engine, the trainer's reference and the trainer's first weights, in bfloat16."""
    base = AutoModelForCausalLM.from_pretrained(gpu_model_folder, dtype=torch.bfloat16)
    model, adapter = base.to(device="cuda"), None  # pyright: ignore[reportCallIssue]
    if request.param == "adapter":
        config = LoraConfig(r=6, lora_alpha=9, use_rslora=True, target_modules="all-linear")
        model = get_peft_model(base, config)
        adapter = adapter_config(model)
    settings = VllmSettings(
        model_folder=gpu_model_folder,
        dtype="bfloat16",
        max_model_len=256,
        eos_ids=(0,),
        log_path=tmp_path_factory.mktemp("engine") / "engine.log",
        adapter=adapter,
        gpu_memory_utilization=0.05,
        max_num_seqs=8,
    )
    engine = VllmEngine(settings)
    yield engine, TorchEngine(model, eos_ids=(0,), pad_id=0), capture(model)
    engine.close()


def noisy(weights: Weights, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return Weights(
        weights.kind,
        {
            name: tensor + 0.03 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            for name, tensor in weights.tensors.items()
        },
    )


def test_swaps_reach_the_engine_and_a_missed_one_is_seen(pair: Pair) -> None:
    engine, trainer, root = pair
    draw = random.Random(1)
    probes = [tuple(draw.randrange(1, 257) for _ in range(100)) for _ in range(4)]
    canary = Canary(
        probes,
        tolerance=tolerance_of("bfloat16"),
        log_probabilities=trainer.log_probabilities,
    )
    with engine.awake():
        for number, weights in enumerate([root, noisy(root, 1), noisy(root, 2), root]):
            trainer.swap(weights, f"s{number}")
            engine.swap(weights, f"s{number}")
            canary.check(engine, f"s{number}")
        trainer.swap(noisy(root, 3), "missed")
        with pytest.raises(EngineError, match="not the trainer's"):
            canary.check(engine, "missed")
        answers = engine.complete([Prompt(ids, 8) for ids in probes])
    assert [0 < len(one.ids) <= 8 for one in answers] == [True] * 4
