"""On a GPU a step waits once: for losses and norm, before anything is updated."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msft_lite.data.task import Example
from msft_lite.model.batch import lay_out_examples
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss import row_losses
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
ROWS = [Example("a", n, tuple(range(1, 30 + 7 * n)), (7, 3 + n, 0)) for n in range(6)]
PASSES = 3
TRAIN = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=2)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("padding_free", [True, False])
def test_a_step_waits_once(tuning: str, padding_free: bool, tiny_model_folder: Path) -> None:
    settings = replace(
        ModelSettings(
            str(tiny_model_folder), device="cuda", dtype="bfloat16", padding_free=padding_free
        ),
        tuning=tuning,
    )
    trainer = Trainer(load_model(settings, seed=1), TRAIN, seed=20, pad_id=0)
    trainer.step(ROWS)  # the first step makes workspaces and loads kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.step(ROWS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [str(one.message) for one in caught if "synchroniz" in str(one.message)]
    # Of padded rows transformers asks once a pass whether they are packed.
    assert len(waits) == (1 if padding_free else 1 + PASSES), waits


def test_a_pass_waits_for_nothing(tiny_model_folder: Path) -> None:
    settings = ModelSettings(str(tiny_model_folder), device="cuda", dtype="bfloat16")
    model = load_model(settings, seed=1)
    host = lay_out_examples(ROWS, pad_id=0, device="cuda", packed=True)
    assert host.numbers.is_pinned()
    row_losses(model, host.on_device()).sum().backward()  # kernels are loaded
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        row_losses(model, host.on_device()).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
