"""Recipes laid over other files: what counts, whose folder paths belong to, what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from msft_lite.errors import RecipeError
from msft_lite.recipe import MsftTable, Recipe, SftTable, digest, dump_toml, load

MODEL = '[model]\nname_or_path = "gpt2"\n'
TASKS = 'tasks = ["a"]\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, so that messages show short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, content: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content)
    return Path(path)


def refusal(path: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(Path(path), overrides)
    return str(caught.value)


def test_tables_are_merged_key_by_key_and_tasks_replaced_as_a_whole() -> None:
    write(
        "below.toml", "seed = 1\n" + TASKS + "[train]\nmax_length = 9\nwarmup_steps = 2\n" + MODEL
    )
    write("above.toml", 'extends = "below.toml"\ntasks = ["b"]\n[train]\nmax_length = 8\n')
    recipe = load(Path("above.toml"))
    assert recipe.seed == 1
    assert (recipe.train.max_length, recipe.train.warmup_steps) == (8, 2)
    assert recipe.model.name_or_path == "gpt2"
    assert [task.name for task in recipe.tasks] == ["b"]
    assert recipe.output_dir.name == "above"


def test_the_later_of_several_files_counts_and_overrides_count_most() -> None:
    write("one.toml", "seed = 1\n" + TASKS + MODEL)
    write("two.toml", "seed = 2\n[eval]\nnum_fewshot = 2\nmarks_per_epoch = 2\n")
    write("r.toml", 'extends = ["one.toml", "two.toml"]\n[eval]\nnum_fewshot = 3\n')
    recipe = load(Path("r.toml"), ["eval.marks_per_epoch=5"])
    assert recipe.seed == 2
    assert (recipe.eval.num_fewshot, recipe.eval.marks_per_epoch) == (3, 5)


def test_a_file_that_is_extended_twice_stands_at_its_first_place() -> None:
    write("shared.toml", "[train]\nmax_length = 9\nwarmup_steps = 1\n" + MODEL)
    write("long.toml", 'extends = "shared.toml"\n[train]\nmax_length = 90\n')
    write("warm.toml", 'extends = "shared.toml"\n[train]\nwarmup_steps = 10\n')
    write("r.toml", 'extends = ["long.toml", "warm.toml"]\n' + TASKS)
    recipe = load(Path("r.toml"))
    assert (recipe.train.max_length, recipe.train.warmup_steps) == (90, 10)


def test_a_method_of_another_name_replaces_the_whole_table() -> None:
    write("below.toml", TASKS + MODEL + "[method]\nbudget = 5\n")
    cases = {
        '[method]\nname = "sft"\nepochs = 2\n': SftTable(name="sft", epochs=2),
        '[method]\nname = "msft"\nmax_stages = 2\n': MsftTable(budget=5, max_stages=2),
        "[method]\nmax_stages = 2\n": MsftTable(budget=5, max_stages=2),
    }
    for content, expected in cases.items():
        write("above.toml", 'extends = "below.toml"\n' + content)
        assert load(Path("above.toml")).method == expected


def test_every_path_is_relative_to_the_file_it_stands_in(folder: Path) -> None:
    (folder / "shared" / "base").mkdir(parents=True)
    write(
        "shared/below.toml",
        'tasks = ["gsm8k", { name = "own", path = "own.jsonl", report_path = "../r.jsonl", '
        'metric = "m.py:score" }]\n'
        '[model]\nname_or_path = "base"\n[engine]\npython = "python"\n'
        '[data]\ndir = "rows"\ncache_dir = "/cache"\nchat_template = "chat.jinja"\n'
        '[eval]\nmetric = "n.py:score"\n',
    )
    write("runs/above.toml", 'extends = "../shared/below.toml"\n[data]\ncache_dir = "mine"\n')
    recipe = load(Path("runs/above.toml"), ["tasks.own.control_path=held/out.jsonl"])
    shared = folder / "shared"
    assert recipe.model.name_or_path == str(shared / "base")
    assert recipe.engine.python == shared / "python"
    assert (recipe.data.dir, recipe.data.chat_template) == (shared / "rows", shared / "chat.jinja")
    assert recipe.data.cache_dir == folder / "runs" / "mine"
    assert recipe.eval.metric == f"{shared / 'n.py'}:score"
    own = recipe.tasks[1]
    assert (own.path, own.report_path) == (shared / "own.jsonl", folder / "r.jsonl")
    assert own.control_path == folder / "runs" / "held" / "out.jsonl"
    assert own.metric == f"{shared / 'm.py'}:score"
    assert same_when_dumped(recipe, folder / "elsewhere" / "dumped.toml")


def same_when_dumped(recipe: Recipe, path: Path) -> bool:
    write(str(path), dump_toml(recipe))
    assert "extends" not in tomllib.loads(path.read_text())
    return load(path) == recipe and digest(load(path)) == digest(recipe)


def test_problems_name_the_file_that_brought_the_key() -> None:
    write("shared/below.toml", "[train]\nmax_length = 0\nlernrate = 1\n" + MODEL)
    write("r.toml", 'extends = "shared/below.toml"\ntasks = ["a", 3]\n[eval]\nat = "now"\n')
    message = refusal("r.toml", "train.warmup_steps=-1")
    assert message.startswith("r.toml: 5 problems\n")
    for line in (
        "train.max_length = 0 (in shared/below.toml): must be at least 2",
        "train.lernrate = 1 (in shared/below.toml): unknown key",
        "train.warmup_steps = -1 (from the command line): must be at least 0",
        'eval.at = "now": must be one of',
        "tasks.1 = 3: a table of keys is needed",
    ):
        assert f"\n  {line}" in message


CHAINS = {
    "missing": ('extends = "none.toml"', "r.toml extends a.toml extends none.toml: no such file"),
    "cycle": ('extends = "r.toml"', "r.toml extends a.toml extends r.toml: a file cannot extend"),
    "itself": ('extends = "./a.toml"', "r.toml extends a.toml extends a.toml: a file cannot"),
    "no TOML": ("extends = [", "r.toml extends a.toml: not valid TOML"),
    "folder": ('extends = "."', "r.toml extends a.toml extends .: cannot read the recipe"),
    "number": ("extends = 3", "r.toml extends a.toml: extends = 3: needed is the name"),
    "list of numbers": ("extends = [3]", "extends = [3]: needed is the name"),
    "empty name": ('extends = ""', "extends = '': needed is the name"),
    "null": ('extends = "a\\u0000"', "needed is the name"),
}


@pytest.mark.parametrize("case", CHAINS)
def test_refusals_name_the_chain(case: str) -> None:
    content, fragment = CHAINS[case]
    write("r.toml", 'extends = "a.toml"\n' + TASKS + MODEL)
    write("a.toml", content)
    assert fragment in refusal("r.toml")


def test_a_loop_of_links_is_no_traceback() -> None:
    Path("loop.toml").symlink_to("loop.toml")
    write("r.toml", 'extends = "loop.toml"\n')
    assert "r.toml extends loop.toml: cannot read the recipe" in refusal("r.toml")
    assert "loop.toml: cannot read the recipe" in refusal("loop.toml")
