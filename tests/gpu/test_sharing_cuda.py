"""One copy of the weights for trainer and vLLM on one GPU, sleep, and cycles without growth."""

from __future__ import annotations

import os
import random
import signal
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
CACHE_BYTES = 64 << 20
GROWTH_BYTES = 16 << 20  # what allocators of driver and libraries may take in that many cycles
DRAW = random.Random(1)
PROBES = [tuple(DRAW.randrange(1, 257) for _ in range(100)) for _ in range(4)]
TRAIN = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=4)
ROWS = [Example("t", n, (5 + n, 6, 7), (8 + n, 9, 0)) for n in range(4)]


class Side:
    """A trainer's model on the GPU and what an engine of its weights is started with."""

    def __init__(self, folder: Path, logs: Path, tuning: str) -> None:
        self.tuning = tuning
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
            kv_cache_bytes=CACHE_BYTES,
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


@pytest.fixture(scope="module", params=["lora", "full"])
def side(
    gpu_model_folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Side:
    return Side(gpu_model_folder, tmp_path_factory.mktemp("logs"), request.param)


@pytest.fixture(scope="module")
def engine(side: Side) -> Iterator[VllmEngine]:
    """An engine that shares the trainer's weights and sleeps when it is not asked."""
    engine = VllmEngine(replace(side.settings, sleep_level=1))
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
    assert engine.notices == ()
    assert seen[0] == seen[2] != seen[1]
    norm = base_parameters(side.model)["model.norm.weight"]
    request = {"operation": "digests", "shapes": {"model.norm.weight": list(norm.shape)}}
    kept = norm.detach().clone()
    before = engine._ask(request)
    with torch.no_grad():
        norm.add_(1)
        torch.cuda.synchronize()
        assert engine._ask(request) != before
        norm.copy_(kept)


def test_weights_that_the_trainer_does_not_hold_are_refused(side: Side, engine: VllmEngine) -> None:
    side.checked(engine, side.root, "root")
    other = noisy(side.root, 3)
    with engine.awake():
        if side.tuning == "full":
            with pytest.raises(EngineError, match="is not that of snapshot s3"):
                engine.swap(other, "s3")
        else:
            apply(side.model, side.root)
            engine.swap(other, "s3")
        engine.swap(side.root, "root")


def test_an_engine_that_sleeps_gives_keys_and_values_back_and_answers_as_before(
    side: Side, engine: VllmEngine
) -> None:
    seen = [side.checked(engine, side.root, f"s{number}") for number in range(3)]
    assert seen[0] == seen[1] == seen[2]
    asleep = torch.cuda.mem_get_info()[0]
    with engine.awake():
        engine.swap(side.root, "root")
        assert asleep - torch.cuda.mem_get_info()[0] > CACHE_BYTES // 2


def test_an_engine_that_dies_leaves_the_weights_and_another_answers_with_them(
    side: Side, engine: VllmEngine
) -> None:
    wanted = side.checked(engine, side.root, "root")
    other = VllmEngine(side.settings)
    try:
        assert side.checked(other, side.root, "root") == wanted
        os.kill(other.process_id, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL"):
            side.checked(other, side.root, "root")
    finally:
        other.close()
    assert same(capture(side.model), side.root)
    side.trainer.load(noisy(side.root, 4))
    assert side.checked(engine, side.root, "root") == wanted


def test_a_copy_of_the_weights_comes_back_from_sleep(side: Side) -> None:
    # As `choose_tenancy` has it: 2 forgets what only a swap of all weights puts back.
    level = 2 if side.tuning == "full" else 1
    engine = VllmEngine(replace(side.settings, shared=None, must_share=False, sleep_level=level))
    try:
        seen = [side.checked(engine, side.root, f"s{number}") for number in range(3)]
        assert seen[0] == seen[1] == seen[2]
        assert engine.notices == ()
    finally:
        engine.close()


def test_training_gives_the_bits_of_weights_that_are_not_shared(
    side: Side, gpu_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    sides = [Side(gpu_model_folder, tmp_path / name, side.tuning) for name in ("one", "other")]
    shared = sides[0].settings.shared
    assert shared is not None
    shared.handles()
    torch.use_deterministic_algorithms(True)
    try:
        for each in sides:
            each.trainer.load(side.root)
            for _ in range(3):
                each.trainer.step(ROWS)
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(*(each.trainer.capture() for each in sides))


def test_nothing_grows_in_many_cycles_and_moments_come_back(side: Side, engine: VllmEngine) -> None:
    free = []
    side.trainer.load(side.root)
    for cycle in range(CYCLES):
        side.trainer.step(ROWS)
        weights, (moments, _) = side.trainer.capture(), side.trainer.state()
        with side.trainer.parked():
            side.checked(engine, weights, f"s{cycle}")
        after = side.trainer.state()[0]
        assert all(torch.equal(after[name], tensor) for name, tensor in moments.items())
        torch.cuda.empty_cache()
        free.append(torch.cuda.mem_get_info()[0])
    assert free[CYCLES // 10] - free[-1] < GROWTH_BYTES
