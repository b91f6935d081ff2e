"""Recipes for several runs: which runs they describe, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from msft_lite.errors import RecipeError
from msft_lite.recipe import ALL_METHODS, METHOD_TABLES, MsftTable, load, load_several

SMALL = """
output_dir = "out"
tasks = [{ name = "add", path = "add.jsonl" }]
[model]
name_or_path = "base"
[method]
name = "msft"
budget = 2
signal = "loss"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_all_methods_of_the_paper_are_run_where_none_are_named(small: Path) -> None:
    variants = load_several(small)
    assert tuple(v.label for v in variants) == ALL_METHODS
    assert [v.recipe.method.name for v in variants] == list(ALL_METHODS)
    assert [v.recipe.output_dir for v in variants] == [Path.cwd() / "out" / n for n in ALL_METHODS]
    assert set(ALL_METHODS) < set(METHOD_TABLES)


def test_options_go_to_their_method_and_the_signal_to_all(small: Path) -> None:
    sft, msft, other = load_several(
        small, ['methods=["sft", "msft", {name = "msft", detector = "significant", budget = 1}]']
    )
    assert sft.recipe.method.signal == msft.recipe.method.signal == "loss"
    assert isinstance(msft.recipe.method, MsftTable)
    assert msft.recipe.method.budget == 2
    assert other.label == "msft-detector-significant-budget-1"
    assert isinstance(other.recipe.method, MsftTable)
    assert (other.recipe.method.budget, other.recipe.method.detector) == (1, "significant")


def test_every_seed_has_a_folder_of_its_own(small: Path) -> None:
    variants = load_several(small, ['methods=["sft", "msft"]', "seeds=[7, 8]"])
    assert [(v.label, v.recipe.seed) for v in variants] == [
        ("sft", 7), ("msft", 7), ("sft", 8), ("msft", 8),
    ]  # fmt: skip
    assert variants[3].recipe.output_dir == Path.cwd() / "out" / "msft" / "seed-8"


def test_paths_of_every_variant_are_those_of_the_recipe(small: Path) -> None:
    for variant in load_several(small):
        assert variant.recipe.tasks[0].path == small.parent / "add.jsonl"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('methods=["sftt"]', "did you mean 'sft'?"),
        ("methods=sft", "a list of names, or of tables"),
        ("methods=[]", "a list of names, or of tables"),
        ("methods=[{budget = 1}]", "a list of names, or of tables"),
        ('methods=["sft", "sft"]', "names one twice"),
        ('methods=[{name = "sft", budget = 1}]', "method.budget"),
        ("seeds=[1, 1]", "different whole numbers"),
        ("seeds=[true]", "different whole numbers"),
        ("seeds=3", "different whole numbers"),
        ("seeds=[-1]", "seed = -1"),
    ],
)
def test_refusals(small: Path, change: str, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_several(small, [change])
    assert told in str(error.value)


@pytest.mark.parametrize("change", ['methods=["sft"]', "seeds=[1]"])
def test_a_run_refuses_what_is_for_several(small: Path, change: str) -> None:
    with pytest.raises(RecipeError, match="msft-lite compare"):
        load(small, [change])
