"""The recipes of the repository: all load, and those of the paper hold its setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msft_lite.data.tasks import PRESETS
from msft_lite.recipe import ALL_METHODS, MsftTable, Recipe, load, load_several

ROOT = Path(__file__).parents[2] / "recipes"
PAPER = ROOT / "paper"
SHARED = {PAPER / "tasks.toml"}  # laid under recipes, and none itself
FILES = sorted(ROOT.rglob("*.toml"))
COMPARISONS = {ROOT / "quickstart_compare.toml"}  # of several runs each
RECIPES = [path for path in FILES if path not in SHARED | COMPARISONS]
MOST_LINES = 35
STEERED_AS_IN_THE_PAPER = (
    "eval.steer_on=report",
    "data.control_samples=",
    "data.report_samples=200",
)
# Base models of the paper, and the recipe of each that fits a GPU of 24 GB.
BASES = {
    "olmo2_1b": ("allenai/OLMo-2-0425-1B", "olmo2_1b_lora"),
    "qwen2_5_0_5b": ("Qwen/Qwen2.5-0.5B", "qwen2_5_0_5b_lora"),
    "qwen2_5_1_5b": ("Qwen/Qwen2.5-1.5B", "qwen2_5_1_5b_lora"),
    "qwen2_5_3b": ("Qwen/Qwen2.5-3B", "qwen2_5_3b_lora"),
    "qwen2_5_7b": ("Qwen/Qwen2.5-7B", "qwen2_5_7b_qlora"),
    "qwen3_8b": ("Qwen/Qwen3-8B-Base", "qwen3_8b_qlora"),
}


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_loads_with_every_method_of_the_paper(path: Path) -> None:
    variants = load_several(path)
    assert tuple(variant.label for variant in variants) == ALL_METHODS
    for variant in variants:
        assert all(task.path and task.path.is_file() for task in variant.recipe.tasks)


def recipe_of(name: str, *overrides: str) -> Recipe:
    return load(PAPER / f"{name}.toml", overrides)


def batch_rows(recipe: Recipe) -> int:
    return recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps


def tables(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"output_dir"})


def test_the_folder_holds_the_quickstart_and_the_papers_models() -> None:
    assert ROOT / "quickstart.toml" in RECIPES
    names = {name for base, (_, twin) in BASES.items() for name in (base, twin)}
    assert {path.stem for path in RECIPES if path.parent == PAPER} == names


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_its_presets_exist(path: Path) -> None:
    presets = {task.preset for task in load(path).tasks} - {None}
    assert presets <= set(PRESETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", BASES)
def test_the_papers_setting(name: str) -> None:
    """Koh et al., arXiv 2603.21606, and the authors' code: what every run of theirs shares."""
    recipe = recipe_of(name)
    assert recipe.model.name_or_path == BASES[name][0]
    assert (recipe.model.tuning, recipe.model.dtype) == ("full", "bfloat16")
    assert recipe.method == MsftTable(budget=3)
    assert recipe.seed == 20

    assert len(recipe.tasks) == 10
    assert len(recipe.tasks) * (recipe.data.train_samples or 0) == 18_000

    train = recipe.train
    assert batch_rows(recipe) == 64
    assert (train.learning_rate, train.weight_decay, train.max_grad_norm) == (1e-5, 0.0, 0.0)
    assert (train.warmup_steps, train.max_length) == (0, 512)

    assert (recipe.eval.num_fewshot, recipe.eval.marks_per_epoch) == (5, 4)
    assert (recipe.eval.max_prompt_length, recipe.eval.max_new_tokens) == (700, 512)


@pytest.mark.parametrize("name", BASES)
def test_the_papers_way_to_steer_is_told_and_loads(name: str) -> None:
    assert " ".join(STEERED_AS_IN_THE_PAPER) in (PAPER / "tasks.toml").read_text()
    recipe = recipe_of(name, *STEERED_AS_IN_THE_PAPER)
    assert (recipe.eval.steer_on, recipe.data.report_samples) == ("report", 200)
    assert recipe_of(name).eval.steer_on == "control"


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("change", ["train.bf16_update=nearest", "train.optim=adamw_8bit"])
def test_other_updates_are_told_and_load(name: str, change: str) -> None:
    assert change in (PAPER / "tasks.toml").read_text()
    assert recipe_of(name).train.bf16_update is None
    assert recipe_of(name, change) != recipe_of(name)


@pytest.mark.parametrize("name", BASES)
def test_the_smaller_recipe_differs_in_model_and_training_alone(name: str) -> None:
    full, small = recipe_of(name), recipe_of(BASES[name][1])
    ours, theirs = tables(small), tables(full)
    assert {table for table in ours if ours[table] != theirs[table]} == {"model", "train"}
    assert small.model.name_or_path == full.model.name_or_path
    assert small.model.tuning == "lora"
    assert small.model.load_in_4bit == BASES[name][1].endswith("_qlora")
    assert small.train.learning_rate == 2e-4
    assert batch_rows(small) == 64
