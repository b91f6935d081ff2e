"""The command line: parses, calls and prints. The only module that reads the environment."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

import msft_lite
from msft_lite.errors import Interrupted, MsftError

if TYPE_CHECKING:
    from msft_lite.recipe import Recipe
    from msft_lite.run.folder import Mode
    from msft_lite.run.plan import Plan

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130
BUG_FRAMES = 4

app = typer.Typer(
    name="msft-lite",
    help="Multi-task fine-tuning that drops each task when it starts to over-fit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (TOML).")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a run.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the recipe, such as train.learning_rate=2e-5; KEY= takes a key out.",
        show_default=False,
    ),
]
OutputDir = Annotated[
    Path | None, typer.Option("--output-dir", help="Folder of the run, in place of the recipe's.")
]


def main() -> None:
    """Runs the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"msft-lite {msft_lite.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Multi-task fine-tuning that drops each task when it starts to over-fit."""


@app.command()
def run(
    recipe: RecipePath,
    changes: Changes = None,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run there.")] = False,
    output_dir: OutputDir = None,
) -> None:
    """Run a recipe to its end."""
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    with told_errors():
        loaded = _load(recipe, changes, output_dir)
        _run(loaded, "resume" if resume else "overwrite" if overwrite else "new")


@app.command()
def resume(run_folder: RunFolder) -> None:
    """Go on with the run in a folder."""
    with told_errors():
        from msft_lite.run.session import load_run

        _run(load_run(run_folder), "resume")


@app.command()
def plan(recipe: RecipePath, changes: Changes = None) -> None:
    """Tell what a recipe will cost, without training."""
    with told_errors():
        from msft_lite.run.plan import plan as make_plan

        _print_plan(make_plan(_load(recipe, changes, None)), Console())


@app.command()
def report(run_folder: RunFolder) -> None:
    """Write and print the report of a run, finished or not."""
    with told_errors():
        _report(run_folder)


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    with told_errors():
        from msft_lite.recipe import json_schema

        print(json.dumps(json_schema(), indent=2))


@contextmanager
def told_errors() -> Iterator[None]:
    """Turns errors into one message on standard error and an exit code.

    A user's error ends with code 2, an interruption with 130, anything else is a bug: 1.
    """
    try:
        yield
    except Interrupted as error:
        _say(str(error), "yellow")
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt:
        _say("interrupted", "yellow")
        raise typer.Exit(INTERRUPTED) from None
    except MsftError as error:
        _say(f"error: {error}", "red")
        raise typer.Exit(USER_ERROR) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        frames = "".join(traceback.format_exception(error, limit=-BUG_FRAMES))
        _say(f"{frames}This is a bug in msft-lite. Please report it with the lines above.", "red")
        raise typer.Exit(BUG) from None


def _say(text: str, colour: str) -> None:
    # Neither wrapped nor marked up: paths and values must stay whole, brackets and all.
    Console(stderr=True).print(text, style=colour, soft_wrap=True, markup=False, highlight=False)


def _load(path: Path, changes: list[str] | None, output_dir: Path | None) -> Recipe:
    from msft_lite.recipe import load

    recipe = load(path, changes or [])
    if output_dir is None:
        return recipe
    return recipe.model_copy(update={"output_dir": output_dir.absolute()})


def _run(recipe: Recipe, mode: Mode) -> None:
    _prepare_libraries()
    from msft_lite.report.live import watcher
    from msft_lite.run.session import run as run_session

    with watcher(Console()) as watch:
        folder = run_session(recipe, mode=mode, watch=watch)
    _report(folder)


def _prepare_libraries() -> None:
    """Settles what must be settled before torch is imported."""
    # Threads that wait by spinning make a step 20 to 30 times slower as soon as another process
    # wants a core (measured: 1.8 s in place of 0.08 s on two cores), and the engine is one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # bitsandbytes warns that a kernel for 4-bit layers on a CPU is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _report(folder: Path) -> None:
    from msft_lite.report import print_report, write_report

    console = Console()
    written = write_report(folder)
    print_report(folder, console)
    console.print(f"report: {written}", soft_wrap=True, markup=False, highlight=False)


def _print_plan(found: Plan, console: Console) -> None:
    table = Table("task", title=f"plan: {found.method}", title_justify="left")
    for heading in ("training rows", "control", "report", "tokens a row", "drawn", "leaves"):
        table.add_column(heading, justify="right")
    drops = found.tally.drops
    for task in found.tasks:
        table.add_row(
            task.name,
            f"{task.train_rows:,}",
            f"{task.control_rows:,}",
            f"{task.report_rows:,}",
            f"{float(task.tokens_per_row):,.1f}",
            f"{found.tally.rows[task.name]:,}",
            f"{drops.index(task.name) + 1}." if task.name in drops else "",
        )
    console.print(table)
    totals = Table.grid(padding=(0, 2))
    totals.add_column()
    totals.add_column(justify="right")
    for name, value in _totals(found):
        totals.add_row(name, value)
    console.print(totals)
    for line in (found.assumption, *found.notes):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _totals(found: Plan) -> list[tuple[str, str]]:
    tally = found.tally
    rows = [
        ("stages", f"{tally.stages:,}"),
        ("optimizer steps", f"{tally.steps:,}"),
        ("training rows", f"{sum(tally.rows.values()):,}"),
        ("training tokens", f"{found.train_tokens:,}"),
        ("evaluations", f"{tally.evaluations:,}"),
        ("generated tokens, at most", f"{found.generated_tokens_at_most:,}"),
        ("snapshots kept at a time, at most", f"{tally.snapshots_alive:,}"),
        ("snapshots written", f"{tally.snapshots_written:,}"),
    ]
    size = found.size
    if size is None or found.disk_bytes_at_most is None or found.written_bytes is None:
        return rows
    return [
        *rows,
        ("parameters", f"{size.parameters:,}"),
        ("trainable parameters", f"{size.trainable_parameters:,}"),
        ("bytes on disk, at most", _bytes(found.disk_bytes_at_most)),
        ("bytes written", _bytes(found.written_bytes)),
    ]


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
