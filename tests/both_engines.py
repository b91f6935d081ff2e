"""What the tests of law 9 ask of vLLM's engine and of torch's, and how they compare the answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from msft_lite.engine.base import Completion, EvalEngine, Prompt
from msft_lite.engine.canary import Canary, tolerance_of
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmSettings
from msft_lite.model.settings import Dtype
from msft_lite.model.weights import Weights


def prompts(least: int = 1) -> list[Prompt]:
    """Prompts that share their first 96 tokens, as those with the same shots do, and others.

    Args:
        least: the others ask for as many tokens, or for more.
    """
    draw = random.Random(11)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, 257) for _ in range(count))

    shots = ids(96)
    shared = [Prompt(shots + ids(draw.randint(1, 50)), 16) for _ in range(12)]
    return shared + [Prompt(ids(draw.randint(1, 120)), draw.randint(least, 24)) for _ in range(12)]


def vllm_settings(folder: Path, log: Path, *, eos_id: int = 0) -> VllmSettings:
    """An engine of full weights in float32, of the smallest kind."""
    return VllmSettings(
        model_folder=folder,
        dtype="float32",
        max_model_len=256,
        eos_ids=(eos_id,),
        log_path=log,
        threads=1,
        max_num_seqs=8,
    )


def torch_engine(model: torch.nn.Module, *, eos_id: int = 0) -> TorchEngine:
    """The reference, which computes with the trainer's model."""
    return TorchEngine(model, eos_ids=(eos_id,), pad_id=0, batch_size=7)


def canary(trainer: TorchEngine, dtype: Dtype = "float32") -> Canary:
    """A canary of four prompts."""
    probes = [prompt.ids for prompt in prompts()[:4]]
    return Canary(
        probes, tolerance=tolerance_of(dtype), log_probabilities=trainer.log_probabilities
    )


def moved(weights: Weights, seed: int, spread: float = 0.03) -> Weights:
    """The weights after training that went somewhere."""
    generator = torch.Generator().manual_seed(seed)
    return Weights(
        weights.kind,
        {
            name: (tensor + spread * torch.randn(tensor.shape, generator=generator)).to(tensor)
            for name, tensor in weights.tensors.items()
        },
    )


def answers(engine: EvalEngine) -> list[Completion]:
    """What the engine answers to the prompts."""
    with engine.awake():
        return engine.complete(prompts(), log_probabilities=True)


def assert_same(found: Sequence[Completion], wanted: Sequence[Completion]) -> None:
    """Holds that tokens are equal and log probabilities nearly so."""
    assert [one.ids for one in found] == [one.ids for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        # Two implementations in float32; 4e-6 measured.
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
