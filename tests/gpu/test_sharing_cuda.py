"""One copy of the weights for trainer and vLLM on one GPU, sleep, and cycles without growth."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from msft_lite.data.task import Example
from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.canary import Canary, tolerance_of
from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.engine.shared_weights import SharedWeights, base_parameters
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import EngineError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import apply, capture
from msft_lite.model.weights import Weights
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
CYCLES = 200
GROWTH_BYTES = 16 << 20  # what allocators of driver and libraries may take in that many cycles
DRAW = random.Random(1)
PROBES = [tuple(DRAW.randrange(1, 257) for _ in range(100)) for _ in range(4)]
TRAIN = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=4)
ROWS = [Example("t", n, (5 + n, 6, 7), (8 + n, 9, 0)) for n in range(4)]


class Side:
    """A trainer's model on the GPU and what an engine of its weights is started with."""

    def __init__(self, folder: Path, logs: Path, tuning: str) -> None:
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.model: torch.nn.Module = base.to(device="cuda")  # pyright: ignore[reportCallIssue]
        adapter = None
        if tuning == "lora":
            config = LoraConfig(r=6, lora_alpha=9, target_modules="all-linear")
            self.model = get_peft_model(base, config)
            adapter = adapter_config(self.model)
        else:
            base.requires_grad_(True)
        self.trainer = Trainer(self.model, TRAIN, seed=1, pad_id=0)
        self.trainer.renew("k")
        self.root = capture(self.model)
        shared = SharedWeights(base, CheckpointNames.of(folder), torch.device("cuda"))
        self.settings = VllmSettings(
            model_folder=folder,
            dtype="bfloat16",
            max_model_len=256,
            eos_ids=(0,),
            log_path=logs / "engine.log",
            adapter=adapter,
            max_num_seqs=8,
            shared=shared,
            must_share=True,
        )

    def checked(self, engine: VllmEngine, weights: Weights, label: str) -> list[Completion]:
        """Evaluates ``weights`` as a run does, and compares the engine with the trainer."""
        self.trainer.load(weights)
        reference = TorchEngine(self.model, eos_ids=(0,), pad_id=0)
        canary = Canary(
            PROBES,
            tolerance=tolerance_of("bfloat16"),
            log_probabilities=reference.log_probabilities,
        )
        with engine.awake():
            engine.swap(weights, label)
            canary.check(engine, label)
            return engine.complete([Prompt(ids, 8) for ids in PROBES])


@pytest.fixture(params=["lora", "full"])
def side(tiny_model_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Side:
    return Side(tiny_model_folder, tmp_path, request.param)


@pytest.fixture
def engine(side: Side) -> Iterator[VllmEngine]:
    engine = VllmEngine(side.settings)
    yield engine
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


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_the_engine_computes_with_the_trainers_memory(side: Side, engine: VllmEngine) -> None:
    seen = [
        side.checked(engine, weights, f"s{number}")
        for number, weights in enumerate([side.root, noisy(side.root, 1), side.root])
    ]
    assert engine.shares_weights
    assert seen[0] == seen[2] != seen[1]
    norm = base_parameters(side.model)["model.norm.weight"]
    request = {"operation": "digests", "shapes": {"model.norm.weight": list(norm.shape)}}
    before = engine._ask(request)
    with torch.no_grad():
        norm.add_(1)
    torch.cuda.synchronize()
    assert engine._ask(request) != before


def test_weights_that_the_trainer_does_not_hold_are_refused(side: Side, engine: VllmEngine) -> None:
    side.checked(engine, side.root, "root")
    other = noisy(side.root, 3)
    if side.root.kind == "full":
        with pytest.raises(EngineError, match="is not that of snapshot s3"):
            engine.swap(other, "s3")
    else:
        apply(side.model, side.root)
        engine.swap(other, "s3")
        assert engine.shares_weights


def test_an_engine_that_ends_leaves_the_weights_and_another_adopts_them(side: Side) -> None:
    for _ in range(2):
        engine = VllmEngine(side.settings)
        side.checked(engine, side.root, "root")
        engine.close()
        assert same(capture(side.model), side.root)
        side.trainer.load(noisy(side.root, 4))
        side.trainer.load(side.root)


def test_training_gives_the_bits_of_weights_that_are_not_shared(
    side: Side, tiny_model_folder: Path, tmp_path: Path
) -> None:
    tuning = "full" if side.root.kind == "full" else "lora"
    apart = Side(tiny_model_folder, tmp_path / "apart", tuning)
    apart.trainer.load(side.root)
    shared = side.settings.shared
    assert shared is not None
    shared.handles()
    for trainer in (side.trainer, apart.trainer):
        trainer.step(ROWS)
    assert same(side.trainer.capture(), apart.trainer.capture())


@pytest.mark.parametrize("is_shared", [True, False])
def test_an_engine_that_slept_answers_as_before_and_gave_memory_back(
    side: Side, is_shared: bool
) -> None:
    # As `choose_tenancy` has it: 2 forgets what only a swap of all weights puts back.
    level = 2 if side.root.kind == "full" and not is_shared else 1
    settings = replace(side.settings, sleep_level=level)
    if not is_shared:
        settings = replace(settings, shared=None, must_share=False)
    engine = VllmEngine(settings)
    try:
        seen = [side.checked(engine, side.root, f"s{number}") for number in range(3)]
        assert seen[0] == seen[1] == seen[2]
        asleep = torch.cuda.mem_get_info()[0]
        with engine.awake():
            engine.swap(side.root, "root")
            assert torch.cuda.mem_get_info()[0] < asleep
    finally:
        engine.close()


def test_nothing_grows_in_many_cycles_and_moments_come_back(side: Side) -> None:
    engine = VllmEngine(replace(side.settings, sleep_level=1))
    free = []
    try:
        for cycle in range(CYCLES):
            side.trainer.step(ROWS)
            weights, (moments, _) = side.trainer.capture(), side.trainer.state()
            with side.trainer.parked():
                side.checked(engine, weights, f"s{cycle}")
            after = side.trainer.state()[0]
            assert all(torch.equal(after[name], tensor) for name, tensor in moments.items())
            torch.cuda.empty_cache()
            free.append(torch.cuda.mem_get_info()[0])
    finally:
        engine.close()
    assert free[CYCLES // 10] - free[-1] < GROWTH_BYTES
