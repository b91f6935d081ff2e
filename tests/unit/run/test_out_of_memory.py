"""Memory that runs out in the middle of a run: what is told, what is kept, how it goes on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from msft_lite.errors import OutOfMemory
from msft_lite.recipe import Recipe, load
from msft_lite.run.folder import RunFolder
from msft_lite.run.resuming import load_run
from msft_lite.run.session import run
from tests.outcomes import results, tensors
from tests.whole_runs import Watcher


class FullMemory(TorchDispatchMode):
    """Asks for more memory than there is where a layer of a step goes backward.

    Args:
        layers: of all that do so, counted from 1, those where there is too little.
    """

    def __init__(self, *layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.seen = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func is torch.ops.aten.silu_backward.default and not isinstance(args[0], FakeTensor):
            self.seen += 1
            if self.seen in self.layers:
                torch.empty(1 << 60, dtype=torch.uint8)
        return func(*args, **(kwargs or {}))


def exhausted(recipe: Recipe) -> list[str]:
    """Runs into full memory after some marks and returns the lines of what is said."""
    with pytest.raises(OutOfMemory) as told, FullMemory(9):  # two a pass: of two layers
        run(recipe, mode="new", watch=Watcher())
    return str(told.value).splitlines()


@pytest.fixture
def recipe(small_recipe: Path) -> Recipe:
    changes = [f"output_dir={small_recipe.parent / 'run'}", "method.max_stages=1"]
    return load(small_recipe, changes)


def test_nothing_is_lost_and_the_run_goes_on_to_the_same_bits(recipe: Recipe) -> None:
    whole = recipe.model_copy(update={"output_dir": recipe.output_dir.with_name("whole")})
    run(whole, mode="new", watch=Watcher())
    exhausted(recipe)
    run(load_run(recipe.output_dir), mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == results(whole.output_dir)
    assert tensors(recipe.output_dir) == tensors(whole.output_dir)


def test_what_fits_is_told_and_the_run_goes_on_with_it(recipe: Recipe) -> None:
    first, *advice, last = exhausted(recipe)
    assert re.match(r"step \d: out of memory on cpu \(.*can't allocate memory", first)
    *changes, note = advice
    assert all(re.match(r"it fits with [\d.]+ \wB by: (train|model)\.", line) for line in changes)
    split = "train.per_device_train_batch_size = 4; train.gradient_accumulation_steps = 2"
    assert changes[0].endswith(split)
    assert any(line.endswith("by: model.gradient_checkpointing = true") for line in changes)
    assert "may change here, the rest in a new run" in note
    found = re.match(r"(\d) marks are on record .* lost; go on with: msft-lite resume (.*)", last)
    assert found
    before = results(recipe.output_dir)
    assert int(found[1]) == sum(row["kind"] == "mark" for row in before) >= 2
    folder, *arguments = shlex.split(found[2])
    run(load_run(Path(folder), arguments), mode="resume", watch=Watcher())
    rows = results(recipe.output_dir)
    assert rows[: len(before)] == before
    assert (rows[len(before)]["kind"], rows[-1]["kind"]) == ("memory", "finish")


def test_a_step_in_the_backward_pass_is_offered_no_fewer_rows(recipe: Recipe) -> None:
    train = recipe.train.model_copy(update={"optimizer_in_backward": True})
    *lines, last = exhausted(recipe.model_copy(update={"train": train}))
    assert not any("per_device_train_batch_size" in line for line in lines)
    assert last.endswith("model.gradient_checkpointing=true")


def test_memory_that_runs_out_in_loading_leaves_a_folder_to_begin_in(recipe: Recipe) -> None:
    class FullAtOnce(FullMemory):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> object:
            if func is torch.ops.aten.silu.default:  # while it is proved how rows can lie
                torch.empty(1 << 60, dtype=torch.uint8)
            return func(*args, **(kwargs or {}))

    with pytest.raises(OutOfMemory, match="loading: out of memory on cpu"), FullAtOnce(0):
        run(recipe, mode="new", watch=Watcher())
    assert not RunFolder(recipe.output_dir).ledger.exists()
    run(recipe, mode="new", watch=Watcher())


def test_checkpointing_that_was_chosen_gives_the_bits_of_a_named_one(recipe: Recipe) -> None:
    named, auto = (
        recipe.model_copy(
            update={
                "model": recipe.model.model_copy(update={"gradient_checkpointing": every}),
                "output_dir": recipe.output_dir.with_name(f"run-{every}"),
            }
        )
        for every in (2, "auto")
    )
    run(named, mode="new", watch=Watcher())
    # Both layers go backward where loading proves how rows may lie, in each step that is tried and
    # in the run's own: the try of false ends in its first, that of 2 does not, the run in step 4.
    with pytest.raises(OutOfMemory, match="step 4: out of memory") as told, FullMemory(3, 16):
        run(auto, mode="new", watch=Watcher())
    lines = str(told.value).splitlines()
    assert any(line.endswith("by: model.gradient_checkpointing = true") for line in lines)
    begun = load_run(auto.output_dir)
    assert begun.model.gradient_checkpointing == 2
    changed = load_run(auto.output_dir, ["model.gradient_checkpointing=true"])
    run(changed, mode="resume", watch=Watcher())
    run(auto, mode="resume", watch=Watcher())  # takes what was recorded
    start, *rows = results(auto.output_dir)
    expected, *others = results(named.output_dir)
    assert isinstance(start.pop("auto_gradient_checkpointing"), str)
    assert expected.pop("auto_gradient_checkpointing") is None
    assert start == expected
    (memory,) = [row for row in rows if row["kind"] == "memory"]
    assert memory["gradient_checkpointing"] is True
    assert [row for row in rows if row["kind"] != "memory"] == others
    assert tensors(auto.output_dir) == tensors(named.output_dir)
