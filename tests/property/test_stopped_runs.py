"""A run that is asked to end does so after the step in progress, and goes on with the next one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.errors import Interrupted
from msft_lite.recipe import Recipe
from msft_lite.run.folder import Mode, RunFolder
from msft_lite.run.inventory import PARTWAY, inventory, verified
from msft_lite.run.session import run
from msft_lite.snapshot.crash import save_crash_copy
from tests.outcomes import results, snapshots, tensors
from tests.whole_runs import FULL, Watcher, changed

LONG = ("train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=1")
IN_MEMORY = "snapshots.where=ram"
EIGHT_BIT = (
    "model.dtype=bfloat16",
    "train.bf16_update=stochastic",
    "train.optim=adamw_8bit",
)
CONTINUAL = ("method.name=continual", "method.budget=", "method.epochs=1")
RUNS = {
    "msft": (),
    "msft, full": FULL,
    "msft, full, 8 bits": (*FULL, *EIGHT_BIT),
    "msft, one optimizer": ("method.keep_optimizer=true",),
    "msft, in memory": (IN_MEMORY,),
    "msft, scored at the end": ("eval.at=end",),
    "sft": ("method.name=sft", "method.budget=", "method.epochs=1"),
    "continual, full, in memory": (*CONTINUAL, *FULL, IN_MEMORY),
    "sro": ("method.name=sro", "method.budget=", "method.epochs=1"),
    "soft_sro": ("method.name=soft_sro", "method.budget=", "method.epochs=1"),
    "dynamix": ("method.name=dynamix", "method.budget=", "method.epochs=1", "method.period=1"),
    "ies": ("method.name=ies", "method.budget=", "method.epochs=3"),
    "shift": ("method.name=shift", "method.budget=", "method.epochs=1"),
}  # fmt: skip


class Asker(Watcher):
    """Asks for an end at the n-th step, as a user or a queue does, and notes all steps taken."""

    def __init__(self, at: int = -1) -> None:
        super().__init__()
        self.at = at
        self.steps: list[tuple[int, int]] = []

    def progress(self, *, n: int, step: int, steps: int, losses: object) -> None:
        self.steps.append((n, step))
        if len(self.steps) == self.at:
            signal.raise_signal(signal.SIGTERM)


def asked_to_end(recipe: Recipe, at: int, mode: Mode = "resume") -> list[tuple[int, int]]:
    """Runs until the n-th step and returns the steps taken."""
    watch = Asker(at)
    with pytest.raises(Interrupted, match="msft-lite resume"):
        run(recipe, mode=mode, watch=watch)
    return watch.steps


@pytest.mark.parametrize("name", RUNS)
def test_it_ends_after_the_step_and_goes_on_with_the_next(
    small_recipe: Path, tmp_path: Path, name: str
) -> None:
    changes = (*LONG, *RUNS[name])
    watch = Asker()
    whole = run(changed(small_recipe, tmp_path / "whole", *changes), mode="new", watch=watch)
    recipe = changed(small_recipe, tmp_path / "run", *changes)
    third = len(watch.steps) // 3
    taken = [asked_to_end(recipe, at, "resume" if at > 1 else "new") for at in (1, 2, third, third)]
    assert [len(steps) for steps in taken] == [1, 2, third, third]
    rest = Asker()
    run(recipe, mode="resume", watch=rest)
    assert [*taken[0], *taken[1], *taken[2], *taken[3], *rest.steps] == watch.steps
    assert results(recipe.output_dir) == results(whole)
    assert tensors(recipe.output_dir) == tensors(whole)


def test_what_was_saved_between_marks_is_listed_and_may_be_lost(
    small_recipe: Path, tmp_path: Path
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole", *LONG), mode="new", watch=Asker())
    recipe = changed(small_recipe, tmp_path / "run", *LONG)
    asked_to_end(recipe, 2, "new")
    folder = recipe.output_dir
    (item,) = [item for item in inventory(folder).items if PARTWAY in item.held_by]
    assert not any(verified(folder).values())
    (file,) = [file for file in snapshots(folder) if file.stem == item.identity]
    file.unlink()
    assert "missing" in verified(folder)[item.identity]
    watch = Asker()
    run(recipe, mode="resume", watch=watch)
    assert watch.steps[0] == (1, 1)
    assert any("since the last new optimizer is repeated" in text for text in watch.said)
    assert results(folder) == results(whole)
    assert tensors(folder) == tensors(whole)


@pytest.mark.parametrize("where", ["disk", "ram"])
def test_an_evaluation_is_left_at_once_and_repeated(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole"), mode="new", watch=Asker())
    recipe = changed(small_recipe, tmp_path / "run", f"snapshots.where={where}")
    calls = 0

    def complete(*_: object, **__: object) -> None:
        nonlocal calls
        signal.raise_signal(signal.SIGINT)
        calls += 1

    watch = Asker()
    with monkeypatch.context() as patched:
        patched.setattr(TorchEngine, "complete", complete)
        with pytest.raises(Interrupted, match="msft-lite resume"):
            run(recipe, mode="new", watch=watch)
    assert not calls
    rest = Asker()
    run(recipe, mode="resume", watch=rest)
    assert not set(watch.steps) & set(rest.steps)
    assert results(recipe.output_dir) == results(whole)
    assert tensors(recipe.output_dir) == tensors(whole)


def test_where_there_is_no_room_the_steps_since_the_mark_are_repeated(
    small_recipe: Path, tmp_path: Path
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole", *LONG), mode="new", watch=Asker())
    recipe = changed(small_recipe, tmp_path / "run", *LONG)
    at = results(whole)[3]["step"] + 2  # past the first mark that was trained up to
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("msft_lite.run.points.Points.has_room", lambda _: False)
        steps = asked_to_end(recipe, at, "new")
    rest = Asker()
    run(recipe, mode="resume", watch=rest)
    assert steps[-1] in rest.steps
    assert rest.steps[0] == (1, at - 1)
    assert results(recipe.output_dir) == results(whole)
    assert tensors(recipe.output_dir) == tensors(whole)


@pytest.mark.parametrize("state", [{}, {"position": {"n": 1}, "trainer": {}}])
def test_a_crash_copy_that_says_nothing_is_told_and_done_without(
    small_recipe: Path, tmp_path: Path, state: dict[str, Any]
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole", *LONG), mode="new", watch=Asker())
    recipe = changed(small_recipe, tmp_path / "run", *LONG)
    asked_to_end(recipe, 2, "new")
    save_crash_copy(RunFolder(recipe.output_dir).crash_copy, {}, state)
    watch = Asker()
    run(recipe, mode="resume", watch=watch)
    assert watch.steps[0] == (1, 1)
    (line,) = [text for text in watch.said if "does not say where a run stands" in text]
    assert line.endswith("; what was trained since the last new optimizer is repeated")
    assert results(recipe.output_dir) == results(whole)
    assert tensors(recipe.output_dir) == tensors(whole)


def test_the_folder_of_a_finished_run_has_nothing_of_it(small_recipe: Path, tmp_path: Path) -> None:
    recipe = changed(small_recipe, tmp_path / "run", *LONG)
    asked_to_end(recipe, 2, "new")
    run(recipe, mode="resume", watch=Asker())
    assert not RunFolder(recipe.output_dir).crash_copy.exists()
    assert len(snapshots(recipe.output_dir)) == 1
