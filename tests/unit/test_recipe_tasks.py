"""Tasks of a recipe as names and tables, and keys that need one another across tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from msft_lite.errors import RecipeError
from msft_lite.recipe import Recipe, TaskTable, load

MODEL = '[model]\nname_or_path = "gpt2"\n'
OWN = '{ name = "own", path = "x.jsonl" }'


def read(folder: Path, tasks: str, *overrides: str, tables: str = MODEL) -> Recipe:
    path = folder / "r.toml"
    path.write_text(f"tasks = {tasks}\n{tables}")
    return load(path, overrides)


def refusal(folder: Path, tasks: str, *overrides: str, tables: str = MODEL) -> str:
    with pytest.raises(RecipeError) as caught:
        read(folder, tasks, *overrides, tables=tables)
    return str(caught.value)


FORMS = {
    '"gsm8k"': TaskTable(name="gsm8k", preset="gsm8k"),
    '{ name = "gsm8k" }': TaskTable(name="gsm8k", preset="gsm8k"),
    '{ preset = "gsm8k" }': TaskTable(name="gsm8k", preset="gsm8k"),
    '{ name = "sums", preset = "gsm8k" }': TaskTable(name="sums", preset="gsm8k"),
    '{ name = "own", path = "/x.jsonl" }': TaskTable(name="own", path=Path("/x.jsonl")),
    '{ name = "own", dataset = "a/b", split = "s" }': TaskTable(
        name="own", dataset="a/b", split="s"
    ),
}


@pytest.mark.parametrize("text", FORMS)
def test_every_form_of_a_task_becomes_an_explicit_table(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"[{text}]").tasks == (FORMS[text],)


@pytest.mark.parametrize("tasks", ['["gsm8k", "boolq"]', '[{ preset = "gsm8k" }, "boolq"]'])
def test_an_override_names_a_task_that_is_given_as_a_text(tmp_path: Path, tasks: str) -> None:
    recipe = read(tmp_path, tasks, "tasks.gsm8k.split_by=subject", "tasks.1.name=yes_no")
    assert [task.split_by for task in recipe.tasks] == ["subject", None]
    assert [(task.name, task.preset) for task in recipe.tasks] == [
        ("gsm8k", "gsm8k"),
        ("yes_no", "boolq"),
    ]


def test_an_override_may_bring_tasks_and_change_them(tmp_path: Path) -> None:
    recipe = read(tmp_path, '["a"]', 'tasks=["b", "c"]', "tasks.c.num_fewshot=2")
    assert [(task.name, task.num_fewshot) for task in recipe.tasks] == [("b", None), ("c", 2)]


# Tasks, and what the refusal says.
REFUSED_TASKS = {
    '["gsm8k", "GSM8K"]': "tasks.1.name = \"GSM8K\": tasks.0 is called 'gsm8k' already",
    '["no name"]': 'tasks.0.name = "no name": must be letters, digits',
    '[""]': "must be letters, digits",
    "[{ path = 'x.jsonl' }]": "tasks.0.name: is missing; a task needs a name, or a preset",
    "[{ preset = 3 }]": "tasks.0.preset = 3: text in quotes is needed",
    '[{ name = "own", preset = "a", path = "b" }]': "a preset or a path, not both",
    '[{ name = "own", control_path = "c.jsonl" }]': "own rows are named in path",
    '[{ preset = "a", report_split = "test" }]': "a preset knows its own columns and splits",
    '[{ preset = "a", columns = { question = "q" } }]': "a preset knows its own columns",
    '[{ name = "own", path = "a", report_path = "b", report_split = "c" }]': "goes with dataset",
    '[{ name = "own", dataset = "a/b", split = "c", control_path = "d", control_split = "e" }]': (
        "control_path is there too; take one out"
    ),
    "[{ preset = 'a', grade = 'regex', grade_pattern = '(' }]": "is not a regular expression: miss",
}


@pytest.mark.parametrize("tasks", REFUSED_TASKS)
def test_refusals_of_tasks(tmp_path: Path, tasks: str) -> None:
    assert REFUSED_TASKS[tasks] in refusal(tmp_path, tasks)


def test_a_mistyped_key_is_the_one_problem_of_its_task(tmp_path: Path) -> None:
    message = refusal(tmp_path, '[{ name = "own", paht = "x.jsonl" }]')
    told = "tasks.own.paht = \"x.jsonl\": unknown key; did you mean 'path'?"
    assert message == f"{tmp_path / 'r.toml'}: {told}"


def test_a_task_whose_path_is_taken_out_is_a_preset(tmp_path: Path) -> None:
    assert read(tmp_path, f"[{OWN}]", "tasks.own.path=").tasks[0].preset == "own"


LOSS = "tasks.own.metric=loss"
LOSS_ALONE = '"loss" is the metric of all tasks or of none'
NOT_STEERING = 'has no effect with eval.steer_on = "report"; take it out'
NOT_ASKED = 'has no effect with the metric "loss"; take it out'
NOT_WRITTEN = 'has no effect with score = "logprob", which writes nothing; take it out'
# Changes to a recipe with a preset and own rows; the key at fault, and what the refusal says.
CONFLICTS = {
    (LOSS,): ("tasks.own.metric", f"{LOSS_ALONE}: 'gsm8k' has 'accuracy'"),
    ("eval.metric=loss", "tasks.own.metric=f1"): (
        "tasks.own.metric",
        f"{LOSS_ALONE}: 'gsm8k' has 'loss'",
    ),
    ("eval.metric=loss", "eval.num_fewshot=5"): ("eval.num_fewshot", NOT_ASKED),
    ("eval.metric=loss", "tasks.own.grade=exact"): ("tasks.own.grade", NOT_ASKED),
    ("eval.metric=loss", "eval.score=logprob"): ("eval.score", NOT_ASKED),
    ("eval.metric=loss", "tasks.own.score=generate"): ("tasks.own.score", NOT_ASKED),
    ("eval.score=logprob", "tasks.own.max_new_tokens=4"): (
        "tasks.own.max_new_tokens",
        NOT_WRITTEN,
    ),
    ("eval.score=logprob", "eval.max_new_tokens=4"): ("eval.max_new_tokens", NOT_WRITTEN),
    ("eval.metric=loss", "eval.fewshot_source=train"): (
        "eval.fewshot_source",
        "no task shows solved rows",
    ),
    ("eval.fewshot_source=train", "eval.num_fewshot=0"): (
        "eval.fewshot_source",
        "no task shows solved rows",
    ),
    ("eval.steer_on=report", "data.control_samples=9"): ("data.control_samples", NOT_STEERING),
    ("eval.steer_on=report", "tasks.own.control_samples=9"): (
        "tasks.own.control_samples",
        NOT_STEERING,
    ),
    ("eval.steer_on=report", "tasks.own.control_path=c"): ("tasks.own.control_path", NOT_STEERING),
    ("model.load_in_4bit=true", "model.tuning=full"): (
        "model.load_in_4bit",
        'set tuning = "lora"',
    ),
    ("model.load_in_4bit=true", "engine.share_weights=true"): (
        "engine.share_weights",
        "a base in 4 bits as the trainer holds it",
    ),
    ("model.use_dora=true", "engine.share_weights=true"): (
        "engine.share_weights",
        "a DoRA adapter as the trainer holds it",
    ),
    ("engine.name=torch", "engine.share_weights=false"): (
        "engine.share_weights",
        'has no effect with the engine "torch"',
    ),
    ("model.use_rslora=true", "model.tuning=full"): ("model.use_rslora", "has no effect"),
}


@pytest.mark.parametrize("overrides", CONFLICTS, ids=" ".join)
def test_refusals_of_keys_that_do_not_go_together(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    key, told = CONFLICTS[overrides]
    message = refusal(tmp_path, f'["gsm8k", {OWN}]', *overrides)
    assert f"r.toml: {key} = " in message
    assert told in message


@pytest.mark.parametrize(
    "overrides",
    [
        ("eval.metric=loss", "method.signal=loss"),
        (LOSS, "tasks.gsm8k.metric=loss"),
        ("eval.metric=loss", "tasks.own.metric=f1", "tasks.gsm8k.metric=m.py:score"),
        ("eval.metric=f1", "tasks.own.metric=m.py:score"),
        ("eval.score=logprob", "tasks.own.score=generate", "eval.max_new_tokens=4"),
        ("tasks.own.score=logprob", "tasks.gsm8k.max_new_tokens=4"),
        ("eval.fewshot_source=train",),
        ("eval.fewshot_source=train", "eval.num_fewshot=0", "tasks.own.num_fewshot=1"),
        ("eval.steer_on=report", "data.report_samples=200"),
        ("model.load_in_4bit=true", "engine.name=torch"),
        ("model.load_in_4bit=true",),
        ("model.load_in_4bit=true", "model.use_dora=true", "engine.name=vllm"),
        ("model.load_in_4bit=true", 'engine.share_weights="auto"'),
        ("engine.share_weights=true",),
        ("model.use_dora=true", "model.use_rslora=true", "engine.name=torch"),
        ("data.dir=rows",),
    ],
    ids=" ".join,
)
def test_keys_that_go_together(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    assert len(read(tmp_path, f'["gsm8k", {OWN}]', *overrides).tasks) == 2
