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


@dataclass(frozen=True, slots=True)
class HostBatch:
    """A `Batch` before it is on its device: all of its numbers in one tensor of the host.

    Attributes:
        numbers: int64, one after another: ids, positions and targets, of packed rows also
            position_ids and ends. In pinned memory if the device is a GPU: the copy there then
            waits for nothing, and nothing waits for the copy.
        sizes: how many of each.
        width: of padded rows; of packed ones all tokens.
        counts: as of `Batch`.
        lengths: of packed rows; None where they are padded.
        device: that it is meant for.
    """

    numbers: torch.Tensor
    sizes: tuple[int, ...]
    width: int
    counts: tuple[int, ...]
    lengths: tuple[int, ...] | None
    device: torch.device

    def on_device(self) -> Batch:
        """Returns the batch, copied to its device at once."""
        numbers = self.numbers.to(self.device, non_blocking=True)
        ids, positions, targets, *bounds = numbers.split(self.sizes)
        ids = ids.view(-1, self.width)
        if self.lengths is None:
            return Batch(ids, positions, targets, self.counts)
        places, starts = bounds
        ends = RowBounds(places[None], starts.to(torch.int32), self.lengths)
        return Batch(ids, positions, targets, self.counts, ends)


def collate(
    rows: Sequence[Row],
    *,
    pad_id: int,
    device: torch.device | str,
    silent: Sequence[Sequence[Span]] = (),
    packed: bool = False,
) -> Batch:
    """Returns the batch of (prompt, answer) pairs; arguments are those of `lay_out_rows`."""
    return lay_out_rows(
        rows, pad_id=pad_id, device=device, silent=silent, packed=packed
    ).on_device()


def lay_out_rows(
    rows: Sequence[Row],
    *,
    pad_id: int,
    device: torch.device | str,
    silent: Sequence[Sequence[Span]] = (),
    packed: bool = False,
) -> HostBatch:
    """Returns (prompt, answer) pairs, each with at least one token, as a batch on the host.

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
    parts = [ids, positions, targets]
    if packed:
        width = len(ids)
        parts += [list(chain.from_iterable(map(range, lengths))), starts]
    device = torch.device(device)
    return HostBatch(
        numbers=_on_host(parts, pinned=device.type == "cuda"),
        sizes=tuple(map(len, parts)),
        width=width,
        counts=tuple(counts),
        lengths=lengths if packed else None,
        device=device,
    )


def collate_examples(
    examples: Sequence[Example], *, pad_id: int, device: torch.device | str, packed: bool = False
) -> Batch:
    """Returns the batch of ``examples``, with loss on what is not silent."""
    return lay_out_examples(examples, pad_id=pad_id, device=device, packed=packed).on_device()


def lay_out_examples(
    examples: Sequence[Example], *, pad_id: int, device: torch.device | str, packed: bool = False
) -> HostBatch:
    """Returns the batch of ``examples`` on the host, with loss on what is not silent."""
    return lay_out_rows(
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


def _on_host(parts: Sequence[Sequence[int]], *, pinned: bool) -> torch.Tensor:
    """Returns the numbers of all ``parts``, one after another, int64."""
    numbers = torch.tensor(list(chain.from_iterable(parts)), dtype=torch.int64)
    return numbers.pin_memory() if pinned else numbers
