"""Cross-entropy of answer tokens, with logits at those positions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from msft_lite.errors import ModelError
from msft_lite.model.batch import Batch, Row, as_given, collate, in_batches
from msft_lite.model.cross_entropy import token_losses
from msft_lite.model.varlen import keeps_rows_apart, row_arguments

TokenLosses: TypeAlias = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


def hidden_states(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Returns the last hidden state of every token, [B, T, D], of packed rows [1, T, D].

    Raises:
        ModelError: rows are packed, and the model does not keep them apart.
    """
    base = base_model(model)
    if batch.bounds is not None and not keeps_rows_apart(base):
        raise ModelError("the rows of a batch lie one after another in a model that wants padding")
    packed = {} if batch.bounds is None else row_arguments(batch.bounds)
    return _backbone(base)(input_ids=batch.ids, use_cache=False, **packed).last_hidden_state


def answer_states(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Returns what the head makes the logits of tokens that carry loss of, [N, D]."""
    return hidden_states(model, batch).flatten(0, 1).index_select(0, batch.positions)


def answer_losses(
    model: torch.nn.Module, batch: Batch, losses_of: TokenLosses = token_losses
) -> torch.Tensor:
    """Returns the cross-entropy of every token that carries loss, float32 [N], in nats.

    Args:
        model: a causal language model, with or without an adapter.
        batch: rows.
        losses_of: computes it from head, hidden states and targets; see `loss_kernel`.
    """
    return losses_of(output_head(model), answer_states(model, batch), batch.targets)


def row_losses(
    model: torch.nn.Module, batch: Batch, losses_of: TokenLosses = token_losses
) -> torch.Tensor:
    """Returns each row's losses added up, float32 [B]; arguments are those of `answer_losses`."""
    parts = answer_losses(model, batch, losses_of).split(batch.counts)
    return torch.stack([part.sum() for part in parts])


def log_probabilities(
    model: torch.nn.Module, sequences: Sequence[Row], *, batch_rows: int = 8
) -> list[tuple[float, ...]]:
    """Returns natural-log probabilities of every token of each continuation.

    The model is put in evaluation mode and back, and no gradient is recorded.

    Args:
        model: a causal language model, with or without an adapter.
        sequences: (prompt, continuation) pairs of token ids; a prompt has at least one token.
        batch_rows: sequences in one forward pass.

    Returns:
        One tuple a pair, as long as its continuation.
    """
    batches = in_batches(sequences, batch_rows)
    with evaluating(model):
        values = [
            row
            for places in batches
            for row in _log_probabilities(model, [sequences[place] for place in places])
        ]
    return as_given(values, batches)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Puts the model in evaluation mode, records no gradient, and puts its mode back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def check_head(model: torch.nn.Module) -> None:
    """Checks on four tokens that head(backbone(ids)) gives the model's own logits.

    Raises:
        ModelError: the model changes its logits after the head (a scale, a soft cap), or has no
            separate backbone and head.
    """
    base = base_model(model)
    training = base.training
    base.eval()
    with torch.no_grad():
        ids = torch.arange(4, device=base.device)[None]
        expected = base(input_ids=ids, use_cache=False).logits.float()
        hidden = _backbone(base)(input_ids=ids, use_cache=False).last_hidden_state
        found = output_head(base)(hidden).float()
    base.train(training)
    # A different kernel may be chosen; 1 % of the largest logit is above bfloat16's rounding.
    if not torch.allclose(found, expected, rtol=0, atol=0.01 * float(expected.abs().max())):
        raise ModelError(
            f"{type(base).__name__} changes its logits after the output head, and the loss on "
            "answers alone would be wrong for it; this architecture is not supported"
        )


def vocabulary_size(model: torch.nn.Module) -> int:
    """Returns how many token ids the model has a logit for."""
    return int(base_model(model).config.get_text_config().vocab_size)


def base_model(model: torch.nn.Module) -> PreTrainedModel:
    """Returns the causal language model inside; an adapter's layers stay in their places.

    Raises:
        ModelError: it is none of transformers.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise ModelError(f"{type(base).__name__} is not a model of transformers")
    return base


def output_head(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the module that makes logits of hidden states.

    Raises:
        ModelError: there is none.
    """
    base = base_model(model)
    head = base.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(base).__name__} has no output head")
    return head


def _log_probabilities(model: torch.nn.Module, sequences: Sequence[Row]) -> list[tuple[float, ...]]:
    wanted = [(prompt, tokens) for prompt, tokens in sequences if tokens]
    if not wanted:
        return [() for _ in sequences]
    base = base_model(model)
    batch = collate(wanted, pad_id=0, device=base.device, packed=keeps_rows_apart(base))
    values = iter((-answer_losses(model, batch)).tolist())
    return [tuple(next(values) for _ in tokens) for _, tokens in sequences]


def _backbone(base: PreTrainedModel) -> torch.nn.Module:
    backbone = base.base_model
    if backbone is base:
        raise ModelError(f"{type(base).__name__} has no backbone apart from its output head")
    return backbone
