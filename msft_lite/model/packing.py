"""Whether rows can be laid one after another in a model, proved on the model itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from msft_lite.errors import ModelError
from msft_lite.model.batch import Row, collate
from msft_lite.model.loss import base_model, evaluating, hidden_states, vocabulary_size
from msft_lite.model.memory.exhausted import told_out_of_memory
from msft_lite.model.settings import ModelSettings
from msft_lite.model.varlen import keep_rows_apart, keeps_rows_apart

# Layers whose attention is dense, or dense within a window that they hand over.
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_NARROW = 2  # tokens of a window while it is tried
_LENGTHS = (5, 8, 1, 6)
# Of the largest number: rounding of other kernels through many layers. A window that is not
# honoured, or positions that do not restart, are off by as much as the numbers themselves.
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.05}
# What models raise that do not take the arguments, and kernels that do not take the shapes.
_ERRORS = (ModelError, TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError)


def lay_out(model: torch.nn.Module, settings: ModelSettings) -> None:
    """Lets ``model`` take packed rows if ``settings`` want it and it is proved to be safe.

    Raises:
        ModelError: they demand it, and it is not safe.
    """
    if settings.padding_free is False or settings.attn_implementation is not None:
        return
    problem = packing_problem(model)
    if problem is None:
        keep_rows_apart(base_model(model))
    elif settings.padding_free:
        raise ModelError(
            f"model {settings.name_or_path!r}: train.padding_free: rows cannot be laid one after "
            f"another: {problem}; take the key out, and rows are padded"
        )


def batch_line(model: torch.nn.Module, settings: ModelSettings) -> str:
    """Returns how batches are made, and why, for the user."""
    if takes_packed_rows(model):
        return "batches: rows one after another, no padding"
    if settings.attn_implementation is not None:
        return f"batches: padded, as model.attn_implementation is {settings.attn_implementation}"
    if settings.padding_free is False:
        return "batches: padded, as train.padding_free is false"
    return f"batches: padded, as rows cannot be laid one after another: {packing_problem(model)}"


def takes_packed_rows(model: torch.nn.Module) -> bool:
    """Returns whether `lay_out` has let ``model`` take packed rows."""
    return keeps_rows_apart(base_model(model))


def packing_problem(model: torch.nn.Module) -> str | None:
    """Returns why packed rows would be wrong in ``model``, or None if they are right.

    Four short rows are packed, with every sliding window narrowed, so that it matters:

    - each gives what it gives alone, within rounding;
    - with other tokens in the first row, the others give the very same bits;
    - the backward pass runs.

    The model is as before afterwards, and no random number is drawn. Rows of an architecture that
    mixes tokens outside of attention, or computes tokens in groups of changing size (a mixture of
    experts), fail here.

    Raises:
        OutOfMemory: even these rows are too much beside the model.
    """
    base = base_model(model)
    if (name := base.config._attn_implementation) != "sdpa":
        return f"its attention is {name!r}, not torch's scaled dot product"
    layers = set(base.config.get_text_config().to_dict().get("layer_types") or ())
    if unknown := sorted(layers - _KNOWN_LAYERS):
        return f"it has layers of the kind {unknown[0]!r}"
    where, device = "trying packed rows on the model", base.device.type
    try:
        with told_out_of_memory(where, device), evaluating(model), _narrow_windows(base):
            alone = [_states(model, [row], packed=False) for row in _rows(model, shift=0)]
            keep_rows_apart(base)
            return _difference(model, torch.cat(alone))
    except _ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"it does not take them ({reason})"
    finally:
        keep_rows_apart(base, on=False)


def _difference(model: torch.nn.Module, alone: torch.Tensor) -> str | None:
    rows = _rows(model, shift=0)
    with torch.enable_grad():
        packed = _states(model, rows, packed=True)
        if packed.requires_grad:
            trained = next(p for p in model.parameters() if p.requires_grad)
            torch.autograd.grad(packed.float().sum(), trained, allow_unused=True)
    packed = packed.detach()
    far = _TOLERANCES.get(alone.dtype, 0.05) * float(alone.abs().max())
    if not torch.allclose(packed, alone, rtol=0, atol=far):
        return "a row gives something else beside others than alone"
    first = _LENGTHS[0]
    again = _states(model, [_rows(model, shift=1)[0], *rows[1:]], packed=True)
    if not torch.equal(packed[first:], again[first:]):
        return "a row depends on the rows before it"
    return None


def _rows(model: torch.nn.Module, *, shift: int) -> list[Row]:
    """Returns rows of different lengths and tokens; with another ``shift``, of other tokens."""
    ids = [(7 * place + 3 + shift) % vocabulary_size(model) for place in range(sum(_LENGTHS) + 4)]
    return [((ids[n],), tuple(ids[n + 1 : n + length])) for n, length in enumerate(_LENGTHS)]


def _states(model: torch.nn.Module, rows: Sequence[Row], *, packed: bool) -> torch.Tensor:
    """Returns the last hidden state of every token, [T, D]."""
    device = base_model(model).device
    batch = collate(rows, pad_id=0, device=device, packed=packed)
    return hidden_states(model, batch).flatten(0, 1)


@contextmanager
def _narrow_windows(base: PreTrainedModel) -> Iterator[None]:
    """Makes every sliding window `_NARROW` tokens wide, for the mask and for the layers.

    The mask reads it from the configuration, and layers keep a copy. A model that hands another
    number to its attention than it masks by is found out this way.
    """
    text = base.config.get_text_config()
    owners: list[Any] = [
        owner for owner in (text, *base.modules()) if vars(owner).get("sliding_window")
    ]
    before = [owner.sliding_window for owner in owners]
    try:
        for owner in owners:
            owner.sliding_window = _NARROW
        yield
    finally:
        for owner, window in zip(owners, before, strict=True):
            owner.sliding_window = window
