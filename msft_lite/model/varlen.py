"""Attention over rows that lie one after another in one sequence, without a mask.

Registered with transformers under `NAME`. A forward pass that is told where rows begin (see
`hidden_states` in `loss`) attends within each row alone: on a GPU in bfloat16 with torch's kernel
for sequences of different lengths, else with one call a row. Nothing of the size of the whole
sequence squared is made. Any other forward pass, such as the torch engine's, is `sdpa`'s.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from msft_lite.errors import ModelError
from msft_lite.model.batch import RowBounds

NAME = "msft_lite_rows"
# Fewer heads of keys than of queries must be announced in the versions of torch that check it.
_KERNEL: Callable[..., Any] = (
    partial(varlen_attn, enable_gqa=True)
    if "enable_gqa" in inspect.signature(varlen_attn).parameters
    else varlen_attn
)


def row_arguments(bounds: RowBounds) -> dict[str, Any]:
    """Returns the keyword arguments by which a forward pass keeps rows apart.

    Row boundaries are named as transformers names them for flash attention. ``row_lengths`` says
    the same on the host. The mask is no mask: one of four dimensions is handed on as it is, so that
    transformers makes none. It hides everything, so that a model that looks at it shows.
    """
    longest = max(bounds.lengths)
    return {
        "position_ids": bounds.position_ids,
        "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=bounds.ends.device),
        "cu_seq_lens_q": bounds.ends,
        "cu_seq_lens_k": bounds.ends,
        "max_length_q": longest,
        "max_length_k": longest,
        "row_lengths": bounds.lengths,
    }


def keep_rows_apart(base: PreTrainedModel, *, on: bool = True) -> None:
    """Makes packed rows possible in ``base``, or not; what else it computes stays the same.

    The configuration is asked in every forward pass. Whether an architecture heeds it is another
    matter, see `packing`.
    """
    base.config._attn_implementation = NAME if on else "sdpa"


def keeps_rows_apart(base: PreTrainedModel) -> bool:
    """Returns whether ``base`` takes packed rows."""
    return base.config._attn_implementation == NAME


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Returns the weighted values [1, T, H, D] of packed rows, or what ``sdpa`` returns.

    Args:
        module: the layer's attention.
        query: [1, H, T, D].
        key: [1, K, T, D], every head for H / K heads of queries.
        value: [1, K, T, D].
        attention_mask: of rows that are not packed.
        options: as `row_arguments` and the model give them. Of the model's, packed rows heed
            ``scaling`` of the scores, ``dropout`` of the weights, and ``sliding_window``, the
            tokens that a position sees, itself included.

    Raises:
        ModelError: rows are packed and the model did not say where they begin.
    """
    lengths: tuple[int, ...] | None = options.get("row_lengths")
    if lengths is None:
        if attention_mask is not None and attention_mask.numel() == 1 < query.shape[2]:
            raise ModelError("its layers are not told where rows begin")
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # The kernel knows no dropout and no float32.
    if query.is_cuda and query.dtype == torch.bfloat16 and not options.get("dropout"):
        return _all_rows(query, key, value, options)[None], None
    queries, keys, values = (tensor.split(lengths, dim=2) for tensor in (query, key, value))
    rows = [_row(q, k, v, options) for q, k, v in zip(queries, keys, values, strict=True)]
    return torch.cat(rows, dim=1), None


def _all_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Returns the weighted values of all rows, [T, H, D], from one call on a GPU."""
    window = options.get("sliding_window")
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return _KERNEL(
        query,
        key,
        value,
        options["cu_seq_lens_q"],
        options["cu_seq_lens_k"],
        options["max_length_q"],
        options["max_length_k"],
        scale=options.get("scaling"),
        window_size=(-1 if window is None else window - 1, 0),
    )


def _row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Returns one row's weighted values [1, t, H, D]."""
    length, window = query.shape[2], options.get("sliding_window")
    seen = None
    if window is not None and window < length:
        seen = torch.ones(length, length, dtype=torch.bool, device=query.device)
        seen = seen.tril().triu(1 - window)
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=seen,
        dropout_p=options.get("dropout", 0.0),
        is_causal=seen is None,
        scale=options.get("scaling"),
        enable_gqa=query.shape[1] != key.shape[1],
    ).transpose(1, 2)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
