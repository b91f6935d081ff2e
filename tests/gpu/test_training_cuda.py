"""Training on a GPU: bitwise seam and roll-back, generators, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msft_lite.data.task import Example
from msft_lite.errors import TrainError
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.train.settings import Optim, TrainSettings
from msft_lite.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
TRAIN = TrainSettings(learning_rate=1e-2, per_device_train_batch_size=2, max_grad_norm=1.0)
PLAIN = replace(TRAIN, per_device_train_batch_size=8, max_grad_norm=0.0)
OPTIMIZERS = {
    "adamw": TRAIN,
    "adamw-nearest": replace(TRAIN, bf16_update="nearest"),
    "adamw_8bit": replace(TRAIN, optim="adamw_8bit"),
    "paged_adamw": replace(TRAIN, optim="paged_adamw"),
    "paged_adamw_8bit": replace(TRAIN, optim="paged_adamw_8bit"),
    "paged_adamw_8bit-nearest": replace(TRAIN, optim="paged_adamw_8bit", bf16_update="nearest"),
    "in-backward": replace(PLAIN, optim="adamw_8bit", optimizer_in_backward=True),
}
LEAST_PAGED_ELEMENTS = "msft_lite.train.update_rules._LEAST_PAGED_ELEMENTS"
ROWS = [Example("a", n, tuple(range(1, 9 + n)), (7, 3 + n, 0)) for n in range(5)]
MODELS = {
    "lora": ModelSettings("", dtype="bfloat16", lora_r=4, lora_dropout=0.3, device="cuda"),
    "full": ModelSettings("", dtype="bfloat16", tuning="full", device="cuda"),
}


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def trainer_of(
    name: str, folder: Path, *, checkpointing: bool = False, train: TrainSettings = TRAIN
) -> Trainer:
    settings = replace(MODELS[name], name_or_path=str(folder), gradient_checkpointing=checkpointing)
    return Trainer(load_model(settings, seed=1), train, seed=20, pad_id=0)


def assert_same(first: Trainer, second: Trainer) -> None:
    for one, other in (
        (first.capture().tensors, second.capture().tensors),
        (first.state()[0], second.state()[0]),
    ):
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_seam_and_rollback_on_the_gpu(
    name: str, optimizer: str, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LEAST_PAGED_ELEMENTS, 4096)  # the model is tiny
    train = OPTIMIZERS[optimizer]
    through = trainer_of(name, tiny_model_folder, train=train)
    start = through.capture()
    for _ in range(4):
        through.step(ROWS)
    parts = trainer_of(name, tiny_model_folder, train=train)
    parts.step(ROWS[::-1])
    parts.load(start)
    parts.renew("")
    for _ in range(2):
        parts.step(ROWS)
    later = trainer_of(name, tiny_model_folder, checkpointing=True, train=train)
    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state()
    later.load(parts.capture())
    later.restore_state(*parts.state())
    for _ in range(2):
        later.step(ROWS)
    assert_same(through, later)
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert later.peak_bytes() > 0


@pytest.mark.parametrize("optim", ["adamw", "adamw_8bit"])
def test_a_step_in_the_backward_pass_has_the_bits_of_a_normal_one(
    optim: Optim, tiny_model_folder: Path
) -> None:
    plain = replace(PLAIN, optim=optim)
    normal = trainer_of("full", tiny_model_folder, train=plain)
    early = trainer_of("full", tiny_model_folder, train=replace(plain, optimizer_in_backward=True))
    for _ in range(3):
        assert normal.step(ROWS) == early.step(ROWS)
    assert_same(normal, early)


@pytest.mark.parametrize("optim", ["paged_adamw", "paged_adamw_8bit"])
def test_paging_changes_no_bit(
    optim: Optim, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = replace(TRAIN, optim=optim)
    trainers = []
    for least in (4096, 2**60):  # in the second no tensor is large enough to be paged
        monkeypatch.setattr(LEAST_PAGED_ELEMENTS, least)
        trainer = trainer_of("full", tiny_model_folder, train=train)
        trainer.step(ROWS)
        trainers.append(trainer)
    assert_same(*trainers)


def test_the_adapter_is_the_one_of_the_cpu(tiny_model_folder: Path) -> None:
    settings = replace(MODELS["lora"], name_or_path=str(tiny_model_folder))
    here, there = (
        Trainer(load_model(replace(settings, device=device), seed=1), TRAIN, seed=20, pad_id=0)
        for device in ("cuda", "cpu")
    )
    assert_same(here, there)


def test_too_little_memory_gives_advice(tiny_model_folder: Path) -> None:
    trainer = trainer_of("full", tiny_model_folder)
    torch.cuda.set_per_process_memory_fraction(1e-6)
    torch.cuda.empty_cache()
    try:
        with pytest.raises(TrainError, match="out of memory on cuda"):
            trainer.step([Example("a", 0, tuple([5] * 500), tuple([6] * 5000))] * 2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
