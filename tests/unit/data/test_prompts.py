"""Token ids of prompts and answers with a byte-level tokenizer: one token a byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msft_lite.data.prompts import (
    Encoder,
    Pair,
    cut_left,
    encode_prompts,
    encode_rows,
    fit_pair,
    fit_prompts,
)
from msft_lite.data.rows import Row
from msft_lite.data.token_cache import TokenCache
from msft_lite.errors import DataError, ModelError


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


def add_start_token(tokenizer: Any, template: str) -> None:
    """Makes the tokenizer put ``<|start|>`` where ``template`` says."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<|start|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template,
        special_tokens=[
            ("<|start|>", tokenizer.bos_token_id),
            ("<|end|>", tokenizer.eos_token_id),
        ],
    )


def plain(prompt: str, answer: str = "7") -> Row:
    return Row("add.jsonl, line 1", prompt, answer)


def text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids))


def test_plain_row(tokenizer: Any) -> None:
    ([pair], altered) = encode_rows([plain("Q: 3+4\nA: ", "#### 7")], Encoder(tokenizer))
    assert text(tokenizer, pair.prompt) == "Q: 3+4\nA: "
    assert text(tokenizer, pair.answer) == "#### 7<|end|>"
    assert pair.answer[-1] == tokenizer.eos_token_id
    assert (pair.silent, pair.length, altered) == ((), 10 + 7, 0)


@pytest.mark.parametrize("template", ["<|start|> $A", "<|start|> $A <|end|>"])
def test_start_token_comes_once_and_only_before_the_prompt(tokenizer: Any, template: str) -> None:
    add_start_token(tokenizer, template)
    pairs, _ = encode_rows([plain("ab"), plain("<|start|>ab")], Encoder(tokenizer))
    assert [text(tokenizer, pair.prompt) for pair in pairs] == ["<|start|>ab"] * 2
    assert [text(tokenizer, pair.answer) for pair in pairs] == ["7<|end|>"] * 2


def test_no_end_token_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        encode_rows([plain("a")], Encoder(tokenizer))


def test_evaluation_prompt_is_the_training_prompt(tokenizer: Any) -> None:
    add_start_token(tokenizer, "<|start|> $A")
    rows = [plain("Q: é\nA: "), plain("b")]
    pairs, _ = encode_rows(rows, Encoder(tokenizer))
    assert encode_prompts(rows, (), Encoder(tokenizer)) == [pair.prompt for pair in pairs]


def test_nothing_gives_nothing(tokenizer: Any, tmp_path: Path) -> None:
    encoder = Encoder(tokenizer, TokenCache(tmp_path))
    assert encode_rows([], encoder) == ([], 0)
    assert fit_prompts([], [plain("a")], encoder, max_prompt_length=3) == ([], 0, 0)
    assert encoder.tokens([]) == []
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_without_tokens_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="add.jsonl, line 1: the tokenizer makes no token"):
        encode_prompts([plain("")], (), Encoder(tokenizer))


def test_tokens_know_their_characters(tokenizer: Any) -> None:
    (tokens,) = Encoder(tokenizer).tokens(["aé<|end|>"])
    assert tokens.places == ((0, 1), (1, 2), (1, 2), (2, 9))


def test_the_cache_answers_for_the_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    add_start_token(tokenizer, "<|start|> $A")
    rows, shots = [plain("ab", "1"), plain("cd", "2")], [plain("e", "3")]

    def encoded(encoder: Encoder) -> object:
        fitted = fit_prompts(rows, shots, encoder, max_prompt_length=5)
        return fitted, encode_rows(rows, encoder), encoder.tokens(["a b"])

    first, second = (Encoder(tokenizer, TokenCache(tmp_path)) for _ in range(2))
    expected = encoded(Encoder(tokenizer))
    assert encoded(first) == expected
    assert encoded(second) == expected
    assert (second.tokenised, second.from_cache) == (0, first.tokenised + first.from_cache)
    assert second.notes == (f"tokenised 0 texts, {second.from_cache} more were in the cache",)


def test_only_what_is_new_is_tokenised(tokenizer: Any, tmp_path: Path) -> None:
    train, more = [plain("a"), plain("b")], [plain("c")]
    encode_rows(train, Encoder(tokenizer, TokenCache(tmp_path)))
    encoder = Encoder(tokenizer, TokenCache(tmp_path))
    encode_rows(more, encoder)
    encode_rows(train, encoder)
    assert (encoder.tokenised, encoder.from_cache) == (2, 4)  # prompts and answers


def test_a_cache_that_cannot_be_written_is_noted(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    encoder = Encoder(tokenizer, TokenCache(tmp_path / "file"))
    assert encoder.ids(["a"]) == Encoder(tokenizer).ids(["a"])
    counts, problem = encoder.notes
    assert counts == "tokenised 1 texts, 0 more were in the cache"
    assert "cannot be written" in problem


def test_many_texts_are_tokenised_in_order(tokenizer: Any) -> None:
    texts = [str(number) for number in range(2_345)]
    ids = Encoder(tokenizer).ids(texts)
    assert [text(tokenizer, one) for one in ids] == texts


def test_shots_come_first(tokenizer: Any) -> None:
    shots = (plain("Q: a\nA: ", "1"), plain("Q: b\nA: ", "2"))
    (ids,) = encode_prompts([plain("Q: c\nA: ")], shots, Encoder(tokenizer))
    assert text(tokenizer, ids) == "Q: a\nA: 1\n\nQ: b\nA: 2\n\nQ: c\nA: "


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (40, ("aa1\n\nbb2\n\ncc", 0, 0)),
        (12, ("aa1\n\nbb2\n\ncc", 0, 0)),
        (11, ("aa1\n\ncc", 1, 0)),
        (7, ("aa1\n\ncc", 1, 0)),
        (6, ("cc", 1, 0)),
        (1, ("c", 1, 1)),
    ],
)
def test_whole_shots_go_before_tokens_the_last_one_first(
    tokenizer: Any, length: int, expected: tuple[str, int, int]
) -> None:
    shots = (plain("aa", "1"), plain("bb", "2"))
    (ids,), lost_shots, cut = fit_prompts(
        [plain("cc")], shots, Encoder(tokenizer), max_prompt_length=length
    )
    assert (text(tokenizer, ids), lost_shots, cut) == expected


def test_every_prompt_keeps_as_many_shots_as_fit(tokenizer: Any) -> None:
    """Against trying every number of shots; rows and shots of lengths from 3 to 90."""
    shots = tuple(plain("s" * (7 * n + 1), str(n)) for n in range(5))
    rows = [plain("q" * length) for length in (3, 90, 40, 60, 20, 41, 42, 5)]
    encoder = Encoder(tokenizer)
    for limit in (4, 30, 50, 70, 95, 140, 200):
        found, lost_shots, cut = fit_prompts(rows, shots, encoder, max_prompt_length=limit)
        expected, kept = [], []
        for row in rows:
            tries = [(n, encode_prompts([row], shots[:n], encoder)[0]) for n in (5, 4, 3, 2, 1, 0)]
            n, ids = next((pair for pair in tries if len(pair[1]) <= limit), tries[-1])
            expected.append(ids[-limit:])
            kept.append(n)
        assert found == expected
        assert lost_shots == sum(n < 5 for n in kept)
        assert cut == sum(len(row.prompt) > limit for row in rows)


def test_a_prompt_is_tokenised_as_one_text(merging_tokenizer: Any) -> None:
    """The blank line between shots is a token of its own only where nothing joins it."""
    encoder = Encoder(merging_tokenizer)
    (ids,) = encode_prompts([plain("\nb")], (plain("a", "1"),), encoder)
    assert merging_tokenizer.convert_ids_to_tokens(list(ids)) == ["a", "1", "ĊĊ", "Ċ", "b"]
    (whole,) = encoder.ids(["a1\n\n\nb"])
    assert ids == whole
    apart = [*encoder.ids(["a1\n"])[0], *encoder.ids(["\n\nb"])[0]]
    assert list(ids) != apart


def test_the_start_token_stays_when_prompts_are_cut(tokenizer: Any) -> None:
    add_start_token(tokenizer, "<|start|> $A")
    (ids,), _, cut = fit_prompts([plain("abcdef")], (), Encoder(tokenizer), max_prompt_length=3)
    assert (text(tokenizer, ids), cut) == ("<|start|>ef", 1)


@pytest.mark.parametrize(
    ("ids", "length", "start", "expected"),
    [
        ((1, 2, 3), 3, None, (1, 2, 3)),
        ((1, 2, 3), 2, None, (2, 3)),
        ((1, 2, 3), 2, 1, (1, 3)),
        ((1, 2, 3), 1, 1, (1,)),
        ((2, 2, 3), 2, 1, (2, 3)),
        ((1, 2, 3), 0, None, ()),
    ],
)
def test_cut_left(
    ids: tuple[int, ...], length: int, start: int | None, expected: tuple[int, ...]
) -> None:
    assert cut_left(ids, length, start=start) == expected


@pytest.mark.parametrize(
    ("max_length", "start", "expected"),
    [
        (5, None, Pair((1, 2, 3), (8, 9))),
        (4, None, Pair((2, 3), (8, 9))),
        (3, None, Pair((3,), (8, 9))),
        (2, None, None),
        (1, None, None),
        (4, 1, Pair((1, 3), (8, 9))),
        (3, 1, None),  # a start token alone is no prompt
    ],
)
def test_fit_pair(max_length: int, start: int | None, expected: Pair | None) -> None:
    assert fit_pair(Pair((1, 2, 3), (8, 9)), max_length=max_length, start=start) == expected


CHAT = Pair((1, 2), (11, 12, 3, 4, 21, 5, 6, 31, 32), ((2, 4), (5, 7)))  # answers 11.., 21, 31..


@pytest.mark.parametrize(
    ("max_length", "start", "expected"),
    [
        (11, None, CHAT),
        (10, None, Pair((2,), CHAT.answer, CHAT.silent)),
        # no room beside the first answer: it becomes prompt, of which the end is kept
        (9, None, Pair((11, 12, 3, 4), (21, 5, 6, 31, 32), ((1, 3),))),
        (6, None, Pair((4,), (21, 5, 6, 31, 32), ((1, 3),))),
        (5, None, Pair((21, 5, 6), (31, 32))),
        (3, None, Pair((6,), (31, 32))),
        (2, None, None),
        (11, 1, CHAT),
        (10, 1, Pair((1, 11, 12, 3, 4), (21, 5, 6, 31, 32), ((1, 3),))),
        (4, 1, Pair((1, 6), (31, 32))),
        (3, 1, None),
    ],
)
def test_the_first_answers_of_a_long_chat_become_prompt(
    max_length: int, start: int | None, expected: Pair | None
) -> None:
    assert fit_pair(CHAT, max_length=max_length, start=start) == expected
