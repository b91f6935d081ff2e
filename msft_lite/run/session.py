"""Takes a recipe from an empty folder, or from where it was killed, to its end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msft_lite.errors import (
    EngineError,
    Interrupted,
    OutOfMemory,
    SnapshotError,
    TrainError,
    resume_command,
)
from msft_lite.ledger import MEMORY, read_rows
from msft_lite.methods import build_method
from msft_lite.model.load import resolve_device
from msft_lite.model.memory.exhausted import give_back, told_out_of_memory
from msft_lite.model.memory.free import free_bytes
from msft_lite.recipe import Recipe, dump_toml
from msft_lite.report.live import Watcher
from msft_lite.run.build import build_workshop, start_row
from msft_lite.run.engines import build_evaluator
from msft_lite.run.evaluator import Evaluator
from msft_lite.run.finish import finish, tidy
from msft_lite.run.fitting import settled
from msft_lite.run.folder import Mode, RunFolder
from msft_lite.run.lending import Lender
from msft_lite.run.loop import drive
from msft_lite.run.memory import change_lines, config_of, remedies, steps_of
from msft_lite.run.parts import Parts, RollerSettings
from msft_lite.run.resuming import (
    check_same_bits,
    check_same_run,
    memory_note,
    memory_row,
    recorded_memory,
    resume_changes,
    trains_again,
)
from msft_lite.run.roller import Roller
from msft_lite.run.room import Room, room_of
from msft_lite.run.stop import StopFlag
from msft_lite.run.tenancy import settled_tenancy
from msft_lite.run.workshop import Workshop
from msft_lite.snapshot.durable import write_durably


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
        shop = settled_tenancy(_built(recipe, folder, watch, mode=mode, lenders=lenders))
        if not _begun(recipe, shop):
            tidy(shop)
            watch.say(f"{folder.path} holds a finished run; nothing is left to do")
            return folder.path
        room = room_of(shop)
        # A bound that leaves no room for one more snapshot has held one before: marks make room.
        if room is None or not room.is_short():
            shop.store.prove(shop.trainer.capture())
        try:
            with told_out_of_memory("the run", shop.settings.device):
                _train_and_finish(recipe, shop, stop, lenders, room)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {_way_back(shop)}") from None
        except OutOfMemory as error:
            raise _told_how_to_fit(error, shop) from None
        except (EngineError, TrainError, SnapshotError) as error:
            raise type(error)(f"{error}\n{_way_back(shop)}") from error
    return folder.path


def _built(
    recipe: Recipe, folder: RunFolder, watch: Watcher, *, mode: Mode, lenders: Sequence[Path]
) -> Workshop:
    settle = partial(
        settled,
        recorded=read_rows(folder.ledger) if mode == "resume" else (),
        lenders=lenders,
        say=watch.say,
    )
    with told_out_of_memory("loading", resolve_device(recipe.model.device)):
        return build_workshop(recipe, folder, watch, mode=mode, settle=settle)


def _way_back(shop: Workshop, changes: Sequence[str] = ()) -> str:
    return (
        f"{len(shop.ledger.seen)} marks are on record and nothing of them is lost; go on with: "
        + resume_command(shop.folder.path, *changes)
    )


def _told_how_to_fit(error: OutOfMemory, shop: Workshop) -> OutOfMemory:
    """Returns ``error`` with the changes by which a step fits, and how to go on with one."""
    give_back(error)
    try:
        steps = steps_of(shop.recipe, shop.tasks, config_of(shop.settings))
        free = free_bytes(shop.settings.device)
        changes = remedies(steps, None if free is None else free + steps.held_bytes)
    except Exception:  # of whatever kind, for want of memory: what ran out must be told
        return OutOfMemory(f"{error}\nwhat fits is told by: msft-lite check\n{_way_back(shop)}")
    lines = [str(error), *change_lines(changes)]
    if arguments := resume_changes(changes):
        lines.append("rows of a pass and checkpointing may change here, the rest in a new run")
    return OutOfMemory("\n".join([*lines, _way_back(shop, arguments)]))


def _begun(recipe: Recipe, shop: Workshop) -> bool:
    """Writes recipe and start row, or passes over the recorded row if it is of the same run.

    Returns false where that run came to its end; then nothing is written.

    Raises:
        ReplayMismatch: what decides the results is not as in the recorded run.
    """
    ledger, row = shop.ledger, start_row(recipe, shop)
    recorded = ledger.recorded("start")
    if recorded is not None:
        notes = check_same_run(ledger.path, recorded, row, recipe)
        if trains_again(recipe):
            check_same_bits(ledger.path, notes)
        for note in notes:
            shop.watch.say(note)
    is_open = ledger.recorded("finish") is None
    if is_open:
        write_durably(shop.folder.recipe, dump_toml(shop.recipe).encode())
    ledger.expect(recorded or row)
    before, now = recorded_memory(ledger.rows), memory_row(shop.recipe)
    if is_open and before is not None and before != now:
        note = memory_note(before, shop.recipe)
        if trains_again(recipe):
            check_same_bits(ledger.path, [note])
        ledger.note({"kind": MEMORY, **now})  # after the recipe: a resume between them repeats it
        shop.watch.say(note)
    return is_open


def _train_and_finish(
    recipe: Recipe, shop: Workshop, stop: StopFlag, lenders: Sequence[Path], room: Room | None
) -> None:
    options = recipe.method.model_dump(exclude={"name", "signal"})
    method = build_method(recipe.method.name, shop.clock, options)
    evaluator = build_evaluator(recipe, shop)
    try:
        evaluator.ready("control")  # an engine that is needed starts while training begins
        lender = Lender(lenders, shop.ledger.rows[0])
        roller = _roller(recipe, shop, evaluator, stop, lender=lender, room=room)
        verdict = drive(method, roller.execute, shop.ledger)
        finish(recipe, shop, roller, verdict)
    finally:
        evaluator.close()


def _roller(
    recipe: Recipe,
    shop: Workshop,
    evaluator: Evaluator,
    stop: StopFlag,
    *,
    lender: Lender,
    room: Room | None,
) -> Roller:
    parts = Parts(
        trainer=shop.trainer,
        store=shop.store,
        evaluator=evaluator,
        ledger=shop.ledger,
        tasks={task.name: task for task in shop.tasks},
        watch=shop.watch,
        stop=stop,
        lender=lender,
        room=room,
    )
    settings = RollerSettings(
        clock=shop.clock,
        seed=recipe.seed,
        crash_path=shop.folder.crash_copy,
        evaluate_at=recipe.eval.at,
        dropped_every=recipe.eval.dropped_every,
        in_memory=recipe.snapshots.where == "ram",
    )
    return Roller(parts, settings)
