"""What a resumed run shares with its beginning, and what of its recipe may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msft_lite.errors import OutputFolderError, RecipeError, ReplayMismatch, resume_command
from msft_lite.ledger import MEMORY, Row
from msft_lite.model.memory.advice import Change
from msft_lite.recipe import MEMORY_KEYS, Recipe, differing, digest, load
from msft_lite.run.folder import RunFolder

# What a resume must share with the run's beginning for its rows to be those of one run.
RESULT_KEYS = (
    "recipe", "method", "seed", "tasks", "data", "base", "trainable", "device", "dtype",
    "padding_free", "engine",
)  # fmt: skip
# What may differ, but may change the last bits of results.
ROUNDING_KEYS = ("threads", "versions", "loss_kernel")
# What a recipe may leave to the machine, by the start row's names, with the settings it stands for.
CHOICES = {
    "auto_micro_batch": ("per_device_train_batch_size", "gradient_accumulation_steps"),
    "auto_gradient_checkpointing": ("gradient_checkpointing",),
}


def load_run(folder: Path, changes: Sequence[str] = ()) -> Recipe:
    """Returns the recipe of the run in ``folder``, with changes that leave its results as they are.

    Raises:
        OutputFolderError: there is no run.
        RecipeError: a change cannot be made, or would change results by more than rounding.
    """
    place = RunFolder(folder)
    if not place.recipe.exists():
        raise OutputFolderError(f"{folder} holds no run: no {place.recipe.name}")
    where = f"output_dir={folder.resolve()}"
    begun = load(place.recipe, [where])
    changed = load(place.recipe, [*changes, where])
    if changed.train.auto_micro_batch:
        raise RecipeError(
            "train.auto_micro_batch: the rows of a pass are chosen when a run begins, never again; "
            "set train.per_device_train_batch_size and train.gradient_accumulation_steps"
        )
    if changed.model.gradient_checkpointing == "auto":
        raise RecipeError(
            'model.gradient_checkpointing = "auto": is chosen when a run begins, never again; set '
            "true, false, or k for every k-th layer"
        )
    if digest(changed) != digest(begun):
        raise RecipeError(
            f"{' '.join(changes)}: would change the results of the run in {folder}. A resume takes "
            "train.per_device_train_batch_size with train.gradient_accumulation_steps (their "
            f"product must stay {begun.train.batch_rows}), "
            f"{', '.join(f'model.{key}' for key in sorted(MEMORY_KEYS['model']))}, paths, "
            "settings of snapshots, and of the engine other than its name"
        )
    return changed


def check_places(recipe: Recipe) -> None:
    """Refuses to go on without the base and the rows that a run began with.

    Raises:
        RecipeError: they are not where the recipe says; it names all of them.
    """
    named = {"model.name_or_path": recipe.model.name_or_path, "data.dir": recipe.data.dir}
    for task in recipe.tasks:
        files = (("path", task.path), ("control_path", task.control_path),
                 ("report_path", task.report_path))  # fmt: skip
        named |= {f"tasks.{task.name}.{key}": path for key, path in files}
    places = {key: Path(place) for key, place in named.items() if place is not None}
    gone = {key: at for key, at in places.items() if at.is_absolute() and not at.exists()}
    if gone:
        listed = "".join(f"\n  {key} = {at}" for key, at in gone.items())
        changes = (f"{key}=..." for key in gone)
        raise RecipeError(
            f"what the run began with is not there any more:{listed}\nbring it back, or say by "
            f"absolute paths where it is: {resume_command(recipe.output_dir)} {' '.join(changes)}"
        )


def memory_row(recipe: Recipe) -> dict[str, Any]:
    """Returns how the recipe makes a step fit, by the recipe's names."""
    values = recipe.model_dump(mode="json", include={t: set(k) for t, k in MEMORY_KEYS.items()})
    merged = {key: value for table in values.values() for key, value in table.items()}
    del merged["auto_micro_batch"]  # of which these are the outcome
    return merged


def resume_changes(changes: Sequence[Change]) -> list[str]:
    """Returns the first of ``changes`` that a resume takes, as arguments; none if there is none."""
    allowed = {f"{table}.{key}" for table, keys in MEMORY_KEYS.items() for key in keys}
    for change in changes:
        pairs = [line.split(" = ", 1) for line in change.lines]
        if all(key in allowed for key, _ in pairs):
            return [f"{key}={value}" for key, value in pairs]
    return []


def open_choices(recipe: Recipe) -> tuple[str, ...]:
    """Returns which of `CHOICES` the recipe leaves to the machine."""
    is_open = (recipe.train.auto_micro_batch, recipe.model.gradient_checkpointing == "auto")
    return tuple(name for name, left in zip(CHOICES, is_open, strict=True) if left)


def choice_row(recipe: Recipe) -> dict[str, str | None]:
    """Returns the part of the start row that tells what was chosen, and for which runs."""
    left = open_choices(recipe)
    return {name: choice_key(recipe) if name in left else None for name in CHOICES}


def choice_key(recipe: Recipe) -> str:
    """Returns what runs share that are to make the same choices: all but method and seed."""
    return digest(recipe, method=False, seed=False)


def recorded_memory(rows: Sequence[Row]) -> Mapping[str, Any] | None:
    """Returns how steps were last made to fit in a run, as `memory_row` does; None before that."""
    found = [row["memory"] for row in rows if row["kind"] == "start" and "memory" in row]
    found += [
        {key: value for key, value in row.items() if key != "kind"}
        for row in rows
        if row["kind"] == MEMORY
    ]
    return found[-1] if found else None


def check_same_run(path: Path, recorded: Row, row: Row, recipe: Recipe) -> list[str]:
    """Returns what may change the last bits of a run that goes on with start row ``row``.

    Args:
        path: of the ledger.
        recorded: its start row.
        row: the start row of ``recipe``.
        recipe: that the run is to go on with.

    Raises:
        ReplayMismatch: what decides the results is not as in the recorded start row.
    """
    if recorded.get("recipe") != row["recipe"]:
        raise ReplayMismatch(f"{path}: {_told_recipe(RunFolder(path.parent), recipe)}")
    for key in RESULT_KEYS:
        if recorded.get(key) != row[key]:
            raise ReplayMismatch(
                f"{path}: the run began with {key} = {recorded.get(key)!r} and would go on with "
                f"{row[key]!r}; resume it as it began (recipe.toml beside the ledger), or start "
                "again with --overwrite"
            )
    return [
        f"the run began with {key} = {recorded.get(key)} and goes on with {row[key]}: "
        "the last bits of its results may differ"
        for key in ROUNDING_KEYS
        if recorded.get(key) != row[key]
    ]


def _told_recipe(folder: RunFolder, recipe: Recipe) -> str:
    """Returns in what ``recipe`` is not the one that the run in ``folder`` began with."""
    kept = folder.recipe.exists()
    begun = load(folder.recipe, [f"output_dir={folder.path.resolve()}"]) if kept else recipe
    if not (keys := differing(begun, recipe)):
        return (
            f"the run began with another recipe: {folder.recipe} is "
            f"{'not as it was then' if kept else 'gone'}; bring it back as it was, or start again "
            "with --overwrite"
        )
    return (
        f"the run began with another recipe: {', '.join(keys)} would change its results; go on as "
        f"it began with: {resume_command(folder.path)}, or start again with --overwrite"
    )


def trains_again(recipe: Recipe) -> bool:
    """Returns whether a run may have to train points again that it could have kept."""
    return recipe.snapshots.where == "ram" or recipe.snapshots.max_bytes is not None


def check_same_bits(path: Path, notes: Sequence[str]) -> None:
    """Refuses a resume whose last bits may differ, where points may have to be trained again.

    Raises:
        ReplayMismatch: there is one of ``notes``, as `check_same_run` and `memory_note` give them.
    """
    for note in notes:
        raise ReplayMismatch(
            f'{path}: {note}. With snapshots.max_bytes, or snapshots.where = "ram", points that '
            "were not kept are trained again and must come out as they were: go on as the run began"
        )


def memory_note(before: Mapping[str, Any], recipe: Recipe) -> str:
    """Returns what to tell of a run that goes on with other memory settings."""
    now = memory_row(recipe)
    changed = [key for key in now if before.get(key) != now[key]]
    told = ", ".join(f"{key} = {now[key]} (before: {before.get(key)})" for key in changed)
    masks = "per_device_train_batch_size" in changed and recipe.model.lora_dropout > 0
    return f"the run goes on with {told}: from here on its results may differ in the last bits" + (
        ", and dropout draws other masks" if masks else ""
    )
