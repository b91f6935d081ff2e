"""Recipes: what is accepted, how it is resolved, and what every refusal says."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msft_lite.core import Clock
from msft_lite.errors import RecipeError
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


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, overrides)
    return str(caught.value)


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
    ],
)
def test_digest_tells_what_changes_results(small: Path, override: str) -> None:
    assert digest(load(small, [override])) != digest(load(small))


def test_digest_ignores_where_the_model_folder_is(small: Path) -> None:
    one, other = (load(small, [f"model.name_or_path=/{name}"]) for name in ("a", "b"))
    assert digest(one) == digest(other)


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
        method = build_method(table.name, clock, table.model_dump(exclude={"name"}))
        assert next(method).mixture.tasks == ("a",)


def test_samples_prefer_the_task(small: Path) -> None:
    recipe = load(small, ["data.train_samples=9", "tasks.add.train_samples=5"])
    assert samples(recipe, recipe.tasks[0]) == (5, None, None)
    assert samples(recipe, recipe.tasks[1]) == (9, None, None)


def test_recipes_are_frozen(small: Path) -> None:
    recipe = load(small)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # pyright: ignore[reportAttributeAccessIssue]


REFUSED = {
    "train.learning_rate=fast": 'train.learning_rate = "fast" (from the command line): a number',
    "train.lernrate=1": "train.lernrate = 1 (from the command line): unknown key",
    "train.learning_rat=1": "did you mean 'learning_rate'?",
    "trian.max_length=1": "did you mean 'train'?",
    "lora_r=4": "did you mean 'model.lora_r'?",
    "model.seed=4": "'seed' belongs at the top of the file",
    "tasks.sort.grad=exact": 'tasks.sort.grad = "exact" (from the command line): unknown key; did',
    "method.epochs=4": "option of method 'sft', not of 'msft'",
    "method.name=mstf": "must be one of 'msft', 'sft'; did you mean 'msft'?",
    "method.budget=0": "method.budget = 0 (from the command line): must be at least 1",
    "method.budget=1.5": "a whole number is needed",
    "method.start_counts=1": "true or false is needed",
    "method.alpha=0.1": 'no effect with detector = "peak"',
    "train.learning_rate=inf": "finite number",
    "train.learning_rate=0": "must be greater than 0",
    "train.adam_beta1=1.0": "must be less than 1",
    "model.tuning=loar": "must be one of 'lora', 'full'; did you mean 'lora'?",
    "model.revision=12": "text in quotes",
    "model.name_or_path=": "model.name_or_path (from the command line): is missing",
    "model.name_or_path=a/b/c": "no folder",
    "model.lora_target_modules=all": '"all-linear" or a list',
    "model.lora_target_modules=[1]": '"all-linear" or a list',
    "model.lora_target_modules=[q_proj]": "not a TOML value",
    "seed=-1": "must be at least 0",
    "seed=true": "a whole number is needed",
    "train=3": "a table of keys is needed",
    "method=3": "a table of keys is needed",
    "tasks=3": "a list of tables is needed",
    "tasks=": "at least one [[tasks]] table",
    "tasks=[]": "at least one [[tasks]] table",
    "tasks.sort.path=": ": needs path (a file of rows), or dataset and split",
    "tasks.sort.path=3": "tasks.sort.path = 3 (from the command line): a path in quotes",
    "tasks.sort.dataset=x": "a path or a dataset, not both",
    "tasks.sort.split=train": "goes with dataset, not with path",
    "tasks.sort.name=ADD": "tasks.0 is called 'add' already",
    "tasks.sort.name=a/b": "must be letters, digits",
    "tasks.srot.path=x": "tasks.srot: no such task; did you mean 'sort'? (tasks here: add, sort)",
    "tasks.2.path=x": "no such task",
    "tasks.0=x": "names a whole task",
    "seed.x=1": "seed is a value and has no keys",
    "seed": "is not a change; write key.path=value",
    "=3": "is not a change",
    "train..x=3": "is not a change",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refusals_of_one_change(small: Path, override: str) -> None:
    small.write_text("seed = 1\n" + SMALL)
    assert REFUSED[override] in refusal(small, override)


def test_lora_options_are_refused_only_where_they_are_written(small: Path) -> None:
    assert load(small, ["model.tuning=full"]).model.tuning == "full"
    message = refusal(small, "model.tuning=full", "model.lora_r=4")
    assert "model.lora_r = 4 (from the command line): has no effect" in message


def test_dataset_needs_a_split(small: Path) -> None:
    message = refusal(small, "tasks.add.path=", "tasks.add.dataset=owner/name")
    assert "tasks.add.split: is needed with dataset" in message


def test_all_problems_are_told_at_once(small: Path) -> None:
    message = refusal(small, "train.max_length=0", "model.lora_rank=3", "tasks.add.pth=x")
    assert message.startswith(f"{small}: 3 problems\n")
    for key in ("train.max_length", "model.lora_rank", "tasks.add.pth"):
        assert f"\n  {key} = " in message


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"seed = 1\nmodel = [\n", "at end of document"),
        (b"seed = \n", "(at line 1, column 8)"),
        (b"seed = 1\nseed = 2\n", "line 2"),
        (b"name = '\xff'", "not UTF-8 text (byte 8)"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"", "model: is missing"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(str(path))
    assert fragment in message


def test_missing_recipe_and_folder_in_its_place(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.toml")
    assert "cannot read the recipe" in refusal(tmp_path)


def test_byte_order_mark_and_windows_lines_are_fine(small: Path) -> None:
    plain = load(small)
    small.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load(small) == plain


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "r.toml"
    path.write_bytes(content)
    assert str(path) in refusal(path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
KEYS = ["seed", "model", "train", "method", "eval", "tasks", "tasks.add", "tasks.0.path", "x"]
KEYS += ["model.tuning", "method.name", "train.max_length", "engine.python", "tasks.0.name"]


@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=3))
def test_arbitrary_changes_give_a_recipe_or_a_message(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, object]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "changes.toml"
    path.write_text(SMALL)
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes]
    try:
        recipe = load(path, overrides)
    except RecipeError as error:
        assert len(str(error)) > 20
    else:
        assert tomllib.loads(dump_toml(recipe))["seed"] == recipe.seed


def test_schema_describes_every_key() -> None:
    schema = json_schema()
    assert set(schema["properties"]) >= {"model", "train", "method", "tasks", "output_dir"}
    assert schema["required"] == ["model", "tasks"]
    for table in schema["$defs"].values():
        assert table["additionalProperties"] is False
        assert all(key.get("description") for key in table["properties"].values())
