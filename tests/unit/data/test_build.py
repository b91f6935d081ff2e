"""Whole tasks from rows of text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from msft_lite.data.build import build_task, check_tasks
from msft_lite.data.prompts import Encoder
from msft_lite.data.rows import Row
from msft_lite.data.settings import Limits, TaskSettings
from msft_lite.data.splits import Splits
from msft_lite.data.task import Task
from msft_lite.data.task_rows import TaskRows
from msft_lite.data.token_cache import TokenCache
from msft_lite.errors import DataError

LIMITS = Limits(max_length=64, max_prompt_length=64)
SETTINGS = TaskSettings("add", grade="marked", max_new_tokens=8, num_fewshot=0)
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


def row(prompt: str, answer: str) -> Row:
    return Row("add.jsonl, line 1", prompt, answer)


def sums(*numbers: int) -> tuple[Row, ...]:
    return tuple(row(f"Q: {n}+1\nA: ", f"#### {n + 1}") for n in numbers)


ROWS = TaskRows(
    SETTINGS,
    Splits(sums(*range(20)), control=sums(30, 31), report=sums(40, 41, 42)),
    shots=(),
    preset=None,
    notes=("carved 3 report rows from the training rows",),
)


def changed(rows: TaskRows = ROWS, **values: Any) -> TaskRows:
    """Returns ``rows`` with these settings."""
    return dataclasses.replace(rows, settings=dataclasses.replace(rows.settings, **values))


def split(rows: TaskRows = ROWS, **values: tuple[Row, ...]) -> TaskRows:
    """Returns ``rows`` with these rows in these splits."""
    return dataclasses.replace(rows, splits=dataclasses.replace(rows.splits, **values))


def build(rows: TaskRows, tokenizer: Any, *, limits: Limits = LIMITS) -> Task:
    return build_task(rows, encoder=Encoder(tokenizer), limits=limits)


def test_a_task(tokenizer: Any) -> None:
    task = build(ROWS, tokenizer)
    assert [example.row for example in task.train] == list(range(20))
    assert [question.row for question in task.control] == [0, 1]
    assert (task.name, task.max_new_tokens, task.notes) == ("add", 8, ROWS.notes)
    assert tokenizer.decode(list(task.train[7].prompt)) == "Q: 7+1\nA: "
    assert tokenizer.decode(list(task.train[7].answer)) == "#### 8<|end|>"
    assert [question.gold for question in task.report] == ["41", "42", "43"]
    assert tokenizer.decode(list(task.report[1].prompt)) == "Q: 41+1\nA: "
    assert task.metric.name == "accuracy"
    assert task.metric.worth("#### 42.0\n\nQ:", "42") == 1
    assert task.metric.worth("#### 43", "42") == 0


def test_a_question_has_the_row_as_it_would_be_trained_on(tokenizer: Any) -> None:
    rows = dataclasses.replace(ROWS, shots=sums(50, 51))
    task = build(rows, tokenizer)
    trained = build(split(train=ROWS.splits.report), tokenizer).train
    assert tuple(question.example for question in task.report) == trained
    prompts = [tokenizer.decode(list(question.prompt)) for question in task.report]
    shown = "Q: 50+1\nA: #### 51\n\nQ: 51+1\nA: #### 52\n\n"
    assert prompts == [f"{shown}Q: {n}+1\nA: " for n in (40, 41, 42)]


def test_reported_rows_that_steer(tokenizer: Any) -> None:
    rows = changed(split(control=()), steer_on="report")
    task = build(rows, tokenizer)
    assert task.control is task.report
    assert len(task.report) == 3
    cut = build(rows, tokenizer, limits=Limits(64, 5))
    assert cut.notes == (*ROWS.notes, "cut 3 report prompts to fit max_prompt_length")


@pytest.mark.parametrize(
    ("metric", "is_graded", "worth"), [("f1", True, 2 / 3), ("accuracy", False, 0.0)]
)
def test_the_metric_is_the_tasks(
    tokenizer: Any, metric: str, is_graded: bool, worth: float
) -> None:
    task = build(changed(metric=metric), tokenizer)
    assert (task.metric.name, task.metric.is_graded) == (metric, is_graded)
    assert task.metric.worth("#### one two", "two") == pytest.approx(worth)


def test_plain_rows_in_the_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    rows = dataclasses.replace(ROWS, shots=sums(50))
    task = build(changed(rows, apply_chat_template=True), tokenizer, limits=Limits(64, 99))
    assert tokenizer.decode(list(task.train[7].prompt)) == "<user>Q: 7+1\nA: <|end|><assistant>"
    assert tokenizer.decode(list(task.train[7].answer)) == "#### 8<|end|>"
    assert tokenizer.decode(list(task.control[0].prompt)) == (
        "<user>Q: 50+1\nA: <|end|><assistant>#### 51<|end|><user>Q: 30+1\nA: <|end|><assistant>"
    )
    assert task.control[0].gold == "31"


def test_a_chat_of_several_answers(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    messages = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "#### d"))
    said = Row("chat.jsonl, line 1", "a\nb\nc", "#### d", messages)
    task = build(split(train=(said,), control=(said,), report=(said,)), tokenizer)
    (example,) = task.train
    assert tokenizer.decode(list(example.prompt)) == "<user>a<|end|><assistant>"
    ((start, stop),) = example.silent
    assert tokenizer.decode(list(example.answer[:start])) == "b<|end|>"
    assert tokenizer.decode(list(example.answer[stop:])) == "#### d<|end|>"
    assert example.trained_tokens == 2 + 7
    assert tokenizer.decode(list(task.report[0].prompt)).endswith("<user>c<|end|><assistant>")
    assert task.report[0].gold == "d"
    shorter = build(split(train=(said,)), tokenizer, limits=Limits(28, 64))
    assert shorter.train[0].silent == ()  # the first answer became prompt
    assert "cut the prompts of 1 training rows to fit max_length" in shorter.notes


def test_altered_answers_are_told(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    messages = (("user", "a"), ("assistant", "hm</think>b"), ("user", "c"), ("assistant", "d"))
    said = Row("chat.jsonl, line 1", "a\nb\nc", "d", messages)
    task = build(split(train=(said, said)), tokenizer)
    assert task.notes[-1] == (
        "2 earlier answers in training rows carry no loss: the chat template does not show them "
        "as they were said"
    )
    assert [example.silent for example in task.train] == [(), ()]


TRAIN = (
    row("a" * 20, "1"),  # 20 + 2 tokens
    row("b" * 5, "2"),
    row("c", "3" * 20),
    row("d", "4"),
)


@pytest.mark.parametrize(
    ("on_too_long", "prompts", "notes"),
    [
        (
            "truncate",
            ["a" * 8, "b" * 5, "d"],
            (
                "dropped 1 training rows whose answer does not fit max_length",
                "cut the prompts of 1 training rows to fit max_length",
            ),
        ),
        ("drop", ["b" * 5, "d"], ("dropped 2 training rows longer than max_length",)),
    ],
)
def test_too_long_rows(
    tokenizer: Any, on_too_long: str, prompts: list[str], notes: tuple[str, ...]
) -> None:
    control, report = (row("x" * 20, "1"),), (row("y", "5" * 10),)
    rows = changed(split(train=TRAIN, control=control, report=report), on_too_long=on_too_long)
    task = build(rows, tokenizer, limits=Limits(10, 8))
    assert [tokenizer.decode(list(example.prompt)) for example in task.train] == prompts
    assert [example.row for example in task.train] == list(range(len(prompts)))
    assert tokenizer.decode(list(task.control[0].prompt)) == "x" * 8
    shown = task.control[0].example
    assert shown is not None
    assert tokenizer.decode(list(shown.prompt)) == "x" * 8
    assert task.report[0].example is None
    assert task.notes == (
        *ROWS.notes,
        *notes,
        "cut 1 control prompts to fit max_prompt_length",
        "1 report rows have no loss: their answer does not fit max_length",
    )


@pytest.mark.parametrize(
    ("on_too_long", "message"),
    [
        ("truncate", "truncation to max_length = 2: none of its 4 rows .* beside a token of"),
        ("drop", "dropping rows over max_length = 2: none of its 4 rows .* beside all of"),
    ],
)
def test_nothing_fits(tokenizer: Any, on_too_long: str, message: str) -> None:
    rows = changed(split(train=TRAIN), on_too_long=on_too_long)
    with pytest.raises(DataError, match=f"'add': no answer tokens after {message}"):
        build(rows, tokenizer, limits=Limits(2, 8))


def test_shots_that_do_not_fit_are_told(tokenizer: Any) -> None:
    rows = dataclasses.replace(ROWS, shots=sums(50, 51))
    assert build(rows, tokenizer, limits=Limits(64, 40)).notes == (
        *ROWS.notes,
        "left shots out of 2 control prompts to fit max_prompt_length",
        "left shots out of 3 report prompts to fit max_prompt_length",
    )


def test_the_digest_follows_what_training_and_scoring_take(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    base = build(ROWS, tokenizer)
    assert base.digest == build(ROWS, tokenizer).digest
    own_rows = (*ROWS.splits.train[1:], row("Q: 7+1\nA: ", "#### 9"))
    others = [
        build(changed(name="other"), tokenizer),
        build(changed(max_new_tokens=5), tokenizer),
        build(changed(grade="exact"), tokenizer),
        build(changed(grade="regex", grade_pattern="(.*)"), tokenizer),
        build(changed(grade="regex", grade_pattern=".*"), tokenizer),
        build(changed(metric="f1"), tokenizer),
        build(changed(steer_on="report"), tokenizer),
        build(changed(apply_chat_template=True), tokenizer),
        build(dataclasses.replace(ROWS, shots=sums(50)), tokenizer),
        build(ROWS, tokenizer, limits=Limits(16, 64)),
        build(ROWS, tokenizer, limits=Limits(64, 5)),
        build(split(train=own_rows), tokenizer),
        build(split(report=ROWS.splits.report[1:]), tokenizer),
        build(split(control=ROWS.splits.report, report=ROWS.splits.control), tokenizer),
    ]
    assert len({base.digest, *(task.digest for task in others)}) == len(others) + 1


def test_the_digest_follows_what_is_silent(tokenizer: Any) -> None:
    """Of three answers the template marks all, or the first and the last."""
    messages = (("user", "a"), ("assistant", "b")) * 3
    said = (Row("chat.jsonl, line 1", "a", "b", messages),)
    tasks = []
    for chosen in ("m.role == 'assistant'", "m.role == 'assistant' and loop.index != 4"):
        marked = "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
        tokenizer.chat_template = CHATML.replace(
            "{{ m.content }}<|end|>",
            f"{{% if {chosen} %}}{marked}{{% else %}}{{{{ m.content }}}}<|end|>{{% endif %}}",
        )
        tasks.append(build(split(train=said), tokenizer, limits=Limits(99, 64)))
    (first,), (second,) = (task.train for task in tasks)
    assert (first.prompt, first.answer) == (second.prompt, second.answer)
    assert (first.trained_tokens, second.trained_tokens) == (6, 4)
    assert tasks[0].digest != tasks[1].digest


def test_a_cache_changes_nothing_and_tokenises_nothing_twice(
    tokenizer: Any, tmp_path: Path
) -> None:
    rows = dataclasses.replace(ROWS, shots=sums(50, 51))
    expected = build(rows, tokenizer)
    for _ in range(2):
        encoder = Encoder(tokenizer, TokenCache(tmp_path))
        task = build_task(rows, encoder=encoder, limits=LIMITS)
        assert task.digest == expected.digest
        assert (task.train, task.control, task.report) == (
            expected.train,
            expected.control,
            expected.report,
        )
    assert encoder.tokenised == 0
    more = split(rows, report=sums(60))
    build_task(more, encoder=encoder, limits=LIMITS)
    assert encoder.tokenised == 3  # the new row's prompt with shots, without, and its answer


def test_check_tasks(tokenizer: Any) -> None:
    task = build(ROWS, tokenizer)
    other = dataclasses.replace(task, name="other")
    check_tasks([task, other], 4, batch_rows=1)
    with pytest.raises(DataError, match="two tasks are called 'add'"):
        check_tasks([task, other, task], 4)
    with pytest.raises(DataError, match="'add' has 20 training rows; it needs 21 or more"):
        check_tasks([task], 21)
    with pytest.raises(DataError, match="set train_samples = 18"):
        check_tasks([task], 3, batch_rows=1)
    with pytest.raises(DataError, match="no tasks"):
        check_tasks([], 4)


@pytest.mark.parametrize("name", ["a/b", "", ".a", "a\n", "a b"])
def test_a_name_must_do_for_a_file(tokenizer: Any, name: str) -> None:
    task = dataclasses.replace(build(ROWS, tokenizer), name=name)
    with pytest.raises(DataError, match="use letters, digits, '_', '.' and '-'"):
        check_tasks([task], 4)
