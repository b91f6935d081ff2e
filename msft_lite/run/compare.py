"""Runs several recipes that differ in method and seed, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msft_lite.errors import OutputFolderError
from msft_lite.ledger import read_rows
from msft_lite.recipe import Variant
from msft_lite.report.live import Watcher
from msft_lite.run.folder import Mode, RunFolder
from msft_lite.run.session import run


def run_several(
    variants: Sequence[Variant], *, mode: Mode, watch: Callable[[], Watcher]
) -> tuple[Path, ...]:
    """Runs every variant to its end and returns their folders, in the same order.

    A later run takes over what an earlier one has recorded where it would do the same.

    Args:
        variants: what to run.
        mode: ``new`` wants unused folders; ``resume`` leaves finished runs alone, goes on with the
            one that was stopped and begins the others; ``overwrite`` removes all runs first.
        watch: makes what shows a run.

    Raises:
        OutputFolderError: a folder is in use.
        MsftError: a run failed; those before it are kept.
        Interrupted: the user ended it.
    """
    folders = [RunFolder(variant.recipe.output_dir) for variant in variants]
    if mode == "new":
        _check_unused(folders)
    for number, (variant, folder) in enumerate(zip(variants, folders, strict=True)):
        if mode == "resume" and is_finished(folder):
            continue
        done = [earlier.path for earlier in folders[:number]]
        with watch() as shown:
            shown.say(f"run {number + 1} of {len(variants)}: {variant.label}")
            run(variant.recipe, mode=_mode(mode, folder), watch=shown, lenders=done)
    return tuple(folder.path for folder in folders)


def is_finished(folder: RunFolder) -> bool:
    """Returns whether a run in ``folder`` came to its end.

    Raises:
        LedgerError: its ledger is damaged.
    """
    rows = read_rows(folder.ledger) if folder.ledger.exists() else []
    return bool(rows) and rows[-1]["kind"] == "finish"


def _mode(mode: Mode, folder: RunFolder) -> Mode:
    if mode == "overwrite":
        return "overwrite"
    return "resume" if folder.ledger.exists() else "new"


def _check_unused(folders: Sequence[RunFolder]) -> None:
    for folder in folders:
        if folder.ledger.exists():
            raise OutputFolderError(
                f"{folder.path} is in use: go on with the runs there by --resume, replace them by "
                "--overwrite, or name another folder by output_dir=FOLDER"
            )
