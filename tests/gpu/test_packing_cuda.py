"""Rows laid one after another on a GPU: the kernel in bfloat16, one call a row in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msft_lite.data.task import Example
from msft_lite.model.batch import collate_examples
from msft_lite.model.load import ModelSettings, load_model, trainable_parameters
from msft_lite.model.loss import row_losses
from msft_lite.model.packing import packing_problem, takes_packed_rows
from msft_lite.model.settings import Dtype

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
ROWS = [Example("a", n, tuple(range(1, 9 + 7 * n)), (7, 3 + n, 0)) for n in range(4)]
# Losses of bfloat16 logits, 2**-8 apart; float32 sums in another order.
TOLERANCE: dict[Dtype, float] = {"bfloat16": 2e-2, "float32": 1e-4}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_packed_is_padded(dtype: Dtype, tiny_model_folder: Path) -> None:
    settings = ModelSettings(str(tiny_model_folder), tuning="full", dtype=dtype, device="cuda")
    packing = load_model(settings, seed=1)
    padding = load_model(replace(settings, padding_free=False), seed=1)
    assert packing_problem(padding) is None
    assert takes_packed_rows(packing)
    found = []
    for model, packed in ((packing, True), (padding, False)):
        losses = row_losses(model, collate_examples(ROWS, pad_id=0, device="cuda", packed=packed))
        losses.sum().backward()
        gradients = [p.grad for p in trainable_parameters(model).values()]
        found.append([losses.detach(), *(g for g in gradients if g is not None)])
    for one, other in zip(*found, strict=True):
        atol = TOLERANCE[dtype] * float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=0, atol=atol)
