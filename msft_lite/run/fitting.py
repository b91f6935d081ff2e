"""How a step is made to fit, where a recipe leaves it to this machine.

That is the rows of a pass (``train.auto_micro_batch``), the layers that are computed again
(``model.gradient_checkpointing = "auto"``), or both. Chosen once, when a run begins. A run that
goes on, and the runs of one comparison, take what was chosen before.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from msft_lite.data.task import Task
from msft_lite.errors import LedgerError, OutOfMemory, RecipeError
from msft_lite.ledger import Row, read_rows
from msft_lite.model.memory.advice import Load
from msft_lite.model.memory.free import free_bytes
from msft_lite.model.memory.variants import Variants, fitting, variants
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
from msft_lite.run.resuming import (
    CHOICES,
    choice_key,
    memory_row,
    open_choices,
    recorded_memory,
)

_ROWS = "train.auto_micro_batch"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        recipe: with it, and nothing left to choose.
        text: what it is.
        why: what it rests on.
        measured: what a real step took; None where none was taken.
    """

    recipe: Recipe
    text: str
    why: str
    measured: Measured | None = None

    @property
    def line(self) -> str:
        """What to tell of it."""
        took = (
            ""
            if self.measured is None
            else f", {bytes_text(self.measured.tensor_bytes)} of tensors in one real step"
        )
        return f"{self.text}: {self.why}{took}"


def choose(
    recipe: Recipe,
    steps: Steps,
    *,
    proves: bool,
    free_of: Callable[[Device], int | None] = free_bytes,
) -> Choice:
    """Returns what `variants` has first of that which fits, beside the engine where that is there.

    Where nothing does and the rows of a pass are given, every layer is computed again.

    Args:
        recipe: what a run would be given, with something to choose.
        steps: of the recipe.
        proves: whether a real step is taken, of a model that is forgotten; where that runs out of
            memory, the next variant is tried. The last that checkpointing leaves is taken untried.
        free_of: tells what a device has free.

    Raises:
        OutOfMemory: not even one row fits; the message says what would.
        RecipeError: rows are to be chosen, and what is free or needed is not known.
    """
    groups = _variants(recipe, steps)
    last, any_rows = groups[-1][-1], recipe.train.auto_micro_batch
    free = free_of(steps.settings.device)
    if unknown := _unknown(steps, groups, free):
        if any_rows:
            raise RecipeError(
                f"{_ROWS}: {unknown}; take it out and set train.per_device_train_batch_size"
            )
        return _choice(recipe, last, unknown)
    assert free is not None
    room = free - steps.engine_bytes
    for load in fitting(groups, free_bytes=room, peak_of=steps.needed):
        found = _choice(recipe, load, f"{bytes_text(steps.needed(load))} predicted")
        if not proves or (load == last and not any_rows):
            return found
        try:
            return replace(found, measured=_measured(found.recipe, steps, load))
        except OutOfMemory:
            continue
    if any_rows:
        raise _too_large(steps, last, free)
    needed = bytes_text(steps.needed(last) + steps.engine_bytes)
    return _choice(recipe, last, f"{needed} predicted, and {bytes_text(free)} are free")


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
    if not open_choices(recipe):
        return recipe
    if (memory := recorded_memory(recorded)) is not None:
        say(f"chosen: {chosen_text(recipe, memory)}, as before")
        return with_chosen(recipe, memory)
    for folder in lenders:
        if (memory := _lent(recipe, folder)) is not None:
            say(f"chosen: {chosen_text(recipe, memory)}, as in {folder}")
            return with_chosen(recipe, memory)
    steps = steps_of(recipe, tasks, config_of(model_settings(recipe)))
    choice = choose(recipe, steps, proves=True)
    say(f"chosen: {choice.line}")
    return choice.recipe


def with_chosen(recipe: Recipe, memory: Mapping[str, Any]) -> Recipe:
    """Returns ``recipe`` with what it leaves open taken from ``memory``, and nothing to choose.

    Args:
        recipe: whose rows of an optimizer step are kept.
        memory: has the settings of a step by the recipe's names, as `memory_row`.
    """
    model, train = recipe.model, recipe.train
    if train.auto_micro_batch:
        rows = memory["per_device_train_batch_size"]
        changes = {
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": train.batch_rows // rows,
            "auto_micro_batch": False,
        }
        train = train.model_copy(update=changes)
    if model.gradient_checkpointing == "auto":
        every = memory["gradient_checkpointing"]
        model = model.model_copy(update={"gradient_checkpointing": every})
    return recipe.model_copy(update={"model": model, "train": train})


def chosen_text(recipe: Recipe, memory: Mapping[str, Any]) -> str:
    """Returns what ``memory`` says of what ``recipe`` leaves open."""
    parts: list[str] = []
    if recipe.train.auto_micro_batch:
        rows = memory["per_device_train_batch_size"]
        passes = recipe.train.batch_rows // rows
        told = counted(passes, "pass") if passes == 1 else f"{passes} passes"
        parts.append(f"{counted(rows, 'row')} in a pass, {told}")
    if recipe.model.gradient_checkpointing == "auto":
        parts.append(f"gradient_checkpointing = {json.dumps(memory['gradient_checkpointing'])}")
    return "; ".join(parts)


def _variants(recipe: Recipe, steps: Steps) -> Variants:
    layers = None
    if recipe.model.gradient_checkpointing == "auto":
        layers = int(config_of(steps.settings).get_text_config().num_hidden_layers)
    return variants(steps.load, layers=layers, any_rows=recipe.train.auto_micro_batch)


def _unknown(steps: Steps, groups: Variants, free: int | None) -> str:
    """Returns what keeps a choice from being made; empty if nothing does."""
    if free is None:
        return "this system does not tell how much memory is free"
    if steps.needed(groups[0][-1]) == sys.maxsize:
        return "the memory of this model's steps cannot be predicted"
    return ""


def _choice(recipe: Recipe, load: Load, why: str) -> Choice:
    memory = asdict(load)
    return Choice(with_chosen(recipe, memory), chosen_text(recipe, memory), why)


def _measured(recipe: Recipe, steps: Steps, load: Load) -> Measured:
    shape = replace(
        steps.shape,
        rows=load.per_device_train_batch_size,
        accumulates=load.gradient_accumulation_steps > 1,
    )
    return measure(recipe, shape, beside_bytes=steps.engine_bytes)


def _lent(recipe: Recipe, folder: Path) -> Mapping[str, Any] | None:
    """Returns what was chosen in ``folder`` if that run differs in method and seed alone."""
    try:
        rows = read_rows(RunFolder(folder).ledger)
    except LedgerError:
        return None
    choices, own = open_choices(recipe), memory_row(recipe)
    if not rows or any(rows[0].get(name) != choice_key(recipe) for name in choices):
        return None
    memory, chosen = rows[0]["memory"], [key for name in choices for key in CHOICES[name]]
    others = [key for key in own if key not in chosen]
    return memory if all(memory.get(key) == own[key] for key in others) else None


def _too_large(steps: Steps, smallest: Load, free: int) -> OutOfMemory:
    one = replace(steps, load=smallest)
    needed = bytes_text(one.needed(smallest) + steps.engine_bytes)
    first = f"{_ROWS}: not even one row in a pass fits: {needed} are needed and {bytes_text(free)}"
    return OutOfMemory("\n".join([f"{first} are free", *change_lines(remedies(one, free))]))
