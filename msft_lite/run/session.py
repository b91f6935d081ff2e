"""Takes a recipe from an empty folder, or from where it was killed, to its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msft_lite.errors import (
    EngineError,
    Interrupted,
    OutputFolderError,
    ReplayMismatch,
    SnapshotError,
    TrainError,
)
from msft_lite.ledger import Row
from msft_lite.methods import build_method
from msft_lite.recipe import Recipe, dump_toml, load
from msft_lite.report.live import Watcher
from msft_lite.run.build import build_workshop, start_row
from msft_lite.run.engines import build_evaluator
from msft_lite.run.evaluator import Evaluator
from msft_lite.run.finish import finish
from msft_lite.run.folder import Mode, RunFolder
from msft_lite.run.lending import Lender
from msft_lite.run.loop import drive
from msft_lite.run.roller import Parts, Roller, RollerSettings
from msft_lite.run.stop import StopFlag
from msft_lite.run.workshop import Workshop
from msft_lite.snapshot.durable import write_durably

# What a resume must share with the run's beginning for its rows to be those of one run.
RESULT_KEYS = (
    "recipe", "method", "seed", "tasks", "data", "base", "trainable", "device", "dtype",
    "padding_free", "engine",
)  # fmt: skip
# What may differ, but may change the last bits of results.
ROUNDING_KEYS = ("threads", "versions")


def load_run(folder: Path) -> Recipe:
    """Returns the recipe of the run in ``folder``.

    Raises:
        OutputFolderError: there is no run.
    """
    place = RunFolder(folder)
    if not place.recipe.exists():
        raise OutputFolderError(f"{folder} holds no run: no {place.recipe.name}")
    return load(place.recipe, [f"output_dir={folder.resolve()}"])


def run(recipe: Recipe, *, mode: Mode, watch: Watcher, lenders: Sequence[Path] = ()) -> Path:
    """Runs ``recipe`` to its end and returns the run folder.

    Args:
        recipe: what to run and where.
        mode: ``new`` wants an unused folder, ``resume`` goes on with the run in it, ``overwrite``
            removes that run first.
        watch: sees every ledger row, recorded or new, and the progress between them.
        lenders: folders of runs whose records may be taken over where they are the same.

    Raises:
        MsftError: something is wrong that the user can mend; the run can be resumed from its last
            mark if it has one.
        Interrupted: the user ended it.
    """
    folder = RunFolder(recipe.output_dir)
    with folder.opened(mode), StopFlag() as stop:
        shop = build_workshop(recipe, folder, watch, mode=mode)
        _begin(recipe, shop)
        if shop.ledger.recorded("finish") is not None:
            watch.say(f"{folder.path} holds a finished run; nothing is left to do")
            return folder.path
        shop.store.prove(shop.trainer.capture())
        try:
            _train_and_finish(recipe, shop, stop, lenders)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {_way_back(shop)}") from None
        except (EngineError, TrainError, SnapshotError) as error:
            raise type(error)(f"{error}\n{_way_back(shop)}") from error
    return folder.path


def _way_back(shop: Workshop) -> str:
    return (
        f"{len(shop.ledger.seen)} marks are on record and nothing of them is lost; go on with: "
        f"msft-lite resume {shop.folder.path}"
    )


def _begin(recipe: Recipe, shop: Workshop) -> None:
    """Writes recipe and start row, or passes over the recorded row if it is of the same run.

    Raises:
        ReplayMismatch: what decides the results is not as in the recorded run.
    """
    ledger, row = shop.ledger, start_row(recipe, shop)
    recorded = ledger.recorded("start")
    if recorded is not None:
        _check_same_run(ledger.path, recorded, row)
        for key in ROUNDING_KEYS:
            if recorded.get(key) != row[key]:
                shop.watch.say(
                    f"the run began with {key} = {recorded.get(key)} and goes on with {row[key]}: "
                    "the last bits of its results may differ"
                )
    write_durably(shop.folder.recipe, dump_toml(recipe).encode())
    ledger.expect(recorded or row)


def _check_same_run(path: Path, recorded: Row, row: Row) -> None:
    for key in RESULT_KEYS:
        if recorded.get(key) != row[key]:
            raise ReplayMismatch(
                f"{path}: the run began with {key} = {recorded.get(key)!r} and would go on with "
                f"{row[key]!r}; resume it as it began (recipe.toml beside the ledger), or start "
                "again with --overwrite"
            )


def _train_and_finish(
    recipe: Recipe, shop: Workshop, stop: StopFlag, lenders: Sequence[Path]
) -> None:
    options = recipe.method.model_dump(exclude={"name", "signal"})
    method = build_method(recipe.method.name, shop.clock, options)
    evaluator = build_evaluator(recipe, shop)
    try:
        evaluator.ready("control")  # an engine that is needed starts while training begins
        lender = Lender(lenders, shop.ledger.rows[0])
        roller = _roller(recipe, shop, evaluator, stop, lender)
        verdict = drive(method, roller.execute, shop.ledger)
        finish(recipe, shop, roller, verdict)
    finally:
        evaluator.close()


def _roller(
    recipe: Recipe, shop: Workshop, evaluator: Evaluator, stop: StopFlag, lender: Lender
) -> Roller:
    parts = Parts(
        trainer=shop.trainer,
        store=shop.store,
        evaluator=evaluator,
        ledger=shop.ledger,
        tasks={task.name: task for task in shop.tasks},
        watch=shop.watch,
        stop_requested=lambda: stop.requested,
        lender=lender,
    )
    settings = RollerSettings(
        clock=shop.clock,
        seed=recipe.seed,
        crash_path=shop.folder.crash_copy,
        evaluate_at=recipe.eval.at,
        dropped_every=recipe.eval.dropped_every,
    )
    return Roller(parts, settings)
