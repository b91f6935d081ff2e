"""What `check` prints of memory: a choice of the rows of a pass, and a step that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from msft_lite.cli.memory_text import print_memory
from msft_lite.errors import OutOfMemory
from msft_lite.recipe import Recipe, load
from msft_lite.run.survey import survey


class FullMemory(TorchDispatchMode):
    """Asks for more memory than there is in the backward pass of any real step."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func is torch.ops.aten.silu_backward.default and not isinstance(args[0], FakeTensor):
            torch.empty(1 << 60, dtype=torch.uint8)
        return func(*args, **(kwargs or {}))


def printed(recipe: Recipe, *, takes_step: bool = True) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        print_memory(recipe, survey(recipe), console, takes_step=takes_step)
    return capture.get()


def loaded(path: Path, *changes: str) -> Recipe:
    return load(path, [f"data.cache_dir={path.parent / 'cache'}", *changes])


@pytest.mark.parametrize("takes_step", [False, True])
def test_check_says_which_rows_a_run_would_choose(small_recipe: Path, takes_step: bool) -> None:
    smaller = (
        "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=4",
        "train.auto_micro_batch=true",
    )
    text = printed(loaded(small_recipe, *smaller), takes_step=takes_step)
    assert "8 rows of 17 tokens, predicted" in text
    assert "a run would choose 8 rows in a pass, 1 pass: " in text
    assert ("of tensors in one real step" in text) == takes_step


def test_check_says_which_layers_a_run_would_compute_again(small_recipe: Path) -> None:
    text = printed(loaded(small_recipe, "model.gradient_checkpointing=auto"), takes_step=False)
    assert "a run would choose gradient_checkpointing = false: " in text


def test_a_measured_step_that_does_not_fit_says_what_would(small_recipe: Path) -> None:
    recipe = loaded(small_recipe, "train.padding_free=false")  # else the proof of it runs out
    with FullMemory(), pytest.raises(OutOfMemory) as told:
        printed(recipe)
    first, second, *_ = str(told.value).splitlines()
    assert first.startswith("step 1: out of memory on cpu")
    assert "by: train.per_device_train_batch_size = 4; train.gradient_accumulation" in second


def test_without_a_step_nothing_is_measured(small_recipe: Path) -> None:
    with FullMemory():
        assert "real step" not in printed(loaded(small_recipe), takes_step=False)
