"""The kernels of liger-kernel and cut-cross-entropy compute what our own code computes.

They run on a GPU, or without one in Triton's interpreter, which computes them in numpy:

    pip install --no-deps --target FOLDER triton liger-kernel cut-cross-entropy
    TRITON_INTERPRET=1 PYTHONPATH=FOLDER python -m pytest tests/property/test_fused_kernels.py

The interpreter shows that values and gradients are right, and nothing of time or memory.
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from msft_lite.data.task import Example
from msft_lite.model import loss_kernel
from msft_lite.model.adapter import attach_adapter
from msft_lite.model.batch import collate_examples
from msft_lite.model.flops import flop_rates
from msft_lite.model.fused_layers import check_fused, fuse_layers, states_to_keep
from msft_lite.model.load import ModelSettings, load_model, trainable_parameters
from msft_lite.model.loss import base_model, row_losses
from msft_lite.model.loss_kernel import CHUNKED, LossKernel, proof_problem
from msft_lite.model.memory.step import StepShape, predicted
from msft_lite.model.packing import lay_out, takes_packed_rows
from msft_lite.model.settings import LossKernelName
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    find_spec("triton") is None or not (DEVICE == "cuda" or IS_INTERPRETED),
    reason="needs triton, and an NVIDIA GPU or TRITON_INTERPRET=1",
)
needs_liger = pytest.mark.skipif(find_spec("liger_kernel") is None, reason="needs liger-kernel")
needs_cut = pytest.mark.skipif(
    find_spec("cut_cross_entropy") is None, reason="needs cut-cross-entropy"
)
LIGER = LossKernel("liger")
# Of the largest number: float32 sums in another order.
FLOAT32 = 1e-5
ROWS = [Example("a", n, tuple(range(1, 3 + 2 * n)), (7, 3 + n, 0)[n % 2 :]) for n in range(3)]


@pytest.fixture(scope="module", autouse=True)
def complete_interpreter() -> None:
    """Gives Triton's interpreter two things that only its compiler has.

    Numbers that are handed to a kernel have the methods of tensors, and functions of CUDA's own
    library compute something.
    """
    if not IS_INTERPRETED:
        return
    import numpy as np
    import triton.language as tl  # pyright: ignore[reportMissingImports]
    from triton.language.extra import libdevice  # pyright: ignore[reportMissingImports]
    from triton.runtime import interpreter  # pyright: ignore[reportMissingImports]

    own = interpreter._implicit_cvt

    def converted(value: Any) -> Any:
        if not isinstance(value, float):
            return own(value)
        handle = interpreter.TensorHandle(np.array([value], dtype=np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)

    semantic = interpreter.interpreter_semantic
    interpreter._implicit_cvt = converted
    libdevice.rsqrt = lambda x: tl.rsqrt(x, _semantic=semantic)
    libdevice.log1p = lambda x: tl.log(1.0 + x, _semantic=semantic)


def near(found: torch.Tensor, expected: torch.Tensor, share: float) -> bool:
    return torch.allclose(
        found.float(), expected.float(), rtol=0, atol=share * float(expected.abs().max())
    )


def head_of(*, bias: bool, trained: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    generator = torch.Generator().manual_seed(3)
    head = nn.Linear(16, 50, bias=bias)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return head.to(DEVICE, dtype).requires_grad_(trained)


def losses_and_gradients(
    name: LossKernelName | None, head: nn.Linear, *, tokens: int = 9
) -> list[torch.Tensor]:
    """Losses and gradients by a kernel, or by the formula; every token has another weight."""
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(tokens, 16, generator=generator).to(DEVICE, head.weight.dtype)
    hidden.requires_grad_(True)
    targets = torch.randint(50, (tokens,), generator=generator).to(DEVICE)
    weights = torch.rand(tokens, generator=generator).to(DEVICE)
    if name is None:
        losses = functional.cross_entropy(head(hidden).float(), targets, reduction="none")
    else:
        losses = LossKernel(name).token_losses(head, hidden, targets)
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad((losses * weights).sum(), [hidden, *trained])
    return [losses.detach(), *gradients]


@needs_liger
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_liger_gives_cross_entropy_with_its_gradients(
    bias: bool, trained: bool, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_kernel, "CHUNK_BYTES", chunk_bytes)
    head = head_of(bias=bias, trained=trained)
    found, expected = losses_and_gradients("liger", head), losses_and_gradients(None, head)
    assert len(found) == len(expected) == 2 + trained * (1 + bias)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert near(one, other, FLOAT32)


@needs_liger
def test_no_token_has_no_loss() -> None:
    head = head_of(bias=False, trained=True)
    hidden = torch.zeros(0, 16, device=DEVICE)
    targets = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert LIGER.token_losses(head, hidden, targets).shape == (0,)


@needs_cut
@pytest.mark.parametrize("trained", [False, True])
def test_cut_cross_entropy_gives_cross_entropy_with_its_gradients(trained: bool) -> None:
    # Its sums are as short as its input. The interpreter has no bfloat16.
    dtype = torch.float16 if IS_INTERPRETED else torch.bfloat16
    head = head_of(bias=False, trained=trained, dtype=dtype)
    found = losses_and_gradients("cut_cross_entropy", head)
    expected = losses_and_gradients(None, head)
    assert len(found) == len(expected) == 2 + trained
    for one, other in zip(found, expected, strict=True):
        assert near(one, other, 0.03)


@needs_liger
def test_a_kernel_that_weighs_tokens_alike_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from liger_kernel.transformers import functional as liger  # pyright: ignore[reportMissingImports]

    head = head_of(bias=False, trained=True)
    assert proof_problem("liger", head) is None
    own = liger.liger_fused_linear_cross_entropy

    def averaged(*given: Any, **options: Any) -> torch.Tensor:
        losses = own(*given, **options)
        return losses.detach() + losses.mean() - losses.mean().detach()  # the values are right

    monkeypatch.setattr(liger, "liger_fused_linear_cross_entropy", averaged)
    assert "other losses or gradients" in (proof_problem("liger", head) or "")
    monkeypatch.setattr(liger, "liger_fused_linear_cross_entropy", lambda *_: None)
    assert "cannot be used here" in (proof_problem("liger", head) or "")


def trainer_of(folder: Path, kernel: LossKernel, **changes: Any) -> Trainer:
    rows = changes.pop("rows", 3)
    settings = ModelSettings(str(folder), device=DEVICE, **changes)
    train = TrainSettings(1e-3, rows, adam_epsilon=1e-3)
    model = load_model(settings, seed=1)
    return Trainer(model, train, seed=20, pad_id=0, loss_kernel=kernel)


def trained(trainer: Trainer, steps: int = 2) -> list[torch.Tensor]:
    for _ in range(steps):
        trainer.step(ROWS)
    return list(trainer.capture().tensors.values())


@needs_liger
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_training_is_that_with_chunks_however_rows_are_laid_out(
    tuning: str, tiny_model_folder: Path
) -> None:
    def weights(kernel: LossKernel, **changes: Any) -> list[torch.Tensor]:
        return trained(trainer_of(tiny_model_folder, kernel, tuning=tuning, **changes))

    expected = weights(CHUNKED)
    for changes in ({}, {"rows": 1}, {"padding_free": False, "rows": 2}):
        for one, other in zip(weights(LIGER, **changes), expected, strict=True):
            assert near(one, other, 1e-4)  # float32, through two updates


@needs_liger
def test_a_step_from_the_same_state_is_the_same_bits(tiny_model_folder: Path) -> None:
    trainer = trainer_of(tiny_model_folder, LIGER, tuning="full")
    weights, (moments, counters) = trainer.capture(), trainer.state()
    first = trained(trainer)
    trainer.load(weights)
    trainer.restore_state(moments, counters)
    assert all(map(torch.equal, first, trained(trainer)))


@needs_liger
def test_losses_of_rows_are_those_with_chunks(tiny_model_folder: Path) -> None:
    found = trainer_of(tiny_model_folder, LIGER).losses(ROWS)
    assert found == pytest.approx(trainer_of(tiny_model_folder, CHUNKED).losses(ROWS), rel=1e-5)


def fused(folder: Path, tuning: str, *, is_fused: bool) -> nn.Module:
    """The model as `load_model` makes it with ``liger_kernels``, which it does for a GPU alone."""
    settings = ModelSettings(str(folder), tuning="full")
    model = base_model(load_model(replace(settings, padding_free=False), seed=1))
    model.to(torch.device(DEVICE))  # pyright: ignore[reportArgumentType]
    if is_fused:
        expected = states_to_keep(model)
        fuse_layers(model, replace(settings, device=DEVICE))
        check_fused(model, expected, settings)
    if tuning == "lora":
        model = attach_adapter(model, replace(settings, tuning="lora"), seed=1)
    lay_out(model, settings)
    assert takes_packed_rows(model)
    return model


@needs_liger
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_fused_layers_give_the_same_losses_and_gradients(
    tuning: str, tiny_model_folder: Path
) -> None:
    found = []
    for is_fused in (False, True):
        model = fused(tiny_model_folder, tuning, is_fused=is_fused)
        losses = row_losses(model, collate_examples(ROWS, pad_id=0, device=DEVICE, packed=True))
        losses.sum().backward()
        gradients = [p.grad for p in trainable_parameters(model).values() if p.grad is not None]
        found.append(([losses.detach(), *gradients], flop_rates(model)))
    (expected, rates), (values, same_rates) = found
    for one, other in zip(values, expected, strict=True):
        assert near(one, other, 1e-4)  # float32, through two layers
    assert rates == same_rates


@needs_liger
def test_other_models_of_the_process_keep_their_layers(tiny_model_folder: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_model_folder)
    shape, settings = StepShape(2, 12, 3, accumulates=False), ModelSettings(str(tiny_model_folder))
    before = AutoModelForCausalLM.from_config(config), predicted(config, settings, shape)
    for _ in range(2):
        model = fused(tiny_model_folder, "full", is_fused=True)
    after = AutoModelForCausalLM.from_config(config)
    assert [type(m) for m in after.modules()] == [type(m) for m in before[0].modules()]
    assert predicted(config, settings, shape) == before[1]
    norm = next(m for m in model.modules() if type(m).__name__ == "Qwen2RMSNorm")
    assert norm._get_name() == "LigerRMSNorm"


@needs_liger
def test_layers_that_give_something_else_are_found_out(tiny_model_folder: Path) -> None:
    from msft_lite.errors import ModelError

    settings = ModelSettings(str(tiny_model_folder))
    model = fused(tiny_model_folder, "full", is_fused=True)
    other = deepcopy(states_to_keep(base_model(model)))
    other[0, 3, 5] += other.abs().max()
    with pytest.raises(ModelError, match="give other states; take the key out"):
        check_fused(model, other, settings)
