"""Cross-entropy of answer tokens, with logits at those positions alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel

from msft_lite.errors import ModelError

TokenIds = Sequence[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right, and where their answers are predicted.

    A position sees only what is left of it, so padding on the right needs no attention mask: no
    answer sees it, and the loss never looks at it.

    Attributes:
        ids: int64 [B, T].
        positions: int64 [N], places in the flattened [B * T] whose next token is an answer token;
            rows in order.
        targets: int64 [N], those next tokens.
        counts: answer tokens of each row; they add up to N.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    counts: tuple[int, ...]


def collate(
    rows: Sequence[tuple[TokenIds, TokenIds]], *, pad_id: int, device: torch.device | str
) -> Batch:
    """Returns the batch of (prompt, answer) pairs, each with at least one token."""
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, positions, targets = [], [], []
    for number, (prompt, answer) in enumerate(rows):
        padding = length - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[pad_id] * padding])
        first = number * length + len(prompt) - 1
        positions.extend(range(first, first + len(answer)))
        targets.extend(answer)
    return Batch(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        targets=torch.tensor(targets, device=device),
        counts=tuple(len(answer) for _, answer in rows),
    )


def answer_losses(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Returns the cross-entropy of every answer token, float32 [N], in natural units."""
    base = _base(model)
    hidden = _backbone(base)(input_ids=batch.ids, use_cache=False).last_hidden_state  # [B, T, D]
    picked = hidden.flatten(0, 1).index_select(0, batch.positions)  # [N, D]
    logits = _head(base)(picked).float()  # [N, V]: never [B, T, V]
    return functional.cross_entropy(logits, batch.targets, reduction="none")


def row_losses(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Returns each row's answer losses added up, float32 [B]."""
    parts = answer_losses(model, batch).split(batch.counts)
    return torch.stack([part.sum() for part in parts])


def log_probabilities(
    model: torch.nn.Module,
    sequences: Sequence[tuple[TokenIds, TokenIds]],
    *,
    batch_rows: int = 8,
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
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return [
                values
                for start in range(0, len(sequences), batch_rows)
                for values in _log_probabilities(model, sequences[start : start + batch_rows])
            ]
    finally:
        model.train(training)


def check_head(model: torch.nn.Module) -> None:
    """Checks on four tokens that head(backbone(ids)) gives the model's own logits.

    Raises:
        ModelError: the model changes its logits after the head (a scale, a soft cap), or has no
            separate backbone and head.
    """
    base = _base(model)
    training = base.training
    base.eval()
    with torch.no_grad():
        ids = torch.arange(4, device=base.device)[None]
        expected = base(input_ids=ids, use_cache=False).logits.float()
        hidden = _backbone(base)(input_ids=ids, use_cache=False).last_hidden_state
        found = _head(base)(hidden).float()
    base.train(training)
    # A different kernel may be chosen; 1 % of the largest logit is above bfloat16's rounding.
    if not torch.allclose(found, expected, rtol=0, atol=0.01 * float(expected.abs().max())):
        raise ModelError(
            f"{type(base).__name__} changes its logits after the output head, and the loss on "
            "answers alone would be wrong for it; this architecture is not supported"
        )


def vocabulary_size(model: torch.nn.Module) -> int:
    """Returns how many token ids the model has a logit for."""
    return int(_base(model).config.get_text_config().vocab_size)


def _log_probabilities(
    model: torch.nn.Module, sequences: Sequence[tuple[TokenIds, TokenIds]]
) -> list[tuple[float, ...]]:
    wanted = [(prompt, tokens) for prompt, tokens in sequences if tokens]
    if not wanted:
        return [() for _ in sequences]
    batch = collate(wanted, pad_id=0, device=_base(model).device)
    values = iter((-answer_losses(model, batch)).tolist())
    return [tuple(next(values) for _ in tokens) for _, tokens in sequences]


def _base(model: torch.nn.Module) -> PreTrainedModel:
    """Returns the causal language model inside; an adapter's layers stay in their places."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise ModelError(f"{type(base).__name__} is not a model of transformers")
    return base


def _backbone(base: PreTrainedModel) -> torch.nn.Module:
    backbone = base.base_model
    if backbone is base:
        raise ModelError(f"{type(base).__name__} has no backbone apart from its output head")
    return backbone


def _head(base: PreTrainedModel) -> torch.nn.Module:
    head = base.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(base).__name__} has no output head")
    return head
