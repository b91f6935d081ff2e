"""What a training row and its lengths look like: stretches of text, and a histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from msft_lite.data.task import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_BINS = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a row's text, and whether its tokens carry loss."""

    text: str
    is_trained: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """How many rows have ``low`` to ``high`` tokens, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of rows.

    Attributes:
        bins: of one width, without a gap from the shortest row to the longest.
        p50: half the rows have this many tokens at most; ``p95`` likewise.
    """

    bins: tuple[Bin, ...]
    p50: int
    p95: int
    longest: int


def lengths(tokens: Sequence[int]) -> Lengths:
    """Returns the histogram of ``tokens``, one number a row, at least one row."""
    ordered = sorted(tokens)
    low, high = ordered[0], ordered[-1]
    width = math.ceil((high - low + 1) / MOST_BINS)
    counts = [0] * math.ceil((high - low + 1) / width)
    for number in ordered:
        counts[(number - low) // width] += 1
    starts = range(low, high + 1, width)
    return Lengths(
        tuple(Bin(s, s + width - 1, n) for s, n in zip(starts, counts, strict=True)),
        p50=_nearest_rank(ordered, 50),
        p95=_nearest_rank(ordered, 95),
        longest=high,
    )


def _nearest_rank(ordered: Sequence[int], percent: int) -> int:
    return ordered[-(-len(ordered) * percent // 100) - 1]


def example_pieces(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[Piece, ...]:
    """Returns the text of ``example``, special tokens included, cut where loss begins or ends."""
    offset = len(example.prompt)
    edges = [0, offset]
    for start, stop in example.silent:
        edges += [offset + start, offset + stop]
    edges.append(offset + len(example.answer))
    ids = (*example.prompt, *example.answer)
    texts = _texts(ids, edges, tokenizer)
    return tuple(Piece(text, bool(i % 2)) for i, text in enumerate(texts) if text)


def decoded(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the text of ``ids``, special tokens included."""
    text = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text if isinstance(text, str) else "".join(text)


def _texts(
    ids: Sequence[int], edges: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    # Some decoders drop the blank before the first token they are given, so a stretch is what it
    # adds to the text before it; only a character cut in two makes that text another.
    texts: list[str] = []
    for start, stop in pairwise(edges):
        before, whole = decoded(ids[:start], tokenizer), decoded(ids[:stop], tokenizer)
        is_added = whole.startswith(before)
        texts.append(whole[len(before) :] if is_added else decoded(ids[start:stop], tokenizer))
    return texts
