"""What of a chat carries loss, under templates as models have them."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from msft_lite.data.chat import as_chat
from msft_lite.data.prompts import Encoder, Pair, encode_prompts, encode_rows, fit_prompts
from msft_lite.data.rows import Row
from msft_lite.data.token_cache import TokenCache
from msft_lite.errors import DataError, ModelError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + CHATML
)
LLAMA2 = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if system else messages) %}"
    "{% if m.role == 'user' %}[INST] "
    "{% if loop.first and system %}<<SYS>>{{ system }}<</SYS>> {% endif %}"
    "{{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
STRIPPING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_WITHOUT_END = MARKED.replace(
    "<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"
)
# As Qwen3: thinking goes from all turns but the last, and the last has an empty block without it.
THINKING = (
    "{% for m in messages %}{% set said = m.content.split('</think>')[-1].strip() %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{% if '</think>' in m.content %}"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip() }}{% endif %}"
    "{{ '\n</think>\n\n' }}{% endif %}{{ said }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN_TEXT = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
ROLES_AS_TOKENS = (
    "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|im_sep|>' }}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_sep|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
TALK = (("user", "1+1?"), ("assistant", "2"), ("user", "1+2?"), ("assistant", " 3é\n"))


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    names = ["<|im_start|>", "<|im_end|>", "<|im_sep|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    return tokenizer


def chat(*messages: tuple[str, str]) -> Row:
    prompt = "\n".join(content for _, content in messages[:-1])
    return Row("chat.jsonl, line 3", prompt, messages[-1][1], messages)


def pair_of(tokenizer: Any, template: str | None, row: Row) -> Pair:
    tokenizer.chat_template = template
    ([pair], _) = encode_rows([row], Encoder(tokenizer))
    return pair


def text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids))


def spoken(tokenizer: Any, pair: Pair) -> list[str]:
    """Returns the stretches that carry loss."""
    places = [0, *(place for span in pair.silent for place in span), len(pair.answer)]
    stretches = zip(places[::2], places[1::2], strict=True)
    return [text(tokenizer, pair.answer[start:stop]) for start, stop in stretches]


IM_END = "<|im_end|>"
END = "<|end|>"


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (CHATML, TALK, ["2" + IM_END, " 3é\n" + IM_END + END]),
        (CHATML, (("system", "add"), *TALK), ["2" + IM_END, " 3é\n" + IM_END + END]),
        (CHATML, TALK[:2], ["2" + IM_END + END]),
        (CHATML, (("assistant", "Hi"), *TALK[:2]), ["2" + IM_END + END]),
        (CHATML.replace(IM_END, END), TALK, ["2" + END, " 3é\n" + END]),
        # what a turn says is found by its place, not by its text
        (
            CHATML,
            (*TALK[:2], ("user", "2"), ("assistant", "2")),
            ["2" + IM_END, "2" + IM_END + END],
        ),
        (
            CHATML,
            (*TALK, *TALK),
            ["2" + IM_END, " 3é\n" + IM_END, "2" + IM_END, " 3é\n" + IM_END + END],
        ),
        (DEFAULT_SYSTEM, TALK, ["2" + IM_END, " 3é\n" + IM_END + END]),
        (LLAMA2, TALK, [" 2 " + END, " 3é " + END]),
        (LLAMA2, (("system", "add"), *TALK), [" 2 " + END, " 3é " + END]),
        (STRIPPING, TALK, ["2" + IM_END, "3é" + IM_END + END]),
        (MARKED, TALK, ["2" + IM_END, " 3é\n" + IM_END + END]),
        (MARKED_WITHOUT_END, TALK, ["2" + IM_END, " 3é\n" + IM_END + END]),
        (THINKING, TALK, ["2" + IM_END, "<think>\n\n</think>\n\n3é" + IM_END + END]),
        (PLAIN_TEXT, TALK, ["2", " 3é\n" + END]),
        # the next header is not taken for the end of a turn
        (ROLES_AS_TOKENS, TALK, ["2", " 3é\n" + END]),
        (NO_SYSTEM + CHATML, TALK, ["2" + IM_END, " 3é\n" + IM_END + END]),
        ("{{ bos_token or '' }}" + CHATML, TALK, ["2" + IM_END, " 3é\n" + IM_END + END]),
    ],
)
def test_every_answer_carries_loss_and_nothing_else(
    tokenizer: Any, template: str, messages: tuple[tuple[str, str], ...], expected: list[str]
) -> None:
    row = chat(*messages)
    pair = pair_of(tokenizer, template, row)
    assert spoken(tokenizer, pair) == expected
    whole = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages], tokenize=False
    )
    ours = text(tokenizer, pair.prompt + pair.answer)
    assert whole.startswith(ours.removesuffix(END))
    (prompt,) = encode_prompts([row], (), Encoder(tokenizer))
    assert (pair.prompt + pair.answer)[: len(prompt)] == prompt
    last = len(pair.prompt) + (pair.silent[-1][1] if pair.silent else 0)
    assert last == len(prompt)  # what is generated is what was learned


def test_marks_are_those_of_transformers(tokenizer: Any) -> None:
    row = chat(("system", "add"), *TALK)
    pair = pair_of(tokenizer, MARKED, row)
    theirs = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in row.messages],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    ours = [0] * len(pair.prompt) + [1] * len(pair.answer)
    for start, stop in pair.silent:
        ours[len(pair.prompt) + start : len(pair.prompt) + stop] = [0] * (stop - start)
    # ours ends with the end-of-text token, theirs with the template's last line feed
    assert ours[:-1] == theirs["assistant_masks"][:-1]
    assert list(pair.prompt + pair.answer)[:-1] == theirs["input_ids"][:-1]


def test_earlier_thinking_that_is_not_shown_is_not_learned(tokenizer: Any) -> None:
    """The turn as it stands there, without its thinking, is no right answer to its prompt."""
    thought = ("assistant", "<think>\neasy\n</think>\n\n2")
    last = ("assistant", "<think>again</think>3")
    tokenizer.chat_template = THINKING
    row = chat(TALK[0], thought, TALK[2], last)
    pairs, altered = encode_rows([row, chat(*TALK)], Encoder(tokenizer))
    assert altered == 1
    assert spoken(tokenizer, pairs[0]) == ["<think>\nagain\n</think>\n\n3" + IM_END + END]
    assert "easy" not in text(tokenizer, pairs[0].prompt)
    assert len(spoken(tokenizer, pairs[1])) == 2


def test_any_contents_are_found(tokenizer: Any) -> None:
    """Contents out of pieces of the template itself, blanks and characters of several bytes."""
    random = Random(20)
    pieces = ["a", " ", "\n", "é", "漢", "assistant", "user\n", "<", "think>", "ab\n\nc", "2"]

    def content() -> str:
        return "".join(random.choices(pieces, k=random.randint(1, 6)))

    tokenizer.chat_template = CHATML
    rows = [
        chat(
            *(
                (role, content())
                for _ in range(random.randint(1, 4))
                for role in ("user", "assistant")
            )
        )
        for _ in range(200)
    ]
    pairs, altered = encode_rows(rows, Encoder(tokenizer))
    assert altered == 0
    for row, pair in zip(rows, pairs, strict=True):
        said = [content for role, content in row.messages if role == "assistant"]
        assert spoken(tokenizer, pair) == [
            *(content + IM_END for content in said[:-1]),
            said[-1] + IM_END + END,
        ]


SAID = "what the assistant says cannot be told apart: the chat template "


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the row is a chat, but the tokenizer .* has no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "refuses .*: roles must alternate"),
        ("{{ messages[9].content }}", "the chat template refuses the messages"),
        (NO_SYSTEM + CHATML, "the chat template refuses the messages: no system"),
        (CHATML.replace("assistant\n{%", "bot\n{%"), "does not start with .* at character"),
        ("{{ messages | length }}", "does not start with .* at character 0: '5' instead of '2'"),
        ("{{ 'abc' if add_generation_prompt else 'ab' }}", "does not start .*at character 2: ''"),
        (CHATML.replace("m.content", "m.content | upper"), SAID + "shows message 3 changed"),
        (CHATML.replace("m.content", "m.content[:30]"), SAID + "rewrites message 5 as 'long lon"),
        (CHATML.replace("m.content", "m.content * 2"), SAID + "shows message 3 changed, repeated"),
        (CHATML.replace("m.content", "m.role"), SAID + "shows message 3 .*or not at all"),
        (
            CHATML.replace("<|im_end|>", "{{ m.content | length }}<|im_end|>"),
            SAID + "changes what follows message 3 with what it says",
        ),
        (
            MARKED.replace("m.role == 'assistant'", "m.role == 'user'"),
            SAID + "marks 'one.*', which the assistant does not say",
        ),
        (
            MARKED.replace("m.role == 'assistant'", "loop.index0 == 2"),
            SAID + "marks nothing of the last message",
        ),
        (
            MARKED.replace("m.role == 'assistant'", "m.role == 'tool'"),
            SAID + "marks nothing of the last message, so that there is nothing to learn",
        ),
    ],
)
def test_what_cannot_be_told_apart_is_refused(
    tokenizer: Any, template: str | None, message: str
) -> None:
    long = "long " * 9
    row = chat(("system", "S"), ("user", "one"), ("assistant", "two"), ("user", "x"))
    row = chat(*row.messages, ("assistant", long))
    with pytest.raises(DataError, match=f"chat.jsonl, line 3: .*{message}"):
        pair_of(tokenizer, template, row)


def test_an_answer_without_a_first_token_of_its_own_is_refused(merging_tokenizer: Any) -> None:
    merging_tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    )
    """The template's line feed and the answer's are one token, which no generation begins with."""
    row = chat(("user", "a"), ("assistant", "\nb"))
    with pytest.raises(DataError, match="line 3: the tokenizer joins the start of the answer"):
        pair_of(merging_tokenizer, CHATML, row)
    earlier = chat(("user", "a"), ("assistant", "\nb"), ("user", "c"), ("assistant", "d"))
    pair = pair_of(merging_tokenizer, CHATML, earlier)
    assert spoken(merging_tokenizer, pair)[0] == "b" + IM_END  # half a header is left out


def test_a_tokenizer_without_places(tmp_path: Path) -> None:
    """A tokenizer of Python's can do one answer; nothing of it is put in the cache."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = PLAIN_TEXT
    encoder = Encoder(tokenizer, TokenCache(tmp_path / "cache"))
    ([pair], _) = encode_rows([chat(*TALK[:2])], encoder)
    assert spoken(tokenizer, pair) == ["2</s>"]
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ModelError, match="chats with several answers cannot be learned"):
        encode_rows([chat(*TALK)], encoder)


def test_a_row_does_not_depend_on_the_others(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = CHATML
    rows = [chat(*TALK[:2]), chat(*TALK)]
    alone = [encode_rows([row], Encoder(tokenizer))[0][0] for row in rows]
    for _ in range(2):  # the second time from the cache
        encoder = Encoder(tokenizer, TokenCache(tmp_path))
        assert encode_rows(rows, encoder)[0] == alone
    assert encoder.tokenised == 0


def test_the_day_is_always_the_same(tokenizer: Any) -> None:
    template = "{{ strftime_now('%d %b %Y') }}" + MARKED
    pair = pair_of(tokenizer, template, chat(*TALK))
    assert text(tokenizer, pair.prompt).startswith("26 Jul 2024<|im_start|>")
    assert spoken(tokenizer, pair) == ["2" + IM_END, " 3é\n" + IM_END + END]


def test_a_plain_row_becomes_a_chat() -> None:
    row = Row("f.jsonl, line 1", "Q: 1\nA: ", "2", group="g")
    messages = (("user", "Q: 1\nA: "), ("assistant", "2"))
    assert as_chat(row) == Row("f.jsonl, line 1", "Q: 1\nA: ", "2", messages, "g")
    assert as_chat(as_chat(row)) == as_chat(row)


def test_shots_are_earlier_turns(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    shots = [chat(("system", "S"), ("user", "a"), ("assistant", "1")), as_chat(Row("", "b", "2"))]
    row = chat(("system", "T"), ("user", "c"), ("assistant", "3"))
    encoder = Encoder(tokenizer)
    (ids,) = encode_prompts([row], shots, encoder)
    turns = [("system", "T"), ("user", "a"), ("assistant", "1"), ("user", "b"), ("assistant", "2")]
    expected = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
    expected += "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    assert text(tokenizer, ids) == expected
    ([shorter], lost_shots, cut) = fit_prompts(
        [row], shots, encoder, max_prompt_length=len(ids) - 1
    )
    assert text(tokenizer, shorter) == expected.replace(
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n", ""
    )
    assert (lost_shots, cut) == (1, 0)
