"""From run folders to systems: which runs are seeds of one, and what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msft_lite.errors import LedgerError, RecipeError, resume_command
from msft_lite.recipe import digest, load
from msft_lite.report.compare.comparable import check_comparable
from msft_lite.report.story import Story
from msft_lite.report.telling import read_story


@dataclass(frozen=True, slots=True)
class Systems:
    """Finished runs that can be compared.

    Attributes:
        stories: the runs of each system by its label, in the order named.
        folders: where those runs lie, likewise.
        notes: what was left out or kept apart, and why.
    """

    stories: dict[str, tuple[Story, ...]]
    folders: dict[str, tuple[Path, ...]]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """A finished run; ``settings`` is a digest of all but the seed, empty if it cannot be told."""

    folder: Path
    story: Story
    settings: str


def read_systems(folders: Sequence[Path]) -> Systems:
    """Reads the runs in ``folders`` and groups those that differ in their seed alone.

    A system is called by its method, and by its folder too where another one has the method.

    Raises:
        LedgerError: a ledger is missing or damaged, fewer than two runs are finished, or two of
            them cannot be compared.
    """
    single = {folder.resolve(): folder for folder in folders}
    stories = [(folder, read_story(folder / "ledger.jsonl")) for folder in single.values()]
    notes = ["A run that was named twice is taken once."] if len(single) < len(folders) else []
    notes += [
        f"{folder} is not finished and left out; go on with it: {resume_command(folder)}"
        for folder, story in stories
        if story.finish is None
    ]
    finished = [(folder, story) for folder, story in stories if story.finish is not None]
    if len(finished) < 2:
        given = f"a comparison needs two finished runs and was given {len(finished)}"
        raise LedgerError("; ".join([given, *notes]))
    check_comparable([(str(folder), story) for folder, story in finished])
    runs = [_Run(folder, story, _settings(folder, story)) for folder, story in finished]
    groups = _groups(runs)
    labels = _labels(groups)
    return Systems(
        {label: tuple(run.story for run in g) for label, g in zip(labels, groups, strict=True)},
        {label: tuple(run.folder for run in g) for label, g in zip(labels, groups, strict=True)},
        (*notes, *_apart_notes(runs)),
    )


def _settings(folder: Path, story: Story) -> str:
    """Returns the digest that the recipe would have with seed 0."""
    try:
        recipe = load(folder / "recipe.toml")
    except RecipeError:
        return ""
    if (recipe.seed, recipe.method.name) != (story.setting.seed, story.setting.method):
        return ""
    return digest(recipe.model_copy(update={"seed": 0}))


def _groups(runs: Sequence[_Run]) -> list[list[_Run]]:
    """Returns the runs of each system; runs of one seed are not two seeds of a system."""
    groups: dict[str, list[_Run]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(run.settings or f"run {number}", []).append(run)
    found: list[list[_Run]] = []
    for group in groups.values():
        has_twins = len({run.story.setting.seed for run in group}) < len(group)
        found += [[run] for run in group] if has_twins else [group]
    return found


def _labels(groups: Sequence[Sequence[_Run]]) -> list[str]:
    methods = [group[0].story.setting.method for group in groups]
    names = _tails([group[0].folder.resolve() for group in groups])
    return [
        method if methods.count(method) == 1 else f"{method} ({name})"
        for method, name in zip(methods, names, strict=True)
    ]


def _tails(folders: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of the paths that tell all of them apart."""
    depth, names = 1, [folder.name for folder in folders]
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
    return names


def _apart_notes(runs: Sequence[_Run]) -> list[str]:
    """Returns a note for each run that might be a seed of another's system but cannot be told."""
    methods = [run.story.setting.method for run in runs]
    return [
        f"{run.folder}: its recipe.toml cannot be read or is not the run's, so it stands apart "
        "from other seeds of its method."
        for run, method in zip(runs, methods, strict=True)
        if not run.settings and methods.count(method) > 1
    ]
