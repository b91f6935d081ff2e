"""Which code computes the cross-entropy of training: ours, in chunks, or a fused kernel for a GPU.

Fused kernels come from libraries that may or may not be installed. A library's kernel is taken only
if a few tokens of the model's own head give, through it, the losses and gradients that ours gives:
that it is there and called so does not say that its version weighs every token by what comes from
above.

- ``liger`` (Hsu et al., *Liger Kernel*, arXiv 2410.10989): logits in chunks, as ours, with softmax
  and its derivative in one kernel. The weight's gradient is added up in float32, and nothing in any
  order. The logits are computed again in the backward pass. It waits for the GPU twice a pass, to
  count the tokens.
- ``cut_cross_entropy`` (Wijmans et al., arXiv 2411.09009): no logits in memory at all. Gradients
  are added up in the 16 bits of the hidden states and in the order in which blocks are done, so it
  is taken only where it is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import nn

from msft_lite.errors import ModelError
from msft_lite.model.cross_entropy import CHUNK_BYTES, is_plain, recomputes_logits, token_losses
from msft_lite.model.loss import TokenLosses, base_model, output_head
from msft_lite.model.settings import LossKernelChoice, LossKernelName

PACKAGES: dict[LossKernelName, tuple[str, str]] = {  # module, and what pip calls it
    "chunked": ("msft_lite", "msft-lite"),
    "liger": ("liger_kernel", "liger-kernel"),
    "cut_cross_entropy": ("cut_cross_entropy", "cut-cross-entropy"),
}
_PROOF_TOKENS, _PROOF_VOCABULARY = 12, 1024
# Of the largest number: float32 sums in another order; bfloat16 logits or gradients, 2**-8 apart.
_FLOAT32_TOLERANCE, _SHORT_TOLERANCE = 1e-4, 0.03
# What libraries raise that are broken, too old or too new, or that do not know the GPU.
_ERRORS = (ImportError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError)


@dataclass(frozen=True, slots=True)
class LossKernel:
    """How losses of tokens are computed in training.

    Attributes:
        name: ``chunked``, or the library's.
        why: why it is the chunked one, though a fused one was wanted; else empty.
    """

    name: LossKernelName = "chunked"
    why: str = ""

    @property
    def token_losses(self) -> TokenLosses:
        """What `cross_entropy.token_losses` is: losses, float32 [N], of head, hidden and targets.

        Of the fused ones the head is a plain linear layer on a GPU.
        """
        return _FUNCTIONS[self.name]

    @property
    def line(self) -> str:
        """What to tell the user."""
        if self.name == "chunked":
            return f"loss: logits in chunks{f', as {self.why}' if self.why else ''}"
        return f"loss: the fused kernel of {PACKAGES[self.name][1]}"

    def recomputes_logits(self, head: nn.Module) -> bool:
        """Returns whether the backward pass runs ``head`` a second time."""
        return self.name != "chunked" or recomputes_logits(head)


CHUNKED = LossKernel()


def resolve_loss_kernel(
    wanted: LossKernelChoice, model: nn.Module, *, deterministic: bool = False
) -> LossKernel:
    """Returns the kernel for ``model``: the one that is named, or with ``auto`` what is best here.

    That is Liger's on a GPU where it is installed and proved, else the chunks.

    Args:
        wanted: a name, or ``auto``.
        model: as `load_model` returns it, on its device.
        deterministic: whether the same bits are wanted every time.

    Raises:
        ModelError: a kernel is named that cannot be used.
    """
    on_cpu = base_model(model).device.type == "cpu"
    if wanted == "chunked" or (wanted == "auto" and on_cpu):
        return CHUNKED
    name = "liger" if wanted == "auto" else wanted
    problem = _problem(name, model, deterministic=deterministic)
    if problem is None:
        return LossKernel(name)
    if wanted == "auto":
        return LossKernel(why=problem)
    raise ModelError(
        f'train.loss_kernel = "{name}": {problem}; take "chunked", or "auto" for what is possible'
    )


def missing_package(name: LossKernelName) -> str | None:
    """Returns what is not installed for the kernel, as pip calls it, or None."""
    module, package = PACKAGES[name]
    return package if find_spec(module) is None else None


def proof_problem(name: LossKernelName, head: nn.Linear) -> str | None:
    """Returns why the kernel would be wrong for ``head``, or None if it is right.

    The losses of 12 tokens and their gradients, each token weighed differently, are computed for
    the first rows of the head by it and by the chunked code. No random number is drawn.
    """
    try:
        found = _losses_and_gradients(LossKernel(name).token_losses, head)
    except _ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{PACKAGES[name][1]} cannot be used here ({reason})"
    expected = _losses_and_gradients(CHUNKED.token_losses, head)
    is_long = head.weight.dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        far = (_FLOAT32_TOLERANCE if is_long else _SHORT_TOLERANCE) * float(other.abs().max())
        if not torch.allclose(one.float(), other.float(), rtol=0, atol=far):
            return f"{PACKAGES[name][1]} gives other losses or gradients than cross-entropy has"
    return None


def _problem(name: LossKernelName, model: nn.Module, *, deterministic: bool) -> str | None:
    if base_model(model).device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if (package := missing_package(name)) is not None:
        return f"{package} is not installed"
    head = output_head(model)
    if not isinstance(head, nn.Linear) or not is_plain(head):
        return "the output head is no plain linear layer"
    if name == "cut_cross_entropy":
        if deterministic:
            return "it adds gradients up in any order, and train.deterministic is true"
        if head.bias is not None or head.weight.dtype == torch.float32:
            return "it takes heads without a bias, of 16 bits"
    return proof_problem(name, head)


def _losses_and_gradients(losses_of: TokenLosses, head: nn.Linear) -> list[torch.Tensor]:
    """Returns losses and gradients of tokens that are weighed by 1/2 to 3/2."""
    weight, bias = head.weight.detach(), head.bias
    device, width = weight.device, weight.shape[1]
    rows = min(_PROOF_VOCABULARY, len(weight))
    # On no device: a linear layer draws random weights where it is made.
    part = nn.Linear(width, rows, bias=bias is not None, device="meta", dtype=weight.dtype)
    part.to_empty(device=device)
    places = torch.arange(_PROOF_TOKENS * width, dtype=torch.float32, device=device)
    with torch.no_grad():
        part.weight.copy_(weight[:rows])
        if bias is not None:
            part.bias.copy_(bias[:rows])
    part.requires_grad_(head.weight.requires_grad)
    hidden = places.sin().view(_PROOF_TOKENS, width).to(weight.dtype).requires_grad_(True)
    targets = torch.arange(_PROOF_TOKENS, device=device) * 7 % rows
    with torch.enable_grad():
        losses = losses_of(part, hidden, targets)
        weighed = losses * torch.linspace(0.5, 1.5, _PROOF_TOKENS, device=device)
        trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
        return [losses.detach(), *torch.autograd.grad(weighed.sum(), [hidden, *trained])]


def _liger(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from liger_kernel.transformers.functional import (  # pyright: ignore[reportMissingImports]
        liger_fused_linear_cross_entropy,
    )

    if not len(targets):
        return hidden.new_zeros(0, dtype=torch.float32)
    # By itself it keeps logits no larger than the hidden states: a few tokens at a time with many
    # token ids, each time reading the whole head.
    chunk = max(1, CHUNK_BYTES // (hidden.numel() * hidden.element_size()))
    return liger_fused_linear_cross_entropy(
        hidden,
        head.get_parameter("weight"),
        targets,
        bias=head.bias,
        reduction="none",
        accum_dtype=torch.float32,
        chunk_mem_const=chunk,
    )


def _cut_cross_entropy(
    head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    from cut_cross_entropy import (  # pyright: ignore[reportMissingImports]
        linear_cross_entropy,
    )

    if not len(targets):
        return hidden.new_zeros(0, dtype=torch.float32)
    # Without a filter: it would leave out gradients that are small.
    return linear_cross_entropy(
        hidden, head.get_parameter("weight"), targets, reduction="none", filter_eps=None
    ).float()


_FUNCTIONS: dict[LossKernelName, TokenLosses] = {
    "chunked": token_losses,
    "liger": _liger,
    "cut_cross_entropy": _cut_cross_entropy,
}
