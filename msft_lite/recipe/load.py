"""Reads, digests and writes recipes."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import tomli_w
from pydantic import ValidationError

from msft_lite.errors import RecipeError, did_you_mean
from msft_lite.recipe.models import LORA_KEYS, EngineTable, MsftTable, Recipe, TaskTable
from msft_lite.recipe.problems import Place, key_name, problem_lines, value_at

LEARNING_RATE = {"lora": 2e-4, "full": 1e-5}
# What may differ between two runs of the same results: places, and how the engine is kept going.
# Files of rows and model folders are left out because their content has digests of its own.
NOT_DIGESTED = {
    "output_dir": True,
    "eval": {"at"},
    "engine": set(EngineTable.model_fields) - {"name"},
    "tasks": {"__all__": {"path", "control_path", "report_path"}},
}


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the recipe at ``path`` with ``overrides`` applied.

    Relative paths, those of overrides too, are relative to the recipe's folder; output_dir alone
    is relative to the working folder.

    Args:
        path: a TOML file.
        overrides: ``key.path=value`` each; the value is TOML, or else text as it stands; with no
            value at all the key is taken out of the recipe. A task is named by its name or index:
            ``tasks.gsm.path=...``, ``tasks.0.path=...``.

    Raises:
        RecipeError: lists every problem found, with the key, its value and what is allowed.
    """
    document = _read(path)
    changed = [_override(document, text) for text in overrides]
    _complete(document, path)
    try:
        return Recipe.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        lines = problem_lines(error, document, changed)
    if len(lines) == 1:
        raise RecipeError(f"{path}: {lines[0]}")
    raise RecipeError("\n  ".join([f"{path}: {len(lines)} problems", *lines]))


def samples(recipe: Recipe, task: TaskTable) -> tuple[int | None, int | None, int | None]:
    """Returns the most rows of the training, control and report split of ``task``, if given."""
    return (
        task.train_samples or recipe.data.train_samples,
        task.control_samples or recipe.data.control_samples,
        task.report_samples or recipe.data.report_samples,
    )


def digest(recipe: Recipe) -> str:
    """Returns the sha256 of what changes the results of a run.

    Folders, files and the engine's settings other than its name do not.
    """
    content = recipe.model_dump(mode="json", exclude=NOT_DIGESTED)
    if Path(recipe.model.name_or_path).is_absolute():
        del content["model"]["name_or_path"]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def dump_toml(recipe: Recipe) -> str:
    """Returns the resolved recipe as TOML; `load` makes an equal recipe of it from anywhere."""
    document = recipe.model_dump(mode="json", exclude_none=True)
    if recipe.model.tuning == "full":
        for key in LORA_KEYS:
            del document["model"][key]
    if isinstance(recipe.method, MsftTable) and recipe.method.detector == "peak":
        del document["method"]["alpha"]
    tasks = [f"\n[[tasks]]\n{tomli_w.dumps(task)}" for task in document.pop("tasks")]
    tables = tomli_w.dumps({key: value for key, value in document.items() if value != {}})
    return tables + "".join(tasks)


def json_schema() -> dict[str, Any]:
    """Returns the JSON schema of a recipe file, for editors."""
    schema = Recipe.model_json_schema()
    # Defaults that depend on another key are filled in before the models see the document.
    schema["required"] = ["model", "tasks"]
    schema["$defs"]["TrainTable"].pop("required")
    schema["$defs"]["SftTable"]["required"] = ["name"]
    return schema


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; a recipe (TOML) is needed here") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}); save it as such") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{path}: not valid TOML: nested too deeply") from None


def _complete(document: dict[str, Any], path: Path) -> None:
    """Fills in the defaults that depend on the file's name or on another key."""
    document.setdefault("output_dir", f"runs/{path.stem}")
    tuning = value_at(("model", "tuning"), document)
    rate = LEARNING_RATE["full" if tuning == "full" else "lora"]
    for table, key, default in (("train", "learning_rate", rate), ("method", "name", "msft")):
        keys = document.setdefault(table, {})
        if isinstance(keys, dict):
            cast(dict[str, Any], keys).setdefault(key, default)


def _override(document: dict[str, Any], text: str) -> Place:
    """Applies ``key.path=value`` to ``document`` and returns the place it changed."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise RecipeError(
            f"command line: {text!r} is not a change; write key.path=value, "
            "such as train.learning_rate=2e-5"
        )
    table, place = _walk(document, parts)
    last = place[-1]
    if isinstance(last, int):
        raise RecipeError(f"command line: {text!r} names a whole task; name one of its keys")
    if value.strip():
        table[last] = _value(value, text)
    else:
        table.pop(last, None)
    return place


def _walk(document: dict[str, Any], parts: Sequence[str]) -> tuple[dict[str, Any], Place]:
    """Returns the table that holds the last of ``parts``, made if need be, and its place."""
    table: Any = document
    place: Place = ()
    for part in parts[:-1]:
        step = _step(table, part, place, document)
        table = table[step] if isinstance(step, int) else table.setdefault(step, {})
        place = (*place, step)
    return table, (*place, _step(table, parts[-1], place, document))


def _step(table: Any, part: str, place: Place, document: Mapping[str, Any]) -> str | int:
    """Returns the key or index that ``part`` means in ``table``, which lies at ``place``."""
    if isinstance(table, dict):
        return part
    where = key_name(place, document)
    if place != ("tasks",) or not isinstance(table, list):
        raise RecipeError(f"command line: {where}.{part}: {where} is a value and has no keys")
    tasks = cast(list[Any], table)
    names = [_name(task) for task in tasks]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(names) and isinstance(tasks[int(part)], dict):
        return int(part)
    raise RecipeError(
        f"command line: tasks.{part}: no such task{did_you_mean(part, names)} "
        f"(tasks here: {', '.join(names)})"
    )


def _name(task: Any) -> str:
    return str(cast(dict[str, Any], task).get("name", "")) if isinstance(task, dict) else ""


def _value(value: str, text: str) -> Any:
    """Returns ``value`` read as TOML; what is no TOML and has no quotes or brackets is text."""
    value = value.strip()
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (tomllib.TOMLDecodeError, RecursionError):
        if value.startswith(("[", "{", '"', "'")):
            raise RecipeError(
                f'command line: {text!r}: not a TOML value; write texts in quotes: ["a", "b"]'
            ) from None
        return value
    return parsed["value"] if len(parsed) == 1 else value
