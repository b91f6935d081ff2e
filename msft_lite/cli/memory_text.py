"""How the memory of a training step is printed."""

from __future__ import annotations

from rich.console import Console

from msft_lite.cli.texts import print_lines
from msft_lite.errors import OutOfMemory
from msft_lite.recipe import Recipe
from msft_lite.report.tables import Grid, rich_grid
from msft_lite.report.wording import bytes_text, counted
from msft_lite.run.fitting import choose
from msft_lite.run.kernels import prediction_notes
from msft_lite.run.memory import (
    Forecast,
    Measured,
    Steps,
    change_lines,
    forecast,
    has_weights,
    measure,
    passing_lines,
    remedies,
    steps_found,
)
from msft_lite.run.resuming import open_choices
from msft_lite.run.survey import Survey


def print_memory(recipe: Recipe, found: Survey, console: Console, *, takes_step: bool) -> None:
    """Prints what a training step needs, and what a real one took where it is safe to try.

    Raises:
        OutOfMemory: it was tried and does not fit; the message says what would.
    """
    if (steps := steps_found(recipe, found)) is None:
        return
    if recipe.model.use_dora and recipe.model.load_in_4bit:
        told = "memory of a step: not predicted for DoRA over a base in 4 bits"
        print_lines([told, *passing_lines(recipe, steps)], console)
        return
    takes_step = takes_step and has_weights(recipe)
    choice = None
    if open_choices(recipe):
        choice = choose(recipe, steps, proves=takes_step)
        recipe = choice.recipe
    told = forecast(recipe, found)
    assert told is not None, "the same data told of steps"
    print_forecast(told, console)
    print_lines(passing_lines(recipe, steps), console)
    print_lines(prediction_notes(recipe, told.device), console)
    if choice is not None:
        print_lines([f"a run would choose {choice.line}"], console)
    if (choice is None or choice.measured is None) and told.fits is not False and takes_step:
        # A step that does not fit may have the whole process killed, on a CPU without a word.
        print_measured(told, _measured(recipe, told, steps), console)


def _measured(recipe: Recipe, told: Forecast, steps: Steps) -> Measured:
    try:
        return measure(recipe, told.shape, beside_bytes=told.engine_bytes)
    except OutOfMemory as error:
        lines = change_lines(remedies(steps, told.free_bytes))
        raise OutOfMemory("\n".join([str(error), *lines])) from None


def print_forecast(found: Forecast, console: Console) -> None:
    """Prints what a step needs by part, what is free, and what to change where it does not fit."""
    shape = found.shape
    title = (
        f"Memory of a step on {found.device}: {counted(shape.rows, 'row')} of "
        f"{counted(shape.length, 'token')}, predicted"
    )
    console.print(rich_grid(Grid(title, ("Part ", "Bytes"), rows(found)), width=console.width))
    if found.tenancy is not None:
        print_lines([found.tenancy.line], console)
    if found.fits is False:
        needed = bytes_text(found.step_bytes + found.engine_bytes)
        free = bytes_text(found.free_bytes or 0)
        print_lines([f"warning: {needed} are needed and {free} are free"], console, style="yellow")
        print_lines(change_lines(found.changes), console, style="yellow")


def rows(found: Forecast) -> tuple[tuple[str, str], ...]:
    """Returns the rows of the table: parts that take something, their sum, and what is free."""
    parts = found.parts
    allowance = found.step_bytes - parts.tensors
    sizes = (
        ("weights", parts.weights),
        ("adapter", parts.adapter),
        ("gradients", parts.gradients),
        ("moments of the optimizer", parts.moments),
        ("activations", parts.activations),
        ("logits and loss", parts.loss),
        ("backward pass", parts.workspace),
        ("context, fragmentation (assumed)", allowance),
    )
    taken = tuple((name, bytes_text(size)) for name, size in sizes if size)
    engine = (("vllm beside it", bytes_text(found.engine_bytes)),) if found.engine_bytes else ()
    free = "not known" if found.free_bytes is None else bytes_text(found.free_bytes)
    return (*taken, ("peak", bytes_text(found.step_bytes)), *engine, ("free now", free))


def print_measured(found: Forecast, measured: Measured, console: Console) -> None:
    """Prints what a real step took beside what was predicted."""
    how = "counted" if measured.reserved_bytes is None else "of the allocator"
    line = (
        f"memory of one real step: {bytes_text(measured.tensor_bytes)} of tensors ({how}), "
        f"predicted {bytes_text(found.parts.tensors)}"
    )
    if measured.reserved_bytes is not None:
        line += (
            f"; {bytes_text(measured.reserved_bytes)} taken from the GPU, predicted with the "
            f"allowance {bytes_text(found.step_bytes)}"
        )
    print_lines([line], console)
