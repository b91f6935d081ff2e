"""Token ids of prompts and answers with a byte-level tokenizer: one token a byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msft_lite.data.prompts import (
    Pair,
    PromptParts,
    cut_left,
    encode_prompts,
    encode_rows,
    fit_prompts,
    fit_training,
)
from msft_lite.data.sources import Row
from msft_lite.errors import DataError, ModelError

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


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


def chat(*messages: tuple[str, str]) -> Row:
    return Row(
        "chat.jsonl, line 3", "\n".join(c for _, c in messages[:-1]), messages[-1][1], messages
    )


def text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids))


def test_plain_row(tokenizer: Any) -> None:
    (pair,) = encode_rows([plain("Q: 3+4\nA: ", "#### 7")], tokenizer)
    assert text(tokenizer, pair.prompt) == "Q: 3+4\nA: "
    assert text(tokenizer, pair.answer) == "#### 7<|end|>"
    assert pair.answer[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("template", ["<|start|> $A", "<|start|> $A <|end|>"])
def test_start_token_comes_once_and_only_before_the_prompt(tokenizer: Any, template: str) -> None:
    add_start_token(tokenizer, template)
    pairs = encode_rows([plain("ab"), plain("<|start|>ab")], tokenizer)
    assert [text(tokenizer, pair.prompt) for pair in pairs] == ["<|start|>ab"] * 2
    assert [text(tokenizer, pair.answer) for pair in pairs] == ["7<|end|>"] * 2


def test_no_end_token_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        encode_rows([plain("a")], tokenizer)


def test_evaluation_prompt_is_the_training_prompt(tokenizer: Any) -> None:
    add_start_token(tokenizer, "<|start|> $A")
    rows = [plain("Q: é\nA: "), plain("b")]
    pairs = encode_rows(rows, tokenizer)
    assert encode_prompts([PromptParts(row) for row in rows], tokenizer) == [
        pair.prompt for pair in pairs
    ]


def test_chat_row(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE
    row = chat(("system", "add"), ("user", "3+4"), ("assistant", "7"))
    (pair,) = encode_rows([row], tokenizer)
    assert text(tokenizer, pair.prompt) == "<system>add<|end|>\n<user>3+4<|end|>\n<assistant>"
    assert text(tokenizer, pair.answer) == "7<|end|>"  # the template's line feed is cut
    assert encode_prompts([PromptParts(row)], tokenizer) == [pair.prompt]


def test_chat_template_without_end_token_gets_one(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("<|end|>", "")
    (pair,) = encode_rows([chat(("user", "3"), ("assistant", "7"))], tokenizer)
    assert text(tokenizer, pair.answer) == "7\n<|end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "refuses .*: roles must alternate"),
        ("{{ messages[9].content }}", "the chat template refuses the messages"),
        (TEMPLATE.replace("<assistant>", "<bot>"), "does not start with .*differ at token 10"),
        ("{{ messages | length }}", "does not start with .*differ at token 0"),
        (
            "{{ 'abc' if add_generation_prompt else 'ab' }}",
            "does not start with .*differ at token 2",
        ),
    ],
)
def test_bad_chat_template(tokenizer: Any, template: str | None, message: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=f"chat.jsonl, line 3: .*{message}"):
        encode_rows([chat(("user", "3"), ("assistant", "7"))], tokenizer)


def test_shots_come_first(tokenizer: Any) -> None:
    part = PromptParts(plain("Q: c\nA: "), (plain("Q: a\nA: ", "1"), plain("Q: b\nA: ", "2")))
    (ids,) = encode_prompts([part], tokenizer)
    assert text(tokenizer, ids) == "Q: a\nA: 1\n\nQ: b\nA: 2\n\nQ: c\nA: "


def test_chat_shots_are_earlier_turns(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("<|end|>\n", "")
    shot = chat(("system", "S"), ("user", "a"), ("assistant", "1"))
    row = chat(("system", "T"), ("user", "b"), ("assistant", "2"))
    (ids,) = encode_prompts([PromptParts(row, (shot,))], tokenizer)
    assert text(tokenizer, ids) == "<system>T<user>a<assistant>1<user>b<assistant>"


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (40, ("aa1\n\nbb2\n\ncc", 0, 0)),
        (12, ("aa1\n\nbb2\n\ncc", 0, 0)),
        (11, ("bb2\n\ncc", 1, 0)),
        (6, ("cc", 1, 0)),
        (1, ("c", 1, 1)),
    ],
)
def test_whole_shots_go_before_tokens(
    tokenizer: Any, length: int, expected: tuple[str, int, int]
) -> None:
    part = PromptParts(plain("cc"), (plain("aa", "1"), plain("bb", "2")))
    (ids,), lost_shots, cut = fit_prompts([part], tokenizer, max_prompt_length=length)
    assert (text(tokenizer, ids), lost_shots, cut) == expected


def test_the_start_token_stays_when_prompts_are_cut(tokenizer: Any) -> None:
    add_start_token(tokenizer, "<|start|> $A")
    (ids,), _, cut = fit_prompts([PromptParts(plain("abcdef"))], tokenizer, max_prompt_length=3)
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
        (5, None, ([Pair((1, 2, 3), (8, 9))], 0, 0)),
        (4, None, ([Pair((2, 3), (8, 9))], 1, 0)),
        (3, None, ([Pair((3,), (8, 9))], 1, 0)),
        (2, None, ([], 0, 1)),
        (1, None, ([], 0, 1)),
        (4, 1, ([Pair((1, 3), (8, 9))], 1, 0)),
        (3, 1, ([], 0, 1)),  # a start token alone is no prompt
    ],
)
def test_fit_training(
    max_length: int, start: int | None, expected: tuple[list[Pair], int, int]
) -> None:
    pair = Pair((1, 2, 3), (8, 9))
    assert fit_training([pair], max_length=max_length, start=start) == expected
