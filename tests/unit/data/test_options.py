"""Which rows have options, and what is weighed of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msft_lite.data.chat import as_chat
from msft_lite.data.formats import row_of
from msft_lite.data.options import encode_options
from msft_lite.data.prompts import Encoder, encode_prompts
from msft_lite.data.rows import Record, Row
from msft_lite.data.settings import TaskSettings
from msft_lite.data.task_rows import task_rows
from msft_lite.data.tasks import PRESETS
from msft_lite.data.tasks.items import preset_row
from msft_lite.errors import DataError

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ABC = ("#### A", "#### B", "#### C")
# Presets that show lettered choices; the others' answers are words or numbers, or reason first.
LETTERED = {
    "arc_challenge", "arc_easy", "commonsenseqa", "hellaswag", "medmcqa", "mmlu", "openbookqa",
    "piqa", "winogrande",
}  # fmt: skip


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


def row(answer: str = "#### B", options: tuple[str, ...] = ABC) -> Row:
    return Row("x.jsonl, line 1", "Q: Which?\nA: ", answer, options=options)


def test_own_rows_with_choices_have_options_unless_they_reason() -> None:
    values = {"question": "Which?", "choices": ["x", "y", "z"], "answer": "y"}
    assert row_of(Record("x, line 1", values)).options == ABC
    assert row_of(Record("x, line 1", {**values, "rationale": "See."})).options == ()
    assert row_of(Record("x, line 1", {"question": "Which?", "answer": "y"})).options == ()


def test_the_presets_that_have_options() -> None:
    item: dict[str, Any] = {"question": "Which?", "choices": ["x", "y", "z"], "answer": "B"}
    found = set[str]()
    for name, preset in PRESETS.items():
        answer = {"boolq": "True", "gsm8k": "7", "svamp": "7"}.get(name, "B")
        values = {**item, "answer": answer, "rationale": "See."}
        if name in LETTERED:
            del values["rationale"]
        if preset_row(preset, Record("x, line 1", values), local=True).options == ABC:
            found.add(name)
    assert found == LETTERED


def test_a_task_without_options_is_refused_with_the_row(tmp_path: Path) -> None:
    def write(*rows: dict[str, Any]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "x.jsonl").write_text(lines)

    settings = TaskSettings(
        "x", path=tmp_path / "x.jsonl", score="logprob", control_samples=2, report_samples=2
    )
    choices = [{"question": f"{n}?", "choices": ["x", "y"], "answer": "x"} for n in range(8)]
    write(*choices)
    (task,) = task_rows(settings, seed=1)
    assert task.settings.max_new_tokens == 1
    write(*({**one, "rationale": "See."} for one in choices))
    with pytest.raises(DataError, match=r"task 'x': score = .*line \d has .* 'See. #### A'; take"):
        task_rows(settings, seed=1)
    task_rows(replace(settings, score="generate"), seed=1)


def test_the_letters_are_the_tokens_in_which_the_answers_differ(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer)
    (found,) = encode_options([row()], encoder, as_chats=False)
    for letter, text in zip(found.letters, ABC, strict=True):
        assert (*found.shared, letter) == encoder.ids([text])[0]


def test_in_a_chat_what_ends_the_turn_is_left_out(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    encoder = Encoder(tokenizer)
    rows = [row(), row("#### A", ABC[:2])]
    for one, found in zip(rows, encode_options(rows, encoder, as_chats=True), strict=True):
        (prompt,) = encode_prompts([as_chat(one)], (), encoder)
        for letter, text in zip(found.letters, one.options, strict=True):
            asked = tokenizer.decode([*prompt, *found.shared, letter])
            assert asked == f"<user>{one.prompt}<|end|>\n<assistant>{text}"


def test_answers_that_differ_in_more_than_a_token_are_refused(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer)
    for options in [("#### A", "#### AB"), ("#### ab", "#### cd"), ("#### A", "#### A")]:
        with pytest.raises(DataError, match=r'x.jsonl, line 1: score = "logprob" compares one'):
            encode_options([row(options=options)], encoder, as_chats=False)
