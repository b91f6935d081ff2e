"""The commands: what they take, what they call, and what prints the answer."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import msft_lite
from msft_lite.cli.exit_codes import USER_ERROR, told_errors

if TYPE_CHECKING:
    from msft_lite.recipe import Recipe
    from msft_lite.run.folder import Mode
    from msft_lite.run.study import Wanted

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without UTF-8 gets codes for the characters it lacks, not a crash.
            stream.reconfigure(errors="backslashreplace")
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
def resume(run_folder: RunFolder, changes: Changes = None) -> None:
    """Go on with the run in a folder; changes may be of memory, disk, paths, the engine."""
    with told_errors():
        from msft_lite.run.resuming import check_places, load_run

        recipe = load_run(run_folder, changes or [])
        check_places(recipe)
        _run(recipe, "resume")


@app.command()
def snapshots(
    run_folder: RunFolder,
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read each and compare it with its checksum.")
    ] = False,
) -> None:
    """List a run's snapshots: what each is stored against, its bytes, what it is needed for."""
    with told_errors():
        from msft_lite.cli.snapshots_text import show_snapshots

        if not show_snapshots(run_folder, verifies=verify, console=Console()):
            raise typer.Exit(USER_ERROR)


@app.command()
def plan(recipe: RecipePath, changes: Changes = None) -> None:
    """Tell what a recipe will cost, without training."""
    with told_errors():
        from msft_lite.cli.plan_text import print_plan
        from msft_lite.run.plan import plan as make_plan

        print_plan(make_plan(_load(recipe, changes, None)), Console())


@app.command()
def check(
    recipe: RecipePath,
    changes: Changes = None,
    *,
    no_step: Annotated[
        bool, typer.Option("--no-step", help="Load no model: memory is predicted, not measured.")
    ] = False,
) -> None:
    """Find every problem of a recipe's data before a run does, and tell whether it fits."""
    with told_errors():
        loaded, console = _load(recipe, changes, None), Console()
        _prepare_libraries()
        from msft_lite.cli.check_text import print_check, print_verdict
        from msft_lite.cli.memory_text import print_memory
        from msft_lite.run.survey import survey

        found = survey(loaded)
        print_check(found, console)
        if not found.problems:
            print_memory(loaded, found, console, takes_step=not no_step)
        print_verdict(found, ["msft-lite", "run", str(recipe), *(changes or [])], console)
        if found.problems:
            raise typer.Exit(USER_ERROR)


@app.command("show-data")
def show_data(
    recipe: RecipePath,
    changes: Changes = None,
    *,
    task: Annotated[str | None, typer.Option("--task", help="Show this task only.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Training rows to show.")] = 1,
) -> None:
    """Show rows as the model sees them, their lengths, and what is trained on."""
    with told_errors():
        from msft_lite.cli.data_text import print_data
        from msft_lite.run.survey import survey

        loaded = _load(recipe, changes, None)
        _prepare_libraries()
        found = survey(loaded, only=task)
        print_data(found, rows=rows, max_length=loaded.train.max_length, console=Console())
        if found.problems:
            raise typer.Exit(USER_ERROR)


@app.command()
def tasks(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show this preset's text.")
    ] = None,
) -> None:
    """List the benchmarks that a recipe can name, or show the text of one."""
    with told_errors():
        from msft_lite.cli.preset_text import print_preset, print_presets
        from msft_lite.data.tasks import PRESETS, preset

        if name is None:
            print_presets(tuple(PRESETS.values()), Console())
        else:
            print_preset(preset(name), Console())


@app.command()
def report(
    run_folder: RunFolder,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page of the run, kept up to date.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Port of --watch; any free one without."),
    ] = None,
) -> None:
    """Write and print the report of a run, finished or not."""
    if port is not None and not watch:
        raise typer.BadParameter("--port is for --watch")
    with told_errors():
        if watch:
            from msft_lite.report.page.serve import watch_page

            watch_page(run_folder, port=port or 0, say=partial(print, flush=True))
        else:
            _report(run_folder)


@app.command()
def compare(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_FOLDER... | RECIPE [KEY=VALUE]...",
            help="Folders of two or more runs; or a recipe, whose methods are run first.",
        ),
    ],
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a recipe's runs.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a recipe's runs.")
    ] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", help="Folder to write to, in place of compare/ beside the runs."
        ),
    ] = None,
) -> None:
    """Compare runs: tables with intervals, figures, costs.

    Of a recipe, `methods` and `seeds` tell what to run; all of the paper's methods otherwise.
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    with told_errors():
        if not Path(places[0]).is_dir():
            mode = "resume" if resume else "overwrite" if overwrite else "new"
            _run_and_compare(Path(places[0]), places[1:], mode, output_dir)
        elif resume or overwrite:
            raise typer.BadParameter("--resume and --overwrite go with a recipe")
        else:
            _compare([Path(place) for place in places], output_dir)


@app.command()
def study(  # noqa: PLR0913 - the parameters are the command's arguments
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="heterogeneity, shift, budget, scale, granularity, decomposition or loss.",
        ),
    ],
    recipe: RecipePath,
    changes: Changes = None,
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the runs there.")] = False,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", help="Folder for NAME/, in place of the recipe's."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, help="Epochs of every method but msft; 10 by default."),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option("--budgets", help="Budgets of msft in the study budget; 1,3,5 by default."),
    ] = None,
) -> None:
    """Make a study of the paper: run what it needs, then its table and figures."""
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    if budgets is not None and name != "budget":
        raise typer.BadParameter("--budgets goes with the study budget alone")
    given = (1, 3, 5) if budgets is None else _budgets(budgets)
    with told_errors():
        from msft_lite.recipe.studies import StudyOptions
        from msft_lite.run.study import Wanted

        options = StudyOptions(epochs, given)
        wanted = Wanted(name, recipe, changes or [], output_dir, options)
        _study(wanted, "resume" if resume else "overwrite" if overwrite else "new")


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    with told_errors():
        from msft_lite.recipe import json_schema

        print(json.dumps(json_schema(), indent=2))


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


def _run_and_compare(recipe: Path, changes: list[str], mode: Mode, output_dir: Path | None) -> None:
    """Runs all that a recipe compares, writes each run's report and compares the runs."""
    from msft_lite.recipe import load_several
    from msft_lite.report import write_reports
    from msft_lite.report.compare import COMPARISON, default_folder
    from msft_lite.report.live import watcher

    variants = load_several(recipe, changes)
    folder = output_dir or default_folder([variant.recipe.output_dir for variant in variants])
    COMPARISON.check_folder(folder)  # before the runs, not after them
    _prepare_libraries()
    from msft_lite.run.compare import run_several

    console = Console()
    runs = list(run_several(variants, mode=mode, watch=lambda: watcher(console)))
    write_reports(runs)
    _compare(runs, folder)


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


def _compare(run_folders: list[Path], output_dir: Path | None) -> None:
    from msft_lite.report import compare as comparing

    folder = output_dir or comparing.default_folder(run_folders)
    comparing.COMPARISON.check_folder(folder)  # before the work, not after it
    systems = comparing.read_systems(run_folders)
    console, found = Console(), comparing.compare(systems.stories, notes=systems.notes)
    written = comparing.write_comparison(found, folder)
    comparing.print_comparison(found, console)
    console.print(f"comparison: {written}", soft_wrap=True, markup=False, highlight=False)


def _budgets(text: str) -> tuple[int, ...]:
    """Returns the whole numbers in ``text``, which commas part."""
    parts = [part.strip() for part in text.split(",")]
    found = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(set(found)) < len(parts) or 0 in found:
        raise typer.BadParameter(f"--budgets {text}: needed are different epochs, such as 1,3,5")
    return found


def _study(wanted: Wanted, mode: Mode) -> None:
    _prepare_libraries()
    from msft_lite.report import write_reports
    from msft_lite.report.live import watcher
    from msft_lite.report.studies import print_study, write_study
    from msft_lite.run.study import make_study

    console = Console()
    made = make_study(wanted, mode=mode, watch=lambda: watcher(console))
    write_reports(made.runs)
    written = write_study(made.study, made.folder)
    print_study(made.study, console)
    console.print(f"study: {written}", soft_wrap=True, markup=False, highlight=False)
