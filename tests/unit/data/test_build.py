"""Whole tasks from files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from msft_lite.data.build import Limits, TaskSettings, build_task, check_tasks
from msft_lite.data.task import Task
from msft_lite.errors import DataError

CARVED = (
    "carved 6 report rows from the training rows",
    "carved 4 control rows from the training rows",
)
LIMITS = Limits(max_length=64, max_prompt_length=64)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


def write(path: Path, pairs: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in pairs]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def settings(tmp_path: Path) -> TaskSettings:
    """Thirty rows ``Q: i+1`` to carve from."""
    pairs = [(f"Q: {i}+1\nA: ", f"#### {i + 1}") for i in range(30)]
    return TaskSettings(
        "add", write(tmp_path / "add.jsonl", pairs), control_samples=4, report_samples=6
    )


def build(
    settings: TaskSettings, tokenizer: Any, *, limits: Limits = LIMITS, seed: int = 3
) -> Task:
    return build_task(settings, tokenizer=tokenizer, limits=limits, seed=seed)


def changed(settings: TaskSettings, **values: Any) -> TaskSettings:
    return dataclasses.replace(settings, **values)


def test_a_task(settings: TaskSettings, tokenizer: Any) -> None:
    task = build(settings, tokenizer)
    assert [example.row for example in task.train] == list(range(20))
    assert [question.row for question in task.control] == list(range(4))
    assert len(task.report) == 6
    assert task.notes == CARVED
    texts = {tokenizer.decode(list(e.prompt)): tokenizer.decode(list(e.answer)) for e in task.train}
    assert all(answer.endswith("<|end|>") for answer in texts.values())
    for question in (*task.control, *task.report):
        prompt = tokenizer.decode(list(question.prompt))
        assert prompt not in texts
        assert int(question.gold) == int(prompt[3:].split("+")[0]) + 1
        assert task.grade(f"#### {question.gold}\n\nQ:", question.gold)


def test_held_out_files(tmp_path: Path, settings: TaskSettings, tokenizer: Any) -> None:
    control = write(tmp_path / "c.jsonl", [("x", "#### 1"), ("Q: 3+1\na:", "#### 4")])
    report = write(tmp_path / "r.jsonl", [("y", "#### 2")])
    task = build(
        changed(settings, control_path=control, report_path=report, control_samples=None), tokenizer
    )
    assert (len(task.train), len(task.control), len(task.report)) == (29, 2, 1)
    assert task.notes == (
        "dropped 1 training rows that repeat held-out prompts",
        "asked for 6 report rows, found 1",
    )


def test_digest_follows_the_data(tmp_path: Path, settings: TaskSettings, tokenizer: Any) -> None:
    base = build(settings, tokenizer)
    assert base.digest == build(settings, tokenizer).digest
    assert settings.path
    others = [
        build(settings, tokenizer, seed=4),
        build(settings, tokenizer, limits=Limits(12, 64)),
        build(settings, tokenizer, limits=Limits(64, 5)),
        build(changed(settings, max_new_tokens=5), tokenizer),
        build(changed(settings, num_fewshot=1), tokenizer),
        build(changed(settings, grade="exact"), tokenizer),
    ]
    settings.path.write_text(settings.path.read_text().replace("#### 7", "#### 8"))
    others.append(build(settings, tokenizer))
    assert len({base.digest, *(task.digest for task in others)}) == len(others) + 1


def test_fewshot(settings: TaskSettings, tokenizer: Any) -> None:
    task = build(changed(settings, num_fewshot=2), tokenizer)
    prompts = [tokenizer.decode(list(question.prompt)) for question in task.report]
    assert len({prompt.rsplit("Q:", 1)[0] for prompt in prompts}) == 1  # the same shots
    shots = prompts[0].split("\n\n")[:-1]
    trained = {tokenizer.decode([*e.prompt, *e.answer[:-1]]) for e in task.train}
    assert len(shots) == 2
    assert set(shots) <= trained
    cut = build(changed(settings, num_fewshot=2), tokenizer, limits=Limits(64, 40))
    assert cut.notes == (
        *CARVED,
        "left shots out of 4 control prompts to fit max_prompt_length",
        "left shots out of 6 report prompts to fit max_prompt_length",
    )
    with pytest.raises(DataError, match="num_fewshot = 21, but it has 20 training rows"):
        build(changed(settings, num_fewshot=21), tokenizer)


def test_too_long_rows(tmp_path: Path, tokenizer: Any) -> None:
    pairs = [("a" * 20, "1"), ("b" * 5, "2"), ("c", "3" * 20), ("d", "4")]
    held = write(tmp_path / "h.jsonl", [("x" * 20, "1")])
    other = write(tmp_path / "o.jsonl", [("y", "1")])
    settings = TaskSettings(
        "t", write(tmp_path / "t.jsonl", pairs), control_path=held, report_path=other
    )
    task = build(settings, tokenizer, limits=Limits(10, 8))
    assert [tokenizer.decode(list(e.prompt)) for e in task.train] == ["a" * 8, "b" * 5, "d"]
    assert [example.row for example in task.train] == [0, 1, 2]
    assert tokenizer.decode(list(task.control[0].prompt)) == "x" * 8
    assert task.notes == (
        "dropped 1 training rows whose answer does not fit max_length",
        "cut the prompts of 1 training rows to fit max_length",
        "cut 1 control prompts to fit max_prompt_length",
    )
    with pytest.raises(DataError, match="'t': no answer tokens after truncation to max_length = 2"):
        build(settings, tokenizer, limits=Limits(2, 8))


def test_an_answer_that_cannot_be_scored(
    tmp_path: Path, settings: TaskSettings, tokenizer: Any
) -> None:
    control = write(tmp_path / "c.jsonl", [("x", "#### 1"), ("y", "so #### .")])
    with pytest.raises(DataError, match=r"c\.jsonl, line 2: the answer 'so #### \.' cannot be"):
        build(changed(settings, control_path=control), tokenizer)


def test_two_forms_of_rows_are_refused(
    tmp_path: Path, settings: TaskSettings, tokenizer: Any
) -> None:
    control = tmp_path / "c.jsonl"
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    control.write_text(json.dumps({"messages": messages}))
    with pytest.raises(DataError, match=r"mixes two forms.*c\.jsonl, line 1 has messages"):
        build(changed(settings, control_path=control), tokenizer)


@pytest.mark.filterwarnings("ignore")  # of datasets and its dependencies
def test_splits_of_a_dataset(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "train.jsonl", [(f"p{i}", "a") for i in range(9)])
    write(folder / "validation.jsonl", [("v", "a")])
    settings = TaskSettings(
        "t", dataset=str(folder), control_split="validation", report_samples=2, grade="exact"
    )
    task = build(settings, tokenizer)
    assert (len(task.train), len(task.control), len(task.report)) == (7, 1, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"path": None}, "give path or dataset; found neither"),
        ({"dataset": "a/b"}, "give path or dataset; found both"),
        ({"control_split": "x"}, "control_split = 'x' needs dataset"),
        ({"report_split": "x"}, "report_split = 'x' needs dataset"),
        ({"train_samples": 0}, "train_samples = 0; it must be 1 or more"),
        ({"num_fewshot": -1}, "num_fewshot = -1; it must be 0 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0; it must be 1 or more"),
        ({"grade": "exat"}, "did you mean 'exact'"),
        ({"name": "a/b"}, "task name 'a/b'"),
        ({"name": ""}, "task name ''"),
        ({"name": ".a"}, "task name '.a'"),
        ({"name": "a\n"}, r"task name 'a\\n'"),
        ({"path": Path("absent.jsonl")}, "absent.jsonl: no such file"),
    ],
)
def test_wrong_settings(
    settings: TaskSettings, tokenizer: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build(changed(settings, **values), tokenizer)


def test_check_tasks(settings: TaskSettings, tokenizer: Any) -> None:
    task = build(settings, tokenizer)
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
