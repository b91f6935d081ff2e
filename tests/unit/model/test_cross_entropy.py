"""The chunked cross-entropy against torch's own on all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from msft_lite.model import cross_entropy
from msft_lite.model.cross_entropy import recomputes_logits, token_losses

D, V = 16, 40
CHUNK_TOKENS = 8  # of 40 float32 logits each, see `small_chunks`
# Sums in another order: some units in the last place (float32: 1.2e-7, bfloat16: 0.0078), relative
# to the largest number of the tensor.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
every_length = pytest.mark.parametrize("tokens", [1, CHUNK_TOKENS - 1, CHUNK_TOKENS, 21])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", CHUNK_TOKENS * 4 * V + 3)


class Case:
    """A head, hidden states and targets; gradients come back by name."""

    def __init__(self, tokens: int, dtype: torch.dtype, *, bias: bool, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(tokens)
        self.head = nn.Linear(D, V, bias=bias)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.head.to(dtype)
        hidden = scale * torch.randn(tokens, D, generator=generator)
        self.hidden = hidden.to(dtype).requires_grad_()
        self.targets = torch.randint(V, (tokens,), generator=generator)
        # Every token counts differently, so that a gradient kept per token must be scaled right.
        self.weights = torch.rand(tokens, generator=generator)

    def gradients(self, losses: torch.Tensor) -> list[torch.Tensor]:
        wanted = [self.hidden, *(p for p in self.head.parameters() if p.requires_grad)]
        return list(torch.autograd.grad((losses * self.weights).sum(), wanted))

    def check(self, head: nn.Module | None = None) -> None:
        """Asserts that losses and gradients are those of torch."""
        expected = functional.cross_entropy(
            self.head(self.hidden).float(), self.targets, reduction="none"
        )
        losses = token_losses(head or self.head, self.hidden, self.targets)
        assert losses.dtype == torch.float32
        # The logits are the same numbers, so the losses differ by float32's rounding in any dtype.
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
        for found, wanted in zip(self.gradients(losses), self.gradients(expected), strict=True):
            assert found.dtype == wanted.dtype
            atol = TOLERANCE[wanted.dtype] * float(wanted.abs().max())
            torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


@every_length
@every_dtype
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_losses_and_gradients_are_those_of_torch(
    tokens: int, dtype: torch.dtype, bias: bool, trained: bool
) -> None:
    case = Case(tokens, dtype, bias=bias)
    case.head.requires_grad_(trained)
    case.check()
    assert recomputes_logits(case.head) == trained


@pytest.mark.parametrize("trained", [False, True])
def test_large_logits_do_not_overflow(trained: bool) -> None:
    case = Case(21, torch.float32, bias=False, scale=1e4)  # exp(89) overflows float32
    case.head.requires_grad_(trained)
    assert float(case.head(case.hidden).detach().abs().max()) > 1e4
    losses = token_losses(case.head, case.hidden, case.targets)
    assert losses.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in case.gradients(losses))
    case.check()


def test_a_bias_alone_can_be_trained() -> None:
    case = Case(21, torch.float32, bias=True)
    case.head.weight.requires_grad_(False)
    case.check()


@pytest.mark.parametrize("trained", [False, True])
def test_another_head_is_called_as_a_module(trained: bool) -> None:
    case = Case(21, torch.float32, bias=True)
    case.head.requires_grad_(trained)
    case.check(head=nn.Sequential(case.head))
    assert recomputes_logits(nn.Sequential(case.head))


def test_a_tied_weight_gets_both_gradients() -> None:
    case = Case(21, torch.float32, bias=False)
    weight, ids = case.head.weight, case.targets.flip(0)
    losses = token_losses(case.head, functional.embedding(ids, weight), case.targets)
    (found,) = torch.autograd.grad(losses.sum(), weight)
    logits = case.head(functional.embedding(ids, weight))
    loss = functional.cross_entropy(logits, case.targets, reduction="sum")
    (wanted,) = torch.autograd.grad(loss, weight)
    atol = TOLERANCE[torch.float32] * float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def test_a_bfloat16_weight_gradient_is_added_up_in_float32() -> None:
    """512 chunks of 1/256 each are 2: in bfloat16 their sum would stop at 1.

    A chunk holds 160 tokens with two logits each. Both are 0, so a loss's derivative by the first,
    its target, is -1/2.
    """
    head = nn.Linear(1, 2, bias=False).bfloat16()
    nn.init.zeros_(head.weight)
    hidden = torch.ones(512 * 160, 1, dtype=torch.bfloat16)
    losses = token_losses(head, hidden, torch.zeros(len(hidden), dtype=torch.int64))
    (gradient,) = torch.autograd.grad(losses.sum() * 2 / 256 / 160, head.weight)
    assert gradient.flatten().tolist() == pytest.approx([-2.0, 2.0], rel=2**-7)


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    case = Case(21, torch.float32, bias=False)
    with torch.no_grad():
        losses = token_losses(case.head, case.hidden, case.targets)
    assert losses.grad_fn is None
    assert not token_losses(
        case.head.requires_grad_(False), case.hidden.detach(), case.targets
    ).requires_grad
    assert token_losses(case.head, case.hidden[:0], case.targets[:0]).shape == (0,)
    assert token_losses(nn.Sequential(case.head), case.hidden[:0], case.targets[:0]).shape == (0,)


class Largest(TorchDispatchMode):
    """Notes the most numbers of a tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_no_more_logits_than_a_chunk_exist(trained: bool, plain: bool) -> None:
    case = Case(21 * CHUNK_TOKENS, torch.float32, bias=False)
    case.head.requires_grad_(trained)
    head = case.head if plain else nn.Sequential(case.head)
    with Largest() as seen:
        case.gradients(token_losses(head, case.hidden, case.targets))
    assert seen.numbers == max(CHUNK_TOKENS * V, case.hidden.numel())
    with Largest() as seen:
        case.gradients(functional.cross_entropy(case.head(case.hidden), case.targets))
    assert seen.numbers == len(case.targets) * V
