"""How the memory of a training step is printed."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from msft_lite.cli.texts import bytes_text, print_lines
from msft_lite.report.tables import Grid, rich_grid
from msft_lite.report.wording import counted
from msft_lite.run.memory import Forecast, Measured


def print_forecast(found: Forecast, console: Console) -> None:
    """Prints what a step needs by part, what is free, and what to change where it does not fit."""
    shape = found.shape
    title = (
        f"Memory of a step on {found.device}: {counted(shape.rows, 'row')} of "
        f"{counted(shape.length, 'token')}, predicted"
    )
    console.print(rich_grid(Grid(title, ("Part ", "Bytes"), rows(found)), width=console.width))
    if found.fits is False:
        needed = bytes_text(found.step_bytes + found.engine_bytes)
        free = bytes_text(found.free_bytes or 0)
        print_lines([f"warning: {needed} are needed and {free} are free"], console, style="yellow")
        print_lines(change_lines(found), console, style="yellow")


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


def change_lines(found: Forecast) -> Iterator[str]:
    """Yields a line for each change that would make it fit, cheapest first."""
    for change in found.changes:
        yield f"it fits with {bytes_text(change.peak_bytes)} by: {'; '.join(change.lines)}"
    if not found.changes:
        yield "no change of batch, length, optimizer or tuning makes it fit: take a smaller model"


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
