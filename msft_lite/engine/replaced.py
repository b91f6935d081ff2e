"""Other weights in a model for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from msft_lite.model.load import trainable_parameters
from msft_lite.model.weights import Weights


def difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> str:
    """Returns how a snapshot's tensors differ from the model's in name or shape, or nothing."""
    names = sorted(ours.keys() ^ theirs.keys())
    if names:
        owner = "only the model has" if names[0] in ours else "only the snapshot has"
        return f"{owner} {names[0]} (one of {len(names)} such tensors)"
    for name, tensor in ours.items():
        if tensor.shape != theirs[name].shape:
            return f"{name} is {tuple(tensor.shape)} there and {tuple(theirs[name].shape)} here"
    return ""


@contextmanager
def replaced(model: nn.Module, weights: Weights | None) -> Iterator[None]:
    """The model with ``weights`` in it, if any; only tensors that differ are copied, and put back.

    To be used under `torch.no_grad`.
    """
    parameters = {} if weights is None else trainable_parameters(model)
    originals: dict[str, torch.Tensor] = {}
    try:
        for name, tensor in parameters.items():
            replacement = weights.tensors[name].to(tensor)  # pyright: ignore[reportOptionalMemberAccess]
            if not torch.equal(tensor, replacement):
                originals[name] = tensor.clone()
                tensor.copy_(replacement)
        yield
    finally:
        for name, tensor in originals.items():
            parameters[name].copy_(tensor)
