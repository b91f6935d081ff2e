"""Layers whose activations are computed again in the backward pass: all of them, or every k-th."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from msft_lite.errors import ModelError
from msft_lite.model.offload import Lane, Offload
from msft_lite.model.settings import ModelSettings


def checkpoint_layers(base: PreTrainedModel, settings: ModelSettings, lane: Lane | None) -> None:
    """Has the layers of ``base`` checkpointed that ``settings`` name: the first and every k-th on.

    Counted from the first, because the last one that is checkpointed is computed again while most
    is alive: the earlier it is, the more of the layers behind it has been freed by then.

    Args:
        base: of the model, an adapter attached already.
        settings: ``gradient_checkpointing`` is k, or true for 1; nothing is done if it is false.
        lane: by which the inputs of checkpointed layers leave the device; None keeps them there.

    Raises:
        ModelError: the model has no such layers, or fewer than k; or nothing leaves by ``lane``.
    """
    every = int(settings.gradient_checkpointing)
    if settings.gradient_checkpointing is False:
        if lane is not None:
            raise _refusal(settings, "activation_offload moves what it saves; set it to true")
        return
    try:
        # Non-reentrant: gradients reach an adapter although the embedding below it is frozen, and
        # the generator's state is put back for the second forward pass, so dropout masks agree.
        base.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise _refusal(settings, str(error)) from error
    # Made for the reentrant way: a gradient of the embedding's output, which under an adapter
    # nobody needs, and for whose sake the output stays on the device.
    base.disable_input_require_grads()
    layers = _layers(base)
    if (every != 1 or lane is not None) and not layers:
        raise _refusal(
            settings,
            "its layers cannot be told apart; take true or false, and no activation_offload",
        )
    if layers and not 1 <= every <= len(layers):
        raise _refusal(
            settings,
            f"it has {len(layers)} layers; take true, or a number from 1 to {len(layers)}",
        )
    for place, layer in enumerate(layers):
        layer.gradient_checkpointing = place % every == 0
    if lane is not None:
        _let_offload(layers, Offload(lane))


def recomputed_layers(base: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """Returns the layers that the backward pass computes again."""
    return [layer for layer in _layers(base) if layer.gradient_checkpointing]


def _layers(base: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    return [layer for layer in base.modules() if isinstance(layer, GradientCheckpointingLayer)]


def _let_offload(layers: Iterable[Any], offload: Offload) -> None:
    def run(*inputs: Any) -> Any:  # shared by copies of the model; a bound method is copied
        return offload.checkpoint(*inputs)

    for layer in layers:
        layer._gradient_checkpointing_func = run


def _refusal(settings: ModelSettings, reason: str) -> ModelError:
    value = str(settings.gradient_checkpointing).lower()
    return ModelError(
        f"model {settings.name_or_path!r}: gradient_checkpointing = {value}: {reason}"
    )
