"""Which loss kernel is taken, and what is said of one that cannot be.

What the kernels compute is held in tests/property/test_fused_kernels.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from msft_lite.errors import ModelError
from msft_lite.model.cross_entropy import token_losses
from msft_lite.model.flops import flop_rates
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss_kernel import (
    CHUNKED,
    PACKAGES,
    LossKernel,
    missing_package,
    proof_problem,
    resolve_loss_kernel,
)
from msft_lite.model.settings import LossKernelName

FUSED: tuple[LossKernelName, ...] = ("liger", "cut_cross_entropy")


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> nn.Module:
    return load_model(ModelSettings(str(tiny_model_folder)), seed=1)


def test_on_the_cpu_the_loss_is_ours(model: nn.Module) -> None:
    for wanted in ("auto", "chunked"):
        kernel = resolve_loss_kernel(wanted, model)
        assert kernel is CHUNKED
        assert kernel.token_losses is token_losses
        assert kernel.line == "loss: logits in chunks"


@pytest.mark.parametrize("name", FUSED)
def test_a_named_kernel_needs_a_gpu(name: LossKernelName, model: nn.Module) -> None:
    with pytest.raises(ModelError, match=rf'loss_kernel = "{name}": it needs an NVIDIA GPU; take'):
        resolve_loss_kernel(name, model)


@pytest.mark.parametrize("name", FUSED)
def test_what_is_not_installed_is_named_as_pip_does(
    name: LossKernelName, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missing_package("chunked") is None
    monkeypatch.setitem(PACKAGES, name, ("no_such_module", "no-such-package"))
    assert missing_package(name) == "no-such-package"
    monkeypatch.setitem(PACKAGES, name, ("json", "json"))
    assert missing_package(name) is None


def test_the_lines_say_why_and_which() -> None:
    assert LossKernel(why="liger-kernel is not installed").line == (
        "loss: logits in chunks, as liger-kernel is not installed"
    )
    assert LossKernel("liger").line == "loss: the fused kernel of liger-kernel"


def test_the_proof_holds_of_our_own_and_fails_of_a_kernel_that_raises() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = nn.Linear(8, 30)
    state = torch.get_rng_state()
    assert proof_problem("chunked", head) is None
    assert torch.equal(state, torch.get_rng_state())
    assert head.weight.grad is None
    # Whether the library is missing or there is no GPU for it.
    assert "liger-kernel cannot be used here (" in (proof_problem("liger", head) or "")


def test_a_kernel_that_recomputes_logits_is_counted_so(model: nn.Module) -> None:
    plain, fused = flop_rates(model), flop_rates(model, loss_kernel=LossKernel("liger"))
    assert plain is not None
    assert fused is not None
    assert plain.head_recompute == 0  # under an adapter
    assert fused.head_recompute == fused.head_forward == plain.head_forward
