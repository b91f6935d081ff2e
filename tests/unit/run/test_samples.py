"""Lengths worked out by hand, and rows taken apart where loss begins and ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from msft_lite.data.task import Example, Span
from msft_lite.run.samples import Bin, Piece, example_pieces, lengths


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model_folder)


def test_one_row_is_one_bin() -> None:
    found = lengths([7])
    assert found.bins == (Bin(7, 7, 1),)
    assert (found.p50, found.p95, found.longest) == (7, 7, 7)


def test_few_lengths_have_a_bin_each() -> None:
    assert lengths([3, 5, 3]).bins == (Bin(3, 3, 2), Bin(4, 4, 0), Bin(5, 5, 1))


def test_bins_are_of_one_width_and_hold_every_row() -> None:
    # 25 lengths in at most ten bins: three lengths a bin, nine bins.
    found = lengths([25, *range(1, 22), 1])
    assert [(bin.low, bin.high) for bin in found.bins] == [(n, n + 2) for n in range(1, 26, 3)]
    assert [bin.count for bin in found.bins] == [4, 3, 3, 3, 3, 3, 3, 0, 1]


@pytest.mark.parametrize(
    ("tokens", "p50", "p95"),
    [
        ([1, 2], 1, 2),
        ([4, 2, 3, 1], 2, 4),
        (list(range(1, 21)), 10, 19),
        (list(range(1, 101)), 50, 95),
        ([9] * 99 + [500], 9, 9),
    ],
)
def test_percentiles_are_lengths_that_occur(tokens: list[int], p50: int, p95: int) -> None:
    found = lengths(tokens)
    assert (found.p50, found.p95) == (p50, p95)


def example(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Example:
    """Returns a row of prompt, answer, silent stretch, answer, ... in that order."""
    ids = [tuple(tokenizer.encode(text)) for text in texts]
    silent: list[Span] = []
    length = 0
    for index, part in enumerate(ids[1:]):
        if index % 2:
            silent.append((length, length + len(part)))
        length += len(part)
    return Example("task", 0, ids[0], sum(ids[1:], ()), tuple(silent))


@pytest.mark.parametrize(
    "texts",
    [
        ("Q: a?\nA: ", "#### b<|end|>"),
        ("Q: a?\nA: ", " two words ", " [user] why? ", "so<|end|>"),
        ("ü", "é", "ß"),
    ],
)
def test_pieces_are_the_row_and_say_what_is_trained(
    texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase
) -> None:
    wanted = tuple(Piece(text, bool(i % 2)) for i, text in enumerate(texts))
    assert example_pieces(example(tokenizer, texts), tokenizer) == wanted


def test_an_answer_that_begins_silent_has_no_empty_piece(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    pieces = example_pieces(example(tokenizer, ("a", "", "b", "c")), tokenizer)
    assert pieces == (Piece("a", False), Piece("b", False), Piece("c", True))


def test_a_character_cut_in_two_loses_no_neighbour(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second = tokenizer.encode("é")
    before, after = tokenizer.encode("a"), tokenizer.encode("b")
    row = Example("task", 0, (*before, first), (second, *after))
    prompt, answer = example_pieces(row, tokenizer)
    assert prompt.text.startswith("a")
    assert answer.text.endswith("b")
