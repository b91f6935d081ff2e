"""Cross-entropy of every token from hidden states, with the logits of one chunk at a time.

The logits of all tokens would be the largest tensor of a step: at 152,000 token ids, 4,096 tokens
take 2.5 GB in float32, and their gradient as much again. Here no more than `CHUNK_BYTES` of them
exist at once, whatever the number of tokens.

What happens to the gradient depends on the output head:

- frozen, as under an adapter: the gradient of the hidden states is computed in the forward pass,
  while the logits of a chunk are there. It is kept per token and scaled in the backward pass by
  what comes from above, so any weights of the tokens are right, and nothing is computed twice.
- trained: logits are computed again in the backward pass. The gradient of the weights needs what
  comes from above before it is added up over tokens, so it cannot be made earlier.
- a head that is no plain linear layer (an adapter on it, quantised weights) is called as a module,
  chunk by chunk, and called again in the backward pass.

Logits are in the dtype of the head, as the head itself would give them; everything behind them is
float32, as in ``cross_entropy(head(hidden).float(), targets)``. For the fused kernels of others see
`loss_kernel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Float32 logits at once. At 152,000 token ids these are 220 tokens: enough that reading the head's
# weights again for every chunk costs no more than multiplying with them.
CHUNK_BYTES = 128 * 2**20
_FLOAT32_BYTES = 4


def token_losses(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy of every token in nats, float32 [N].

    Values and gradients are those of `torch.nn.functional.cross_entropy` on float32 logits, but
    for rounding.

    Args:
        head: turns hidden states into logits [N, V].
        hidden: [N, D].
        targets: int64 [N], each below V.
    """
    if isinstance(head, nn.Linear) and is_plain(head):
        return _Losses.apply(hidden, head.weight, head.bias, targets)
    if not len(targets):
        return hidden.new_zeros(0, dtype=torch.float32)
    parts = [
        # Non-reentrant: gradients reach an adapter in the head, and its dropout masks agree.
        checkpoint(_module_losses, head, hidden[rows], targets[rows], use_reentrant=False)
        for rows in _chunks(len(targets), _vocabulary(head, hidden))
    ]
    return torch.cat(parts)


def recomputes_logits(head: nn.Module) -> bool:
    """Returns whether the backward pass of `token_losses` runs ``head`` a second time."""
    return not is_plain(head) or any(p.requires_grad for p in head.parameters())


def is_plain(head: nn.Module) -> bool:
    """Returns whether ``head`` is a linear layer and nothing more."""
    return type(head) is nn.Linear  # not a subclass, which may compute something else


def _vocabulary(head: nn.Module, hidden: torch.Tensor) -> int:
    """Returns V, from one token where the head does not tell."""
    with torch.no_grad():
        return head.out_features if isinstance(head, nn.Linear) else head(hidden[:1]).shape[-1]


def _module_losses(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(head(hidden).float(), targets, reduction="none")


def _chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """Yields the stretches of tokens whose logits fit in `CHUNK_BYTES`; one token always does."""
    step = max(1, CHUNK_BYTES // (_FLOAT32_BYTES * vocabulary))
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))


class _Losses(torch.autograd.Function):
    """Losses of a plain linear head; see the module's text."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """Returns the losses, float32 [N], and keeps what the backward pass needs."""
        of_hidden, of_weight, of_bias, _ = ctx.needs_input_grad
        ctx.recompute = of_weight or of_bias
        early = of_hidden and not ctx.recompute
        losses = hidden.new_empty(len(targets), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if early else None
        for rows in _chunks(len(targets), len(weight)):
            logits = functional.linear(hidden[rows], weight, bias).float()
            losses[rows] = _consume(logits, targets[rows], slopes=early)
            if gradient is not None:
                torch.mm(logits.to(hidden.dtype), weight, out=gradient[rows])
        if ctx.recompute:
            ctx.save_for_backward(hidden, weight, bias, targets)
        elif gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, upstream: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None]:
        """Returns the gradients of hidden states, weight and bias, as far as they are wanted."""
        if ctx.recompute:
            return (*_gradients(ctx, upstream), None)
        (gradient,) = ctx.saved_tensors
        return (upstream[:, None] * gradient).to(gradient.dtype), None, None, None


def _consume(logits: torch.Tensor, targets: torch.Tensor, *, slopes: bool) -> torch.Tensor:
    """Returns the losses of float32 ``logits`` [n, V], which are overwritten.

    With ``slopes`` they become the derivative of each loss: softmax, less one at the target. The
    largest logit is taken off first, so that no exponential overflows.
    """
    logits -= logits.amax(1, keepdim=True)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    total = logits.exp_().sum(1)
    if slopes:
        logits /= total[:, None]
        logits.scatter_add_(1, targets[:, None], logits.new_full((len(targets), 1), -1.0))
    return total.log() - chosen


def _gradients(
    ctx: Any, upstream: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Computes the logits again and returns the gradients of hidden states, weight and bias.

    The weight's gradient is a sum over chunks, made in float32: in bfloat16 a chunk's share would
    vanish beside the sum of many (8 bits of precision). A chunk's own product is rounded to the
    weight's dtype, as it would be without chunks, and so is the sum, once. One chunk needs no sum.
    """
    hidden, weight, bias, targets = ctx.saved_tensors
    of_hidden, of_weight, of_bias, _ = ctx.needs_input_grad
    chunks = list(_chunks(len(targets), len(weight)))
    to_hidden = torch.empty_like(hidden) if of_hidden else None
    sum_dtype = weight.dtype if len(chunks) == 1 else torch.float32
    to_weight = torch.zeros_like(weight, dtype=sum_dtype) if of_weight else None
    to_bias = torch.zeros_like(bias, dtype=torch.float32) if of_bias else None
    for rows in chunks:
        slopes = functional.linear(hidden[rows], weight, bias).float()
        _consume(slopes, targets[rows], slopes=True)
        slopes *= upstream[rows, None]
        if to_bias is not None:
            to_bias += slopes.sum(0)
        slopes = slopes.to(weight.dtype)
        if to_hidden is not None:
            torch.mm(slopes, weight, out=to_hidden[rows])
        if to_weight is not None:
            _add(to_weight, slopes, hidden[rows])
    return (
        to_hidden,
        None if to_weight is None else to_weight.to(weight.dtype),
        None if to_bias is None else to_bias.to(bias.dtype),
    )


def _add(total: torch.Tensor, slopes: torch.Tensor, hidden: torch.Tensor) -> None:
    """Adds the product of ``slopes`` [n, V], transposed, and ``hidden`` [n, D] to ``total``."""
    if slopes.dtype == total.dtype:
        torch.addmm(total, slopes.T, hidden, out=total)
    else:
        total += slopes.T @ hidden
