"""Cross-entropy of answer tokens, with logits at those positions alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import PreTrainedModel

from msft_lite.data.task import Example, Span
from msft_lite.errors import ModelError

TokenIds = Sequence[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right, and where their answers are predicted.

    A position sees only what is left of it, so padding on the right needs no attention mask: no
    answer sees it, and the loss never looks at it.

    Attributes:
        ids: int64 [B, T].
        positions: int64 [N], places in the flattened [B * T] whose next token carries loss; rows
            in order.
        targets: int64 [N], those next tokens.
        counts: tokens of each row that carry loss; they add up to N.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    counts: tuple[int, ...]


def collate(
    rows: Sequence[tuple[TokenIds, TokenIds]],
    *,
    pad_id: int,
    device: torch.device | str,
    silent: Sequence[Sequence[Span]] = (),
) -> Batch:
    """Returns the batch of (prompt, answer) pairs, each with at least one token.

    Args:
        rows: token ids.
        pad_id: fills rows up on the right.
        device: of the batch's tensors.
        silent: for each row the stretches of its answer without loss; all of every answer carries
            loss where nothing is given.
    """
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, positions, targets, counts = [], [], [], []
    for number, (prompt, answer) in enumerate(rows):
        padding = length - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[pad_id] * padding])
        first = number * length + len(prompt) - 1
        spoken = _spoken(len(answer), silent[number] if silent else ())
        positions.extend(first + place for place in spoken)
        targets.extend(answer[place] for place in spoken)
        counts.append(len(spoken))
    return Batch(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        targets=torch.tensor(targets, device=device),
        counts=tuple(counts),
    )


def collate_examples(
    examples: Sequence[Example], *, pad_id: int, device: torch.device | str
) -> Batch:
    """Returns the batch of ``examples``, with loss on what is not silent."""
    return collate(
        [(example.prompt, example.answer) for example in examples],
        pad_id=pad_id,
        device=device,
        silent=[example.silent for example in examples],
    )


def answer_losses(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Returns the cross-entropy of every token that carries loss, float32 [N], in nats."""
    base = _base(model)
    hidden = _backbone(base)(input_ids=batch.ids, use_cache=False).last_hidden_state  # [B, T, D]
    picked = hidden.flatten(0, 1).index_select(0, batch.positions)  # [N, D]
    logits = _head(base)(picked).float()  # [N, V]: never [B, T, V]
    return functional.cross_entropy(logits, batch.targets, reduction="none")


def row_losses(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Returns each row's losses added up, float32 [B]."""
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
    with evaluating(model):
        return [
            values
            for start in range(0, len(sequences), batch_rows)
            for values in _log_probabilities(model, sequences[start : start + batch_rows])
        ]


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


def _spoken(length: int, silent: Sequence[Span]) -> list[int]:
    """Returns the places of an answer of ``length`` tokens that are in no silent stretch."""
    starts = [0, *(stop for _, stop in silent)]
    stops = [*(start for start, _ in silent), length]
    return [
        place for start, stop in zip(starts, stops, strict=True) for place in range(start, stop)
    ]


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
