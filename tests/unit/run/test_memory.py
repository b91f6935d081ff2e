"""What `check` tells of memory: predicted from a recipe, and measured in a real step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from msft_lite.cli.memory_text import rows
from msft_lite.engine.tenancy import Tenancy
from msft_lite.model.memory.free import free_bytes
from msft_lite.model.memory.step import CONTEXT_BYTES, StepBytes, StepShape
from msft_lite.recipe import Recipe, load
from msft_lite.run.build import model_settings
from msft_lite.run.handover import may_share
from msft_lite.run.memory import (
    Forecast,
    Steps,
    change_lines,
    config_of,
    demand_of,
    forecast,
    has_weights,
    longest_step,
    measure,
    steps_of,
    tenancy_of,
)
from msft_lite.run.survey import survey

PARTS = StepBytes(4_000, 100, 100, 200, 3_000, 0, 600)
SHAPE = StepShape(rows=4, length=17, trained_tokens=7, accumulates=True)


def loaded(recipe: Path, *changes: str) -> Recipe:
    return load(recipe, [f"data.cache_dir={recipe.parent / 'cache'}", *changes])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_measured_step_takes_what_was_predicted(small_recipe: Path, tuning: str) -> None:
    changes = ["train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2"]
    if tuning == "full":
        changes += ["model.tuning=full", "model.lora_r=", "model.lora_alpha="]
    recipe = loaded(small_recipe, *changes)
    told = forecast(recipe, survey(recipe))
    assert told is not None
    assert told.shape == SHAPE  # "Q: axa\nA: " has 10 tokens, "#### k" and the end of text 7
    assert told.fits is True
    assert told.changes == ()
    assert told.engine_bytes == 0
    before = sorted(small_recipe.parent.rglob("*"))
    measured = measure(recipe, told.shape)
    assert measured.reserved_bytes is None
    # The trainer keeps the losses of the rows done, and the sum divided: some blocks of 512 bytes.
    assert measured.tensor_bytes == pytest.approx(told.parts.tensors, abs=8 * 512)
    assert sorted(small_recipe.parent.rglob("*")) == before


def test_where_it_does_not_fit_changes_are_told(small_recipe: Path) -> None:
    recipe = loaded(small_recipe)
    found = survey(recipe)
    whole = forecast(recipe, found)
    assert whole is not None
    told = forecast(recipe, found, free_of=lambda _: whole.step_bytes - 1)
    assert told is not None
    assert told.fits is False
    first = told.changes[0]
    assert first.lines == (
        "train.per_device_train_batch_size = 4",
        "train.gradient_accumulation_steps = 2",
    )
    assert first.peak_bytes < whole.step_bytes
    # What is told is what the recipe would come to.
    again = loaded(small_recipe, *(line.replace(" ", "") for line in first.lines))
    changed = forecast(again, found)
    assert changed is not None
    assert changed.step_bytes == first.peak_bytes


def test_data_with_a_problem_tells_nothing_of_memory(small_recipe: Path) -> None:
    recipe = loaded(small_recipe, "tasks.noise.train_samples=3")
    assert forecast(recipe, survey(recipe)) is None


def test_a_model_that_is_not_here_is_not_measured(small_recipe: Path) -> None:
    assert has_weights(loaded(small_recipe))
    assert not has_weights(loaded(small_recipe, "model.name_or_path=nobody/nothing"))


def test_the_longest_row_and_the_most_trained_tokens_make_the_step(small_recipe: Path) -> None:
    recipe = loaded(small_recipe)
    tasks = [found.task for found in survey(recipe).tasks if found.task]
    assert longest_step(recipe, tasks) == replace(SHAPE, rows=8, accumulates=False)


def on_gpu(recipe: Recipe, share: bool | str) -> Steps:
    """What a GPU would be asked: the recipe's steps with a GPU's settings; none is needed."""
    engine = recipe.engine.model_copy(update={"name": "vllm", "share_weights": share})
    tasks = [found.task for found in survey(recipe).tasks if found.task]
    steps = steps_of(recipe, tasks, config_of(model_settings(recipe)))
    settings = replace(steps.settings, device="cuda")
    chosen = recipe.model_copy(update={"engine": engine})
    shares = may_share(chosen, settings)
    weights = 0 if shares else steps.parts_of(steps.load).weights
    return replace(
        steps, settings=settings, shares=shares, engine_bytes=weights + 1000 + CONTEXT_BYTES
    )


@pytest.mark.parametrize(("share", "shares"), [("auto", True), (True, True), (False, False)])
def test_a_gpu_is_split_between_step_and_engine(
    small_recipe: Path, share: bool | str, shares: bool
) -> None:
    steps = on_gpu(loaded(small_recipe), share)
    demand = demand_of(steps, 10)
    parts = steps.parts_of(steps.load)
    assert (demand.cache, demand.context, demand.free) == (1000, CONTEXT_BYTES, 10)
    assert demand.weights == parts.weights
    assert demand.step + steps.held_bytes == parts.peak
    whole = parts.peak + steps.engine_bytes
    assert tenancy_of(steps, whole) == Tenancy("share" if shares else "resident")
    asleep = tenancy_of(steps, whole - 1)
    assert asleep == Tenancy("share" if shares else "sleep", 1)
    lost = tenancy_of(steps, parts.peak)
    assert lost is not None
    assert not lost.fits
    assert tenancy_of(steps, None) is None


def test_this_machine_tells_what_is_free() -> None:
    free = free_bytes("cpu")
    assert free is not None
    assert free > 0


def test_the_table_names_what_takes_something_and_adds_up() -> None:
    told = Forecast("cuda", SHAPE, PARTS, 10_000, 2_000, 11_000, ())
    assert rows(told) == (
        ("weights", "4 kB"),
        ("adapter", "100 B"),
        ("gradients", "100 B"),
        ("moments of the optimizer", "200 B"),
        ("activations", "3 kB"),
        ("backward pass", "600 B"),
        ("context, fragmentation (assumed)", "2 kB"),
        ("peak", "10 kB"),
        ("vllm beside it", "2 kB"),
        ("free now", "11 kB"),
    )
    assert told.fits is False
    (line,) = change_lines(told.changes)
    assert line.endswith("take a smaller model")
    assert replace(told, free_bytes=12_000).fits is True
    assert replace(told, free_bytes=None).fits is None
    assert rows(replace(told, free_bytes=None))[-1] == ("free now", "not known")
