"""Changes to a recipe from the command line: ``key.path=value``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from msft_lite.errors import RecipeError, did_you_mean
from msft_lite.recipe.files import EXTENDS
from msft_lite.recipe.problems import Place, key_name


def override(document: dict[str, Any], text: str) -> Place:
    """Applies ``key.path=value`` to ``document`` and returns the place it changed.

    The value is TOML, or else text as it stands; with no value at all the key is taken out. A task
    is named by its name, by its preset where it has no name, or by its index.

    Raises:
        RecipeError: ``text`` is no change, or its place does not exist.
    """
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise RecipeError(
            f"command line: {text!r} is not a change; write key.path=value, "
            "such as train.learning_rate=2e-5"
        )
    if parts == [EXTENDS]:
        raise RecipeError(f"command line: {text!r}: what a recipe extends can only stand in a file")
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
    table = cast(dict[str, Any], task) if isinstance(task, dict) else {}
    return str(table.get("name", table.get("preset", "")))


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
