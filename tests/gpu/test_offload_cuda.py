"""Inputs of checkpointed layers on the host: the same bits, and less memory on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from msft_lite.data.task import Example
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.offload import CudaLane, Offload
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
LAYERS, WIDTH, TOKENS = 8, 256, 2048
ROWS = [Example("a", n, (5,) * (TOKENS - 8), tuple(range(8))) for n in range(2)]
TRAIN = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=2)


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("eight-layers")
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return place


def trained(settings: ModelSettings) -> tuple[dict[str, torch.Tensor], int]:
    """Returns the weights after three steps, and the most bytes of tensors in the third."""
    trainer = Trainer(load_model(settings, seed=1), TRAIN, seed=20, pad_id=0)
    for _ in range(2):
        trainer.step(ROWS)
    torch.cuda.reset_peak_memory_stats()
    trainer.step(ROWS)
    return dict(trainer.capture().tensors), torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("every", [True, 2])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_offloading_changes_no_bit(tuning: str, every: bool | int, folder: Path) -> None:
    settings = ModelSettings(
        str(folder), device="cuda", dtype="bfloat16", gradient_checkpointing=every
    )
    settings = replace(settings, tuning=tuning)
    kept, _ = trained(settings)
    moved, _ = trained(replace(settings, activation_offload=True))
    assert [name for name in kept if not torch.equal(kept[name], moved[name])] == []


def test_the_inputs_are_not_on_the_gpu(folder: Path) -> None:
    settings = ModelSettings(
        str(folder), device="cuda", dtype="bfloat16", gradient_checkpointing=True
    )
    _, kept = trained(settings)
    _, moved = trained(replace(settings, activation_offload=True))
    boundary_bytes = len(ROWS) * TOKENS * WIDTH * 2
    # Three may be there at a time: in use, fetched ahead, and given back but still being copied.
    assert kept - moved >= (LAYERS - 4) * boundary_bytes


def test_copies_wait_for_the_work_that_makes_what_they_copy() -> None:
    """Sums that take milliseconds are packed while they are computed, and read back at once."""
    offload = Offload(CudaLane())
    parcels, wanted = [], []
    for number in range(6):
        tensor = torch.full((2048, 2048), float(number), device="cuda")
        for _ in range(20):
            tensor = (tensor @ torch.eye(2048, device="cuda")) + 1
        parcels.append(offload.pack(tensor))
        wanted.append(number + 20.0)
        del tensor
    for parcel, value in reversed(list(zip(parcels, wanted, strict=True))):
        assert parcel.held.is_pinned()
        assert bool((offload.unpack(parcel) == value).all())
