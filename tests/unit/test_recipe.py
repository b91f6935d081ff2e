"""Recipes: what is accepted, how it is resolved, and what every refusal says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msft_lite.core import Clock
from msft_lite.methods import build_method
from msft_lite.recipe import MsftTable, SftTable, digest, dump_toml, json_schema, load, samples

SMALL = """
[model]
name_or_path = "Qwen/Qwen2.5-0.5B"
[[tasks]]
name = "add"
path = "add.jsonl"
[[tasks]]
name = "sort"
path = "sort.jsonl"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_defaults_are_resolved(small: Path) -> None:
    recipe = load(small)
    assert recipe.output_dir == Path.cwd() / "runs" / "small"
    assert recipe.seed == 20
    assert recipe.train.learning_rate == 2e-4
    assert recipe.method == MsftTable()
    assert [task.path for task in recipe.tasks] == [
        small.parent / "add.jsonl",
        small.parent / "sort.jsonl",
    ]


@pytest.mark.parametrize(("tuning", "rate"), [("lora", 2e-4), ("full", 1e-5)])
def test_learning_rate_follows_the_tuning_unless_given(
    small: Path, tuning: str, rate: float
) -> None:
    assert load(small, [f"model.tuning={tuning}"]).train.learning_rate == rate
    given = [f"model.tuning={tuning}", "train.learning_rate=3e-4"]
    assert load(small, given).train.learning_rate == 3e-4


def test_paths_are_relative_to_the_recipe_and_keep_the_name_of_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    (folder / "base").mkdir(parents=True)
    (tmp_path / "python").symlink_to("/bin/sh")
    path = folder / "r.toml"
    path.write_text(
        'output_dir = "../out"\n[engine]\npython = "../python"\n'
        '[model]\nname_or_path = "base"\n[[tasks]]\nname = "a"\npath = "/data/a.jsonl"\n'
    )
    recipe = load(path)
    assert recipe.output_dir == Path.cwd().parent / "out"
    assert recipe.model.name_or_path == str(folder / "base")
    assert recipe.engine.python == tmp_path / "python"
    assert recipe.tasks[0].path == Path("/data/a.jsonl")


def test_loads_the_same_from_any_working_folder_but_for_the_output(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load(small)
    monkeypatch.chdir(small.parent)
    there = load(Path("small.toml"))
    assert there.output_dir == small.parent / "runs" / "small"
    assert there.model_copy(update={"output_dir": here.output_dir}) == here


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("gpt2", "gpt2"),
        ("./missing", "{folder}/missing"),
        ("/missing/model", "/missing/model"),
    ],
)
def test_model_is_a_folder_or_a_hub_name(small: Path, name: str, expected: str) -> None:
    recipe = load(small, [f"model.name_or_path={name}"])
    assert recipe.model.name_or_path == expected.format(folder=small.parent)


def test_dump_loads_again_as_an_equal_recipe(small: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, overrides in enumerate(
        (
            [],
            ["model.tuning=full"],
            ["method.name=sft"],
            ["method.detector=significant", "method.alpha=0.1"],
            ['model.lora_target_modules=["q_proj", "v_proj"]', "engine.python=./bin/python"],
            ["tasks.sort.num_fewshot=0", "tasks.add.grade=exact", "data.train_samples=7"],
            ["tasks.sort.columns={question = 'stem'}", "eval.metric=metrics.py:score"],
            ["tasks.add.grade=regex", r"tasks.add.grade_pattern='(\d+)$'", "tasks.add.metric=f1"],
            ["tasks=['boolq', {preset = 'gsm8k', name = 'g', split_by = 'x'}]", "data.dir=rows"],
            ["data.chat_template=t.jinja", "data.cache_dir=c", "model.load_in_4bit=true"],
            ["eval.metric=loss", "eval.steer_on=report", "method.signal=loss"],
            ["model.gradient_checkpointing=3", "model.activation_offload=true"],
            ["engine.name=torch"],
        )
    ):
        recipe = load(small, overrides)
        copy = elsewhere / f"{number}.toml"
        copy.write_text(dump_toml(recipe))
        assert load(copy) == recipe
        assert digest(load(copy)) == digest(recipe)


@given(
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(1e-300, 1.0),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True),
    revision=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_dump_keeps_every_value(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rate: float, name: str, revision: str
) -> None:
    folder = tmp_path_factory.mktemp("dump")
    (folder / "r.toml").write_text(SMALL.replace('"add"', json.dumps(name + "x")))
    overrides = [f"seed={seed}", f"train.learning_rate={rate!r}"]
    recipe = load(folder / "r.toml", overrides)
    model = recipe.model.model_copy(update={"revision": revision})
    recipe = recipe.model_copy(update={"model": model})
    (folder / "again.toml").write_bytes(dump_toml(recipe).encode())
    assert load(folder / "again.toml") == recipe


@pytest.mark.parametrize(
    "override",
    [
        "output_dir=/elsewhere",
        "tasks.add.path=/moved/add.jsonl",
        "engine.python=/opt/python",
        "engine.max_num_seqs=8",
        "engine.start_timeout_seconds=5",
        "eval.at=end",
        "data.cache_dir=/elsewhere",
        "data.chat_template=/elsewhere/chat.jinja",
        "model.gradient_checkpointing=true",
        "model.gradient_checkpointing=auto",
        "train.auto_micro_batch=true",
    ],
)
def test_digest_ignores_what_does_not_change_results(small: Path, override: str) -> None:
    assert digest(load(small, [override])) == digest(load(small))


@pytest.mark.parametrize(
    "override",
    [
        "seed=21",
        "model.name_or_path=Qwen/Qwen3-0.6B",
        "train.learning_rate=1e-4",
        "method.budget=1",
        "method.name=sft",
        "eval.marks_per_epoch=2",
        "tasks.add.num_fewshot=1",
        "tasks.add.name=plus",
        "engine.name=torch",
        "data.train_samples=3",
        "data.on_too_long=drop",
        "data.apply_chat_template=true",
        "eval.metric=metrics.py:score",
        "eval.steer_on=report",
        "method.signal=loss",
        "model.load_in_4bit=true",
        "tasks.add.columns={answer = 'key'}",
        "tasks.add.split_by=subject",
    ],
)
def test_digest_tells_what_changes_results(small: Path, override: str) -> None:
    assert digest(load(small, [override])) != digest(load(small))


def test_digest_knows_the_rows_of_a_step_and_not_those_of_a_pass(small: Path) -> None:
    steps = (
        ["train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=16"],
        ["train.per_device_train_batch_size=4"],
    )
    same, other = (digest(load(small, changes)) for changes in steps)
    assert same == digest(load(small))
    assert other != same


def test_digest_of_all_seeds_leaves_out_nothing_else(small: Path) -> None:
    of_all = digest(load(small), seed=False)
    assert of_all == digest(load(small, ["seed=21"]), seed=False)
    assert of_all != digest(load(small))
    assert of_all != digest(load(small, ["train.max_length=9"]), seed=False)


def test_digest_ignores_where_the_model_folder_is(small: Path) -> None:
    one, other = (load(small, [f"model.name_or_path=/{name}"]) for name in ("a", "b"))
    assert digest(one) == digest(other)


def test_digest_knows_a_metric_by_file_and_function_not_by_folder(small: Path) -> None:
    one, other, third = (
        load(small, [f"eval.metric={metric}"])
        for metric in ("/a/m.py:score", "/b/m.py:score", "/a/m.py:other")
    )
    assert digest(one) == digest(other)
    assert digest(one) != digest(third)


def test_overrides_are_toml_values_or_bare_words(small: Path) -> None:
    recipe = load(
        small,
        [
            "method.start_counts=false",
            "engine.name=torch",
            'tasks.sort.path="b=c.jsonl"',
            "tasks.0.path=x.jsonl",
            "model.revision=main # no comment",
        ],
    )
    assert isinstance(recipe.method, MsftTable)
    assert recipe.method.start_counts is False
    assert recipe.engine.name == "torch"
    assert recipe.tasks[1].path == small.parent / "b=c.jsonl"
    assert recipe.tasks[0].path == small.parent / "x.jsonl"
    assert recipe.model.revision == "main # no comment"


def test_an_empty_override_takes_the_key_out(small: Path) -> None:
    small.write_text(SMALL.replace("[[tasks]]", "[method]\nbudget = 5\n[[tasks]]", 1))
    assert load(small, ["method.budget="]).method == MsftTable()
    assert load(small, ["method.budget=", "method.name=sft"]).method == SftTable(name="sft")


def test_a_task_named_like_an_index_is_found_by_its_name(small: Path) -> None:
    small.write_text(SMALL.replace('"sort"', '"0"'))
    recipe = load(small, ["tasks.0.path=named.jsonl"])
    assert recipe.tasks[1].path == small.parent / "named.jsonl"


def test_method_tables_are_the_options_of_the_methods() -> None:
    clock = Clock({"a": 8}, batch_rows=4)
    for table in (MsftTable(), SftTable(name="sft")):
        method = build_method(table.name, clock, table.model_dump(exclude={"name", "signal"}))
        assert next(method).mixture.tasks == ("a",)


def test_samples_prefer_the_task(small: Path) -> None:
    recipe = load(small, ["data.train_samples=9", "tasks.add.train_samples=5"])
    assert samples(recipe, recipe.tasks[0]) == (5, None, None)
    assert samples(recipe, recipe.tasks[1]) == (9, None, None)


def test_recipes_are_frozen(small: Path) -> None:
    recipe = load(small)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_byte_order_mark_and_windows_lines_are_fine(small: Path) -> None:
    plain = load(small)
    small.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load(small) == plain


def test_schema_describes_every_key() -> None:
    schema = json_schema()
    assert set(schema["properties"]) >= {"model", "train", "method", "tasks", "output_dir"}
    assert schema["properties"]["extends"]["anyOf"][0]["type"] == "string"
    assert schema["properties"]["tasks"]["items"]["anyOf"][0]["type"] == "string"
    assert not any("required" in schema["$defs"][t] for t in ("TaskTable", "ModelTable"))
    for table in schema["$defs"].values():
        assert table["additionalProperties"] is False
        assert all(key.get("description") for key in table["properties"].values())
