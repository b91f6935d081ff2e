"""Reads, digests and writes recipes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import ValidationError

from msft_lite.errors import RecipeError
from msft_lite.recipe.files import DEFAULT_METHOD, EXTENDS, SourceFile, merged, read_files
from msft_lite.recipe.keys import NAME_PATTERN
from msft_lite.recipe.method_tables import METHOD_TABLES, MsftTable
from msft_lite.recipe.models import LORA_KEYS, EngineTable, Recipe
from msft_lite.recipe.overrides import override
from msft_lite.recipe.problems import Place, problem_lines, value_at
from msft_lite.recipe.task_table import TaskTable

LEARNING_RATE = {"lora": 2e-4, "full": 1e-5}
# How a step is made to fit: changes results by rounding alone, but for the masks of dropout.
MEMORY_KEYS = {
    "model": {"gradient_checkpointing", "activation_offload"},
    "train": {"per_device_train_batch_size", "gradient_accumulation_steps", "auto_micro_batch"},
}
# What may differ between two runs of the same results: memory, places, and how the engine is kept
# going.
# Files of rows, chat templates and model folders are left out because their content has digests
# of its own.
NOT_DIGESTED = {
    **MEMORY_KEYS,
    "output_dir": True,
    "eval": {"at"},
    "engine": set(EngineTable.model_fields) - {"name"},
    "data": {"dir", "cache_dir", "chat_template"},
    "snapshots": True,
    "tasks": {"__all__": {"path", "control_path", "report_path"}},
}
SEVERAL = ("methods", "seeds")  # keys of a comparison; a run has one of each
SOURCES = ("preset", "path", "dataset")  # of which a task has one


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe at ``path``, over the files that it extends, with ``overrides`` applied.

    Relative paths are relative to the folder of the file they stand in, those of overrides to the
    recipe's; output_dir alone is relative to the working folder.

    Args:
        path: a TOML file.
        overrides: ``key.path=value`` each; the value is TOML, or else text as it stands; with no
            value at all the key is taken out of the recipe. A task is named by its name or index:
            ``tasks.gsm.path=...``, ``tasks.0.path=...``.

    Raises:
        RecipeError: lists every problem found, with the key, its value and what is allowed.
    """
    draft = read_draft(path, overrides)
    several = [key for key in SEVERAL if key in draft.document]
    if several:
        raise RecipeError(
            f"{path}: {several[0]} is for several runs: start them with msft-lite compare {path}, "
            f"or take it out by {several[0]}="
        )
    return draft.recipe(draft.document)


@dataclass(frozen=True, slots=True)
class Draft:
    """A recipe as a document that is not yet checked.

    Attributes:
        document: everything that the files and the command line say.
        files: where it was read from, the recipe itself last.
        changed: places that the command line changed.
    """

    path: Path
    document: dict[str, Any]
    files: tuple[SourceFile, ...]
    changed: tuple[Place, ...]

    def recipe(self, document: dict[str, Any]) -> Recipe:
        """Returns the recipe that ``document``, a variant of this draft, describes.

        Raises:
            RecipeError: lists every problem found.
        """
        whole = copy.deepcopy(document)
        _complete(whole, self.path)
        try:
            return Recipe.model_validate(whole, context={"folder": self.path.absolute().parent})
        except ValidationError as error:
            lines = problem_lines(error, whole, changed=self.changed, files=self.files)
        if len(lines) == 1:
            raise RecipeError(f"{self.path}: {lines[0]}")
        raise RecipeError("\n  ".join([f"{self.path}: {len(lines)} problems", *lines]))


def read_draft(path: Path, overrides: Sequence[str]) -> Draft:
    """Returns the document of the recipe at ``path`` with ``overrides`` applied.

    Raises:
        RecipeError: a file or an override cannot be read.
    """
    files = read_files(path)
    document = merged(files)
    changed: list[Place] = []
    for text in overrides:
        _make_tables_of_tasks(document)
        changed.append(override(document, text))
    return Draft(path, document, files, tuple(changed))


def samples(recipe: Recipe, task: TaskTable) -> tuple[int | None, int | None, int | None]:
    """Returns the most rows of the training, control and report split of ``task``, if given."""
    return (
        task.train_samples or recipe.data.train_samples,
        task.control_samples or recipe.data.control_samples,
        task.report_samples or recipe.data.report_samples,
    )


def digest(recipe: Recipe, *, method: bool = True, seed: bool = True) -> str:
    """Returns the sha256 of what changes the results of a run.

    Folders, files, the engine's settings other than its name and `MEMORY_KEYS` do not.

    Args:
        recipe: of the run.
        method: whether the method and its options count; without them it is the same for all runs
            of a comparison with one seed.
        seed: whether the seed counts.
    """
    content = _digested(recipe)
    if not method:
        del content["method"]
    if not seed:
        del content["seed"]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differing(one: Recipe, other: Recipe) -> list[str]:
    """Returns the keys, as ``table.key``, by which two recipes have other results."""
    found = (_flat(_digested(recipe)) for recipe in (one, other))
    first, second = found
    return sorted(k for k in {**first, **second} if first.get(k) != second.get(k))


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": each for inner, each in cast(dict[str, Any], value).items()}
        else:
            flat[key] = value
    return flat


def _digested(recipe: Recipe) -> dict[str, Any]:
    content = recipe.model_dump(mode="json", exclude=NOT_DIGESTED)
    content["train"]["batch_rows"] = recipe.train.batch_rows
    if Path(recipe.model.name_or_path).is_absolute():
        del content["model"]["name_or_path"]
    for table in (content["eval"], *content["tasks"]):
        table["metric"] = _without_folder(table["metric"])
    return content


def dump_toml(recipe: Recipe) -> str:
    """Returns the resolved recipe as TOML; `load` makes an equal recipe of it from anywhere."""
    document = recipe.model_dump(mode="json", exclude_none=True)
    if recipe.model.tuning == "full":
        for key in LORA_KEYS:
            del document["model"][key]
        del document["train"]["loraplus_lr_ratio"]
    if recipe.engine.name == "torch":
        del document["engine"]["share_weights"]
    if isinstance(recipe.method, MsftTable) and recipe.method.detector == "peak":
        del document["method"]["alpha"]
    return tomli_w.dumps({key: value for key, value in document.items() if value != {}})


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of a recipe file, for editors."""
    schema = Recipe.model_json_schema()
    # Defaults that depend on another key are filled in before the models see the document, and so
    # is what the files that it extends bring: no table is needed in any one file.
    del schema["required"]
    for table in ("ModelTable", "TrainTable", "TaskTable"):
        del schema["$defs"][table]["required"]
    for method in set(METHOD_TABLES.values()) - {MsftTable}:
        schema["$defs"][method.__name__]["required"] = ["name"]
    names = {"type": "string", "minLength": 1}
    schema["properties"][EXTENDS] = {
        "anyOf": [names, {"type": "array", "items": names}],
        "description": "Recipe files that this one is laid over; their paths are relative to them.",
    }
    tasks = schema["properties"]["tasks"]
    preset = {"type": "string", "pattern": NAME_PATTERN, "description": "Name of a preset."}
    tasks["items"] = {"anyOf": [preset, tasks["items"]]}
    return schema


def _complete(document: dict[str, Any], path: Path) -> None:
    """Fills in the defaults that depend on the file's name or on another key."""
    document.setdefault("output_dir", f"runs/{path.stem}")
    tuning = value_at(("model", "tuning"), document)
    rate = LEARNING_RATE["full" if tuning == "full" else "lora"]
    defaults = (("train", "learning_rate", rate), ("method", "name", DEFAULT_METHOD))
    for table, key, default in defaults:
        keys = document.setdefault(table, {})
        if isinstance(keys, dict):
            cast(dict[str, Any], keys).setdefault(key, default)
    _make_tables_of_tasks(document)
    tasks = document.get("tasks")
    for task in cast(list[Any], tasks) if isinstance(tasks, list) else ():
        if isinstance(task, dict):
            _complete_task(cast(dict[str, Any], task))


def _make_tables_of_tasks(document: dict[str, Any]) -> None:
    """Makes a table of every task that is given as a text: name and preset."""
    tasks = document.get("tasks")
    if isinstance(tasks, list):
        given = cast(list[Any], tasks)
        document["tasks"] = [
            {"name": task, "preset": task} if isinstance(task, str) else task for task in given
        ]


def _complete_task(task: dict[str, Any]) -> None:
    """Takes the name from the preset, or the preset from the name of a task without a source."""
    name, preset = task.get("name"), task.get("preset")
    if name is None and isinstance(preset, str):
        task["name"] = preset
    elif isinstance(name, str) and name and not any(key in task for key in SOURCES):
        task["preset"] = name


def _without_folder(metric: str | None) -> str | None:
    """Returns ``file.py:name`` without the file's folder; its content has a digest of its own."""
    return metric and metric.rpartition("/")[2]
