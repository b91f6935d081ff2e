"""Which runs a study needs, and what recipes it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from msft_lite.errors import RecipeError
from msft_lite.recipe import MsftTable, SftTable
from msft_lite.recipe.studies import PLANS, StudyOptions, load_study

SMALL = """
output_dir = "out"
tasks = [
  { name = "add", path = "add.jsonl" },
  { name = "sub", path = "sub.jsonl", train_samples = 10 },
  { name = "mul", path = "mul.jsonl" },
]
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


def test_a_study_has_a_folder_in_the_recipes_own_and_its_runs_in_that(small: Path) -> None:
    folder, variants = load_study("loss", small)
    assert folder == Path.cwd() / "out" / "loss"
    assert [v.label for v in variants] == ["sft", "msft"]
    assert [v.recipe.output_dir for v in variants] == [folder / "sft", folder / "msft"]
    elsewhere, _ = load_study("loss", small, output_dir=small.parent / "there")
    assert elsewhere == small.parent / "there" / "loss"


def test_epochs_go_to_the_baselines_and_the_recipes_options_to_their_method(small: Path) -> None:
    _, (sft, msft) = load_study("decomposition", small, options=StudyOptions(epochs=4))
    assert isinstance(sft.recipe.method, SftTable)
    assert isinstance(msft.recipe.method, MsftTable)
    assert (sft.recipe.method.epochs, sft.recipe.method.signal) == (4, "loss")
    assert (msft.recipe.method.budget, msft.recipe.method.signal) == (2, "loss")
    _, (sft,) = load_study("heterogeneity", small)
    assert isinstance(sft.recipe.method, SftTable)
    assert sft.recipe.method.epochs == 10


def test_a_budget_is_a_run_and_keeps_the_other_options(small: Path) -> None:
    _, variants = load_study(
        "budget", small, overrides=["method.start_counts=false"], options=StudyOptions(None, (1, 4))
    )
    assert [v.label for v in variants] == ["sft", "msft-budget-1", "msft-budget-4"]
    methods = [v.recipe.method for v in variants[1:]]
    assert [m.budget for m in methods if isinstance(m, MsftTable)] == [1, 4]
    assert [m.start_counts for m in methods if isinstance(m, MsftTable)] == [False, False]


def test_scale_crosses_half_and_all_of_tasks_and_rows(small: Path) -> None:
    _, variants = load_study("scale", small, overrides=["data.train_samples=20"])
    assert [v.label for v in variants] == [
        f"{cell}/{method}"
        for cell in ("1-tasks-10-rows", "1-tasks-20-rows", "3-tasks-25-rows", "3-tasks-50-rows")
        for method in ("sft", "msft")
    ]
    rows = [{task.name: task.train_samples for task in v.recipe.tasks} for v in variants[::2]]
    assert rows == [
        {"add": 10}, {"add": 20},
        {"add": 10, "sub": 5, "mul": 10}, {"add": 20, "sub": 10, "mul": 20},
    ]  # fmt: skip


def test_granularity_needs_a_divided_task(small: Path) -> None:
    with pytest.raises(
        RecipeError, match=r'no task of \[tasks\] is divided: write split_by = "COL'
    ):
        load_study("granularity", small)
    _, variants = load_study("granularity", small, overrides=["tasks.add.split_by=kind"])
    assert [v.label for v in variants] == ["sft", "ies", "msft"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"data\.train_samples=N, 2 or more \(task 'add' has None\)"),
        (["data.train_samples=1"], r"2 or more \(task 'add' has 1\)"),
        (['tasks=[{name = "add", path = "add.jsonl"}]'], "there is one entry; give two or more"),
    ],
)
def test_scale_says_what_it_lacks(small: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_study("scale", small, overrides=overrides)


@pytest.mark.parametrize("key", ["methods", "seeds"])
def test_keys_of_a_comparison_are_not_ignored(small: Path, key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: a study chooses .* take it out by {key}="):
        load_study("loss", small, overrides=[f"{key}=[1]"])


@pytest.mark.parametrize("name", PLANS)
def test_a_broken_recipe_is_told_as_by_a_run(small: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="tasks"):
        load_study(name, small, overrides=["tasks=[1, 2]"])
    with pytest.raises(RecipeError, match="lerning_rate"):
        load_study(name, small, overrides=["train.lerning_rate=1"])
