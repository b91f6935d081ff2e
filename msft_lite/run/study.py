"""Makes a study of the paper: runs what it needs, and tells it from their ledgers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msft_lite.errors import LedgerError, RecipeError, ReplayMismatch, did_you_mean
from msft_lite.ledger import read_rows
from msft_lite.recipe import Variant, digest
from msft_lite.recipe.studies import PLANS, StudyOptions, load_study
from msft_lite.report.live import Watcher
from msft_lite.report.studies import STUDY, TELLERS, Study
from msft_lite.report.telling import read_story
from msft_lite.run.compare import is_finished, run_several
from msft_lite.run.folder import Mode, RunFolder

STUDIES = tuple(PLANS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What study is wanted, of which recipe.

    Attributes:
        name: one of `STUDIES`.
        output_dir: folder that the study's own lies in; None: the recipe's.
    """

    name: str
    recipe: Path
    overrides: Sequence[str] = ()
    output_dir: Path | None = None
    options: StudyOptions = field(default_factory=StudyOptions)


@dataclass(frozen=True, slots=True)
class Made:
    """A study, the folder to write it to, and those of the runs that it tells of."""

    study: Study
    folder: Path
    runs: tuple[Path, ...]


def make_study(wanted: Wanted, *, mode: Mode, watch: Callable[[], Watcher]) -> Made:
    """Runs what the study needs and returns what came out.

    A finished run of the same recipe that lies in another study's folder beside this one is taken
    in place of a new one, unless all is to be overwritten.

    Args:
        wanted: the study.
        mode: ``new`` wants unused folders; ``resume`` leaves finished runs alone and goes on with
            the others; ``overwrite`` removes this study's runs first.
        watch: makes what shows a run.

    Raises:
        ReplayMismatch: a finished run of this study is of another recipe.
        MsftError: the recipe cannot be used, or a run failed; those before it are kept.
        Interrupted: the user ended it.
    """
    if wanted.name not in PLANS:
        raise RecipeError(
            f"{wanted.name!r} is no study{did_you_mean(wanted.name, PLANS)} (there are "
            f"{', '.join(PLANS)})"
        )
    folder, variants = load_study(
        wanted.name,
        wanted.recipe,
        overrides=wanted.overrides,
        output_dir=wanted.output_dir,
        options=wanted.options,
    )
    STUDY.check_folder(folder)
    if mode == "resume":
        _check_finished(variants)
    held = {} if mode == "overwrite" else _held(folder, variants, watch)
    run_several([v for v in variants if v.label not in held], mode=mode, watch=watch)
    folders = {v.label: held.get(v.label, v.recipe.output_dir) for v in variants}
    stories = {label: read_story(RunFolder(at).ledger) for label, at in folders.items()}
    return Made(TELLERS[wanted.name](stories), folder, tuple(folders.values()))


def _check_finished(variants: Sequence[Variant]) -> None:
    for variant in variants:
        folder = RunFolder(variant.recipe.output_dir)
        if is_finished(folder) and read_rows(folder.ledger)[0].get("recipe") != _digest(variant):
            raise ReplayMismatch(
                f"{folder.path}: the finished run there is of another recipe, or of other options "
                "of the study; give those it began with, start again with --overwrite, or name "
                "another folder by --output-dir"
            )


def _held(
    folder: Path, variants: Sequence[Variant], watch: Callable[[], Watcher]
) -> Mapping[str, Path]:
    """Returns runs of other studies that are those of ``variants``, by label, and says so."""
    runs = dict(_finished_elsewhere(folder))
    found = {
        variant.label: runs[_digest(variant)]
        for variant in variants
        if _digest(variant) in runs and not RunFolder(variant.recipe.output_dir).ledger.exists()
    }
    if found:
        with watch() as shown:
            for label, place in found.items():
                shown.say(f"run {label}: taken from {place}, which is of the same recipe")
    return found


def _finished_elsewhere(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields digest and folder of the finished runs in the folders of other studies."""
    for name in STUDIES:
        if name == folder.name:
            continue
        for ledger in sorted((folder.parent / name).rglob("ledger.jsonl")):
            try:
                rows = read_rows(ledger)
            except LedgerError:
                continue  # a damaged run of another study is not this one's concern
            if rows and rows[-1]["kind"] == "finish":
                yield str(rows[0].get("recipe")), ledger.parent


def _digest(variant: Variant) -> str:
    return digest(variant.recipe)
