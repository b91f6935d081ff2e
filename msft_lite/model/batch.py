"""Rows of token ids as the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TypeVar

import torch

from msft_lite.data.task import Example, Span

TokenIds = Sequence[int]
Row = tuple[TokenIds, TokenIds]  # a prompt and its answer
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class RowBounds:
    """Where the rows lie that were laid one after another.

    Attributes:
        position_ids: int64 [1, T], from 0 in every row.
        ends: int32 [B + 1], where each row begins, and at last T.
        lengths: tokens of each row, on the host: reading ``ends`` would wait for a GPU.
    """

    position_ids: torch.Tensor
    ends: torch.Tensor
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows, and where their answers are predicted.

    Padded, they lie under each other, filled up on the right. A position sees only what is left of
    it, so this needs no attention mask: no answer sees padding, and the loss never looks at it.
    Packed, they lie in one row, one after another, and attention is told where each begins.

    Attributes:
        ids: int64 [B, T], packed [1, T].
        positions: int64 [N], places in the flattened ids whose next token carries loss; rows in
            order.
        targets: int64 [N], those next tokens.
        counts: tokens of each row that carry loss; they add up to N.
        bounds: of packed rows; None where they are padded.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    counts: tuple[int, ...]
    bounds: RowBounds | None = None


def collate(
    rows: Sequence[Row],
    *,
    pad_id: int,
    device: torch.device | str,
    silent: Sequence[Sequence[Span]] = (),
    packed: bool = False,
) -> Batch:
    """Returns the batch of (prompt, answer) pairs, each with at least one token.

    Args:
        rows: token ids.
        pad_id: fills rows up on the right; of no effect on packed ones.
        device: of the batch's tensors.
        silent: for each row the stretches of its answer without loss; all of every answer carries
            loss where nothing is given.
        packed: lay the rows one after another; the model must keep them apart, see `packing`.
    """
    lengths = tuple(len(prompt) + len(answer) for prompt, answer in rows)
    width = max(lengths)
    starts = [0, *accumulate(lengths)] if packed else [width * n for n in range(len(rows))]
    ids, positions, targets, counts = [], [], [], []
    for number, (prompt, answer) in enumerate(rows):
        ids += [*prompt, *answer]
        if not packed:
            ids += [pad_id] * (width - lengths[number])
        first = starts[number] + len(prompt) - 1
        spoken = _spoken(len(answer), silent[number] if silent else ())
        positions += [first + place for place in spoken]
        targets += [answer[place] for place in spoken]
        counts.append(len(spoken))
    if not packed:
        found = _on_device([ids, positions, targets], device)
        return Batch(found[0].view(len(rows), width), found[1], found[2], tuple(counts))
    places = list(chain.from_iterable(range(length) for length in lengths))
    found = _on_device([ids, positions, targets, places, starts], device)
    bounds = RowBounds(found[3][None], found[4].to(torch.int32), lengths)
    return Batch(found[0][None], found[1], found[2], tuple(counts), bounds)


def collate_examples(
    examples: Sequence[Example], *, pad_id: int, device: torch.device | str, packed: bool = False
) -> Batch:
    """Returns the batch of ``examples``, with loss on what is not silent."""
    return collate(
        [(example.prompt, example.answer) for example in examples],
        pad_id=pad_id,
        device=device,
        silent=[example.silent for example in examples],
        packed=packed,
    )


def in_batches(rows: Sequence[Row], batch_rows: int) -> list[list[int]]:
    """Returns the places of ``rows`` in batches of at most ``batch_rows``, longest rows first.

    Rows of a batch are then alike, so that padding is short, and the largest batch comes first, so
    that too little memory shows at once. Equal lengths stay in the order given.
    """
    order = sorted(range(len(rows)), key=lambda place: -len(rows[place][0]) - len(rows[place][1]))
    return [order[start : start + batch_rows] for start in range(0, len(order), batch_rows)]


def as_given(values: Sequence[Value], batches: Sequence[Sequence[int]]) -> list[Value]:
    """Returns ``values``, which are in the order of ``batches``, in the order of the rows."""
    by_place = dict(zip(chain.from_iterable(batches), values, strict=True))
    return [by_place[place] for place in range(len(by_place))]


def _spoken(length: int, silent: Sequence[Span]) -> list[int]:
    """Returns the places of an answer of ``length`` tokens that are in no silent stretch."""
    starts = [0, *(stop for _, stop in silent)]
    stops = [*(start for start, _ in silent), length]
    return [
        place for start, stop in zip(starts, stops, strict=True) for place in range(start, stop)
    ]


def _on_device(
    parts: Sequence[Sequence[int]], device: torch.device | str
) -> tuple[torch.Tensor, ...]:
    """Returns ``parts`` as int64 tensors, made at once and copied at once.

    From pinned memory the copy to a GPU waits for nothing: the next batch is made while the GPU
    still computes the one before.
    """
    whole = torch.tensor(list(chain.from_iterable(parts)), dtype=torch.int64)
    if torch.device(device).type == "cuda":
        whole = whole.pin_memory().to(device, non_blocking=True)
    return whole.split([len(part) for part in parts])
