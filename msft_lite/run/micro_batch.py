"""The rows of a pass, where a recipe leaves them to this machine: the most that fit.

Chosen once, when a run begins, among the divisors of the rows of an optimizer step. A run that goes
on, and the runs of one comparison, take what was chosen before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msft_lite.data.task import Task
from msft_lite.errors import LedgerError, OutOfMemory, RecipeError
from msft_lite.ledger import Row, read_rows
from msft_lite.model.memory.advice import micro_batches
from msft_lite.model.memory.free import free_bytes
from msft_lite.model.settings import Device
from msft_lite.recipe import Recipe
from msft_lite.report.wording import bytes_text, counted
from msft_lite.run.build import model_settings
from msft_lite.run.folder import RunFolder
from msft_lite.run.memory import (
    Measured,
    Steps,
    change_lines,
    config_of,
    measure,
    remedies,
    steps_of,
)
from msft_lite.run.resuming import choice_key, memory_row, recorded_memory

KEY = "train.auto_micro_batch"
_SPLIT = ("per_device_train_batch_size", "gradient_accumulation_steps")


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows of a pass that were found to fit.

    Attributes:
        recipe: with them, and nothing left to choose.
        needed_bytes: predicted, of a step.
        measured: what a real step took; None where none was taken.
    """

    recipe: Recipe
    needed_bytes: int
    measured: Measured | None

    @property
    def line(self) -> str:
        """What to tell of it."""
        took = (
            ""
            if self.measured is None
            else (f", {bytes_text(self.measured.tensor_bytes)} of tensors in one real step")
        )
        return f"{split_text(self.recipe)}: {bytes_text(self.needed_bytes)} predicted{took}"


def choose(
    recipe: Recipe,
    steps: Steps,
    *,
    proves: bool,
    free_of: Callable[[Device], int | None] = free_bytes,
) -> Choice:
    """Returns the most rows of a pass that fit, beside the engine where that is on the device.

    Args:
        recipe: what a run would be given.
        steps: of the recipe.
        proves: whether a real step is taken, of a model that is forgotten; where that runs out of
            memory, the next smaller number is tried.
        free_of: tells what a device has free.

    Raises:
        OutOfMemory: not even one row fits; the message says what would.
        RecipeError: the system does not tell what is free.
    """
    free = free_of(steps.settings.device)
    if free is None:
        raise RecipeError(
            f"{KEY}: this system does not tell how much memory is free; take it out and set "
            "train.per_device_train_batch_size"
        )
    for load in micro_batches(steps.load):
        if steps.needed(load) + steps.engine_bytes > free:
            continue
        chosen = with_split(recipe, load.per_device_train_batch_size)
        shape = replace(
            steps.shape,
            rows=load.per_device_train_batch_size,
            accumulates=load.gradient_accumulation_steps > 1,
        )
        try:
            measured = measure(chosen, shape, beside_bytes=steps.engine_bytes) if proves else None
        except OutOfMemory:
            continue
        return Choice(chosen, steps.needed(load), measured)
    raise _too_large(steps, free)


def settled(
    recipe: Recipe,
    tasks: Sequence[Task],
    *,
    recorded: Sequence[Row],
    lenders: Sequence[Path],
    say: Callable[[str], None],
) -> Recipe:
    """Returns ``recipe`` with its choice made: as recorded, as in an earlier run, or anew.

    Args:
        recipe: what to run.
        tasks: all of its tasks.
        recorded: rows of the run that goes on; empty for a new one.
        lenders: folders of earlier runs of the same comparison.
        say: is told what was chosen.

    Raises:
        MsftError: as `choose`.
    """
    if not recipe.train.auto_micro_batch:
        return recipe
    if (memory := recorded_memory(recorded)) is not None:
        say(f"{KEY}: {split_text(chosen := _as_in(recipe, memory))}, as before")
        return chosen
    for folder in lenders:
        if (memory := _lent(recipe, folder)) is not None:
            chosen = _as_in(recipe, memory)
            say(f"{KEY}: {split_text(chosen)}, as in {folder}")
            return chosen
    steps = steps_of(recipe, tasks, config_of(model_settings(recipe)))
    choice = choose(recipe, steps, proves=True)
    say(f"{KEY}: {choice.line}")
    return choice.recipe


def with_split(recipe: Recipe, rows: int) -> Recipe:
    """Returns ``recipe`` with so many rows in a pass, those of a step kept, nothing to choose."""
    changes = {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": recipe.train.batch_rows // rows,
        "auto_micro_batch": False,
    }
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})


def split_text(recipe: Recipe) -> str:
    """Returns how an optimizer step is made up."""
    rows = counted(recipe.train.per_device_train_batch_size, "row")
    passes = recipe.train.gradient_accumulation_steps
    return f"{rows} in a pass, {counted(passes, 'pass') if passes == 1 else f'{passes} passes'}"


def _as_in(recipe: Recipe, memory: Mapping[str, Any]) -> Recipe:
    return with_split(recipe, memory["per_device_train_batch_size"])


def _lent(recipe: Recipe, folder: Path) -> Mapping[str, Any] | None:
    """Returns what was chosen in ``folder`` if that run differs in method and seed alone."""
    try:
        rows = read_rows(RunFolder(folder).ledger)
    except LedgerError:
        return None
    if not rows or rows[0].get("auto_micro_batch") != choice_key(recipe):
        return None
    memory = rows[0]["memory"]
    others = [key for key in memory_row(recipe) if key not in _SPLIT]
    return memory if all(memory.get(key) == memory_row(recipe)[key] for key in others) else None


def _too_large(steps: Steps, free: int) -> OutOfMemory:
    *_, smallest = micro_batches(steps.load)
    one = replace(steps, load=smallest)
    needed = bytes_text(one.needed(smallest) + steps.engine_bytes)
    first = f"{KEY}: not even one row in a pass fits: {needed} are needed and {bytes_text(free)}"
    return OutOfMemory("\n".join([f"{first} are free", *change_lines(remedies(one, free))]))
