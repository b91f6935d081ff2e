"""What a recipe leaves to the machine: rows of a pass, layers that are computed again, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from msft_lite.errors import ModelError, OutOfMemory, RecipeError
from msft_lite.model.memory.advice import micro_batches
from msft_lite.model.memory.step import StepBytes
from msft_lite.recipe import Recipe, load
from msft_lite.report.wording import bytes_text
from msft_lite.run.fitting import choose, settled, with_chosen
from msft_lite.run.memory import Steps, steps_found
from msft_lite.run.resuming import choice_key, choice_row, memory_row
from msft_lite.run.survey import survey

AUTO = "train.auto_micro_batch=true"
GIVEN = "train.auto_micro_batch=false"
LAYERS = "model.gradient_checkpointing=auto"
SPLITS = [(8, 1), (4, 2), (2, 4), (1, 8)]


class FullMemory(TorchDispatchMode):
    """Refuses memory to passes of more than ``tokens``, as a device does that is full."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.refused: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        is_pass = func is torch.ops.aten.embedding.default and not isinstance(args[1], FakeTensor)
        if is_pass and args[1].numel() > self.tokens:
            self.refused.append(args[1].numel())
            torch.empty(1 << 60, dtype=torch.uint8)
        return func(*args, **(kwargs or {}))


def loaded(path: Path, *changes: str) -> Recipe:
    return load(path, [f"data.cache_dir={path.parent / 'cache'}", AUTO, *changes])


def steps_for(recipe: Recipe) -> Steps:
    steps = steps_found(recipe, survey(recipe))
    assert steps is not None
    return steps


def with_rows(recipe: Recipe, rows: int) -> Recipe:
    return with_chosen(recipe, {"per_device_train_batch_size": rows})


def split(recipe: Recipe) -> tuple[int, int]:
    train = recipe.train
    assert not train.auto_micro_batch
    return train.per_device_train_batch_size, train.gradient_accumulation_steps


@pytest.mark.parametrize("given", ["2", "8"])
def test_the_largest_split_that_is_predicted_to_fit_is_chosen(
    small_recipe: Path, given: str
) -> None:
    passes = f"train.gradient_accumulation_steps={8 // int(given)}"
    recipe = loaded(small_recipe, f"train.per_device_train_batch_size={given}", passes)
    steps = steps_for(recipe)
    needed = [steps.needed(load) for load in micro_batches(steps.load)]
    assert needed == sorted(needed, reverse=True)
    for free, (rows, passes_) in zip(needed, SPLITS, strict=True):
        choice = choose(recipe, steps, proves=False, free_of=lambda _, free=free: free)
        assert split(choice.recipe) == (rows, passes_)
        assert choice.why == f"{bytes_text(free)} predicted"
        assert choice.measured is None
    with pytest.raises(OutOfMemory, match=r"not even one row.*(?s:.*)it fits with .* by: ") as told:
        choose(recipe, steps, proves=False, free_of=lambda _: needed[-1] - 1)
    assert "per_device_train_batch_size" not in str(told.value)


def test_what_vllm_holds_is_left_free(small_recipe: Path) -> None:
    recipe = loaded(small_recipe)
    steps = steps_for(recipe)
    whole = steps.needed(steps.load)
    beside = replace(steps, engine_bytes=1)
    choice = choose(recipe, beside, proves=False, free_of=lambda _: whole)
    assert split(choice.recipe) == (4, 2)
    choice = choose(recipe, beside, proves=False, free_of=lambda _: whole + 1)
    assert split(choice.recipe) == (8, 1)


def test_a_step_that_runs_out_of_memory_sends_the_choice_down(small_recipe: Path) -> None:
    recipe = loaded(small_recipe)
    steps = steps_for(recipe)
    state, files = torch.get_rng_state(), sorted(small_recipe.parent.rglob("*"))
    with FullMemory(2 * steps.shape.length) as full:
        choice = choose(recipe, steps, proves=True)
    assert split(choice.recipe) == (2, 4)
    assert full.refused == [8 * steps.shape.length, 4 * steps.shape.length]
    assert choice.measured is not None
    needed = steps.needed(list(micro_batches(steps.load))[2])
    assert choice.measured.tensor_bytes == pytest.approx(needed, abs=8 * 512)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(small_recipe.parent.rglob("*")) == files
    with FullMemory(0), pytest.raises(OutOfMemory, match="not even one row in a pass fits"):
        choose(recipe, steps, proves=True)


def test_a_system_that_does_not_tell_what_is_free_is_asked_nothing(small_recipe: Path) -> None:
    recipe = loaded(small_recipe)
    with pytest.raises(RecipeError, match="does not tell how much memory is free"):
        choose(recipe, steps_for(recipe), proves=False, free_of=lambda _: None)


def resolved(recipe: Recipe, **given: Any) -> tuple[Recipe, list[str]]:
    said: list[str] = []
    tasks = [found.task for found in survey(recipe).tasks if found.task]
    whole: Mapping[str, Any] = {"recorded": (), "lenders": (), **given}
    return settled(recipe, tasks, **whole, say=said.append), said


def test_a_run_that_goes_on_takes_what_was_recorded(small_recipe: Path) -> None:
    recipe = loaded(small_recipe)
    start = {"kind": "start", "memory": memory_row(with_rows(recipe, 2))}
    found, said = resolved(recipe, recorded=[start])
    assert split(found) == (2, 4)
    assert said == ["chosen: 2 rows in a pass, 4 passes, as before"]
    later = {"kind": "memory", **memory_row(with_rows(recipe, 1))}
    assert split(resolved(recipe, recorded=[start, later])[0]) == (1, 8)


def test_a_recipe_that_names_the_rows_is_left_as_it_is(small_recipe: Path) -> None:
    recipe = loaded(small_recipe, "train.auto_micro_batch=false")
    assert resolved(recipe) == (recipe, [])


def test_runs_of_a_comparison_share_a_choice(small_recipe: Path) -> None:
    recipe = loaded(small_recipe)
    folder = small_recipe.parent / "earlier"
    folder.mkdir()
    start = {
        "kind": "start",
        "memory": memory_row(with_rows(recipe, 2)),
        **choice_row(recipe),
    }
    assert start["auto_micro_batch"] == choice_key(recipe)
    assert start["auto_gradient_checkpointing"] is None
    (folder / "ledger.jsonl").write_text(json.dumps(start) + "\n")
    missing = small_recipe.parent / "missing"
    for change in ("seed=4", "method.budget=2"):
        found, said = resolved(loaded(small_recipe, change), lenders=[missing, folder])
        assert split(found) == (2, 4)
        assert said[0].endswith(f"as in {folder}")
    for change in ("train.max_length=32", "model.gradient_checkpointing=true"):
        found, said = resolved(loaded(small_recipe, change), lenders=[missing, folder])
        assert split(found) == (8, 1)
        assert "predicted" in said[0]
        assert "in one real step" in said[0]


def interval(recipe: Recipe) -> bool | int:
    every = recipe.model.gradient_checkpointing
    assert every != "auto"
    return every


def needed_of(steps: Steps, rows: int) -> dict[str, int]:
    """Returns what a step of so many rows in a pass needs with each interval of two layers."""
    load = replace(
        steps.load, per_device_train_batch_size=rows, gradient_accumulation_steps=8 // rows
    )
    every = {"false": False, "2": 2, "true": True}
    return {
        name: steps.needed(replace(load, gradient_checkpointing=k)) for name, k in every.items()
    }


def test_the_least_recomputation_that_is_predicted_to_fit_is_chosen(small_recipe: Path) -> None:
    recipe = loaded(small_recipe, GIVEN, LAYERS)
    steps = steps_for(recipe)
    needed = needed_of(steps, 8)
    assert needed["false"] > needed["2"] > needed["true"]
    for name, free in needed.items():
        choice = choose(recipe, steps, proves=False, free_of=lambda _, free=free: free)
        text = f"gradient_checkpointing = {name}"
        assert choice.line == f"{text}: {bytes_text(free)} predicted"
        assert str(interval(choice.recipe)).lower() == name
        assert split(choice.recipe) == (8, 1)
    beside = replace(steps, engine_bytes=1)
    choice = choose(recipe, beside, proves=False, free_of=lambda _: needed["false"])
    assert interval(choice.recipe) == 2


def test_where_nothing_fits_or_nothing_is_known_every_layer_is_computed_again(
    small_recipe: Path,
) -> None:
    recipe = loaded(small_recipe, GIVEN, LAYERS)
    steps = steps_for(recipe)

    def unpredictable(_: object) -> StepBytes:
        raise ModelError("cannot be predicted")

    told = [
        choose(recipe, steps, proves=True, free_of=lambda _: 10_000),
        choose(recipe, steps, proves=True, free_of=lambda _: None),
        choose(recipe, replace(steps, parts_of=unpredictable), proves=True),
    ]
    assert [interval(choice.recipe) for choice in told] == [True, True, True]
    assert all(choice.measured is None for choice in told)
    assert told[0].line.endswith(" predicted, and 10 kB are free")
    assert told[1].line.endswith("this system does not tell how much memory is free")
    assert told[2].line.endswith("the memory of this model's steps cannot be predicted")


def test_recomputation_is_spared_before_passes_are(small_recipe: Path) -> None:
    recipe = loaded(small_recipe, LAYERS)
    steps = steps_for(recipe)
    one, eight = needed_of(steps, 1), needed_of(steps, 8)
    assert one["false"] < eight["true"]
    for free, rows, every in (
        (eight["false"], 8, False),
        (eight["true"], None, False),  # every row would fit in one pass with recomputation
        (one["false"], 1, False),
        (one["2"], 1, 2),
        (one["true"], 1, True),
    ):
        choice = choose(recipe, steps, proves=False, free_of=lambda _, free=free: free)
        assert interval(choice.recipe) is every
        assert rows in (None, split(choice.recipe)[0])
    with pytest.raises(OutOfMemory, match="not even one row in a pass fits"):
        choose(recipe, steps, proves=False, free_of=lambda _: one["true"] - 1)
    with pytest.raises(RecipeError, match="does not tell how much memory is free"):
        choose(recipe, steps, proves=False, free_of=lambda _: None)


def test_both_choices_are_taken_from_what_was_recorded(small_recipe: Path) -> None:
    recipe = loaded(small_recipe, LAYERS)
    chosen = {"per_device_train_batch_size": 4, "gradient_checkpointing": 2}
    start = {"kind": "start", "memory": memory_row(with_chosen(recipe, chosen)), "n": 0}
    found, said = resolved(recipe, recorded=[start])
    assert (split(found), interval(found)) == ((4, 2), 2)
    assert said == ["chosen: 4 rows in a pass, 2 passes; gradient_checkpointing = 2, as before"]
    folder = small_recipe.parent / "earlier"
    folder.mkdir()
    (folder / "ledger.jsonl").write_text(json.dumps({**start, **choice_row(recipe)}) + "\n")
    found, said = resolved(loaded(small_recipe, LAYERS, "seed=4"), lenders=[folder])
    assert (split(found), interval(found)) == ((4, 2), 2)
    assert said[0].endswith(f"as in {folder}")
    found, said = resolved(loaded(small_recipe, LAYERS, GIVEN), lenders=[folder])
    assert (split(found), interval(found)) == ((8, 1), False)  # rows of its own, so another choice
