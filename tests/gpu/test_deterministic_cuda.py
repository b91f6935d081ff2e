"""`train.deterministic` on a GPU: the same bits from the same steps, packed, padded and fused."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from msft_lite.data.task import Example
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss_kernel import resolve_loss_kernel
from msft_lite.train.determinism import settle_workspace
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
TRAIN = TrainSettings(learning_rate=1e-2, per_device_train_batch_size=4, deterministic=True)
ROWS = [
    Example("a", n, tuple(k % 250 for k in range(1, 300 + 17 * n)), tuple(range(n, n + 40)))
    for n in range(8)
]


@pytest.mark.parametrize("padding_free", [None, False])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    "fused",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                find_spec("liger_kernel") is None, reason="needs liger-kernel"
            ),
        ),
    ],
)
def test_two_trainings_are_the_same_bits(
    fused: bool,
    tuning: str,
    padding_free: bool | None,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    settle_workspace()
    settings = ModelSettings(
        str(tiny_model_folder), device="cuda", dtype="bfloat16", padding_free=padding_free
    )
    name = "liger" if fused else "chunked"
    found = []
    for _ in range(2):
        model = load_model(replace(settings, tuning=tuning, liger_kernels=fused), seed=1)
        kernel = resolve_loss_kernel(name, model, deterministic=True)
        trainer = Trainer(model, TRAIN, seed=20, pad_id=0, loss_kernel=kernel)
        found.append(([trainer.step(ROWS) for _ in range(5)], trainer.capture().tensors))
    (steps, weights), (other_steps, other_weights) = found
    assert steps == other_steps
    assert [name for name in weights if not torch.equal(weights[name], other_weights[name])] == []
