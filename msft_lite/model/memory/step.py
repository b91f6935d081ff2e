"""The bytes of one training step, counted while a model goes through it: with numbers or without.

`predicted` runs a step of a model without numbers (see `shadow`), `counted` one of a loaded model.
Both add up what torch's operations return, so they agree but for what a device does inside its
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from transformers import PretrainedConfig

from msft_lite.model.batch import Batch, collate
from msft_lite.model.loss import base_model, row_losses
from msft_lite.model.memory.live import LiveBytes, Part, rounded
from msft_lite.model.memory.shadow import shadow_model
from msft_lite.model.settings import ModelSettings
from msft_lite.model.varlen import keeps_rows_apart

Losses: TypeAlias = Callable[[torch.nn.Module, Batch], torch.Tensor]

# What the driver, torch's kernels and the matrix library hold on a GPU beside tensors, and what
# the allocator cannot use of its blocks. Both are assumed; neither was measured on a GPU yet.
CONTEXT_BYTES = 700_000_000
FRAGMENTATION = 0.04


@dataclass(frozen=True, slots=True)
class StepShape:
    """What decides the activations of a step.

    Attributes:
        rows: in one forward and backward pass.
        length: tokens of each row.
        trained_tokens: of each row, at its end, that carry loss.
        accumulates: whether the step has a second pass, which meets the gradients of the first.
    """

    rows: int
    length: int
    trained_tokens: int
    accumulates: bool


@dataclass(frozen=True, slots=True)
class OptimizerBytes:
    """What an optimizer keeps of every trained tensor.

    Attributes:
        moment_bytes: of both moments, a weight; None: they have the weights' dtype.
        least_elements: a smaller tensor has float32 moments, whatever ``moment_bytes`` is.
        in_backward: the update of a tensor is done in the backward pass and its gradient freed.
    """

    moment_bytes: float | None = None
    least_elements: int = 0
    in_backward: bool = False


@dataclass(frozen=True, slots=True)
class StepBytes:
    """Bytes of tensors at the moment of a step when most are alive.

    Attributes:
        weights: of the base, and what its layers hold beside them.
        adapter: of the adapter.
        gradients: that are complete at that moment.
        moments: of the optimizer.
        activations: kept for the backward pass, and the batch.
        loss: logits and what the loss makes of them.
        workspace: what the backward pass has made so far and not yet freed.
    """

    weights: int
    adapter: int
    gradients: int
    moments: int
    activations: int
    loss: int
    workspace: int

    @property
    def tensors(self) -> int:
        """Bytes of all tensors together."""
        return (
            self.weights + self.adapter + self.gradients + self.moments
            + self.activations + self.loss + self.workspace
        )  # fmt: skip

    @property
    def allowance(self) -> int:
        """Bytes on a GPU beside tensors, assumed: see `CONTEXT_BYTES` and `FRAGMENTATION`."""
        return CONTEXT_BYTES + round(FRAGMENTATION * self.tensors)

    @property
    def peak(self) -> int:
        """Bytes that a GPU needs free: tensors and allowance."""
        return self.tensors + self.allowance


def predicted(
    config: PretrainedConfig,
    settings: ModelSettings,
    shape: StepShape,
    *,
    optimizer: OptimizerBytes = OptimizerBytes(),
    losses: Losses = row_losses,
) -> StepBytes:
    """Returns what a step will hold, from shapes alone: nothing is loaded or allocated.

    Args:
        config: of the base model.
        settings: how it will be loaded and tuned.
        shape: of the step's rows.
        optimizer: what it keeps.
        losses: as the trainer computes a loss: each row's, of a model and a batch.

    Raises:
        ModelError: the settings cannot be used with this model.
    """
    with shadow_model(config, settings) as model:
        return counted(model, shape, optimizer=optimizer, losses=losses)


def counted(
    model: torch.nn.Module,
    shape: StepShape,
    *,
    optimizer: OptimizerBytes = OptimizerBytes(),
    losses: Losses = row_losses,
) -> StepBytes:
    """Returns what a step of ``model`` holds, which goes through it; its moments are only added.

    Gradients are gone afterwards and no weight is changed. Arguments are those of `predicted`.
    """
    live = LiveBytes()
    for part, tensor in held_tensors(model):
        live.watch([tensor], part)
    moments = moments_bytes(model, optimizer)
    model.train()
    with live, _parts_told(model, live, optimizer):
        if shape.accumulates and not optimizer.in_backward:
            _lay_out_gradients(model, live)
        summed = losses(model, _batch(model, shape)).sum()
        (summed / (shape.rows * shape.trained_tokens)).backward()
    model.zero_grad(set_to_none=True)
    return step_bytes(live, moments)


def step_bytes(live: LiveBytes, moments: int) -> StepBytes:
    """Returns the parts of the peak that ``live`` saw, with bytes of moments that it did not."""
    peak = live.peak
    return StepBytes(
        weights=peak["weights"],
        adapter=peak["adapter"],
        gradients=peak["gradients"],
        moments=peak["moments"] + moments,
        activations=peak["forward"],
        loss=peak["loss"],
        workspace=peak["backward"],
    )


def held_tensors(model: torch.nn.Module) -> Iterator[tuple[Part, torch.Tensor]]:
    """Yields every tensor that ``model`` consists of, scales of 4-bit weights included."""
    for name, module in model.named_modules():
        part: Part = "adapter" if ".lora_" in name else "weights"
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            yield part, tensor
        for tensor in _packed_tensors(module):
            yield "weights", tensor


def _packed_tensors(module: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """Returns the weights of a 4-bit layer and the scales they are unpacked with."""
    # In a shadow the weight is a plain attribute.
    weight = vars(module).get("weight", module._parameters.get("weight"))
    state: Any = None if weight is None else vars(weight).get("quant_state")
    if weight is None or state is None:
        return ()
    second = state.state2
    return (weight, state.absmax, state.code, state.offset, second.absmax, second.code)


def moments_bytes(model: torch.nn.Module, optimizer: OptimizerBytes) -> int:
    """Returns what the optimizer of ``model`` keeps: two moments of every trained tensor."""
    total = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            both = optimizer.moment_bytes
            if both is None:
                both = 2 * parameter.element_size()
            elif parameter.numel() < optimizer.least_elements:
                both = 8
            total += 2 * rounded(round(parameter.numel() * both / 2))
    return total


def _lay_out_gradients(model: torch.nn.Module, live: LiveBytes) -> None:
    """Leaves the model as an earlier pass would: the passes that follow one need the most."""
    with live.counted_as("gradients"):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)


def _batch(model: torch.nn.Module, shape: StepShape) -> Batch:
    prompt = (0,) * (shape.length - shape.trained_tokens)
    answer = (0,) * shape.trained_tokens
    device = next(model.parameters()).device
    packed = keeps_rows_apart(base_model(model))
    return collate([(prompt, answer)] * shape.rows, pad_id=0, device=device, packed=packed)


@contextmanager
def _parts_told(
    model: torch.nn.Module, live: LiveBytes, optimizer: OptimizerBytes
) -> Iterator[None]:
    """Tells ``live`` where the step is, and which tensors are gradients."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model

    def loss_begins(module: torch.nn.Module, given: Any, found: Any) -> None:
        live.part = "loss"
        found.last_hidden_state.register_hook(loss_ends)

    def loss_ends(gradient: torch.Tensor) -> None:
        live.part = "backward"

    def gradient_is_complete(parameter: torch.Tensor) -> None:
        if optimizer.in_backward:
            parameter.grad = None
        elif parameter.grad is not None:
            live.watch([parameter.grad], "gradients")

    handles = [base.base_model.register_forward_hook(loss_begins)]
    handles += [
        parameter.register_post_accumulate_grad_hook(gradient_is_complete)
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
