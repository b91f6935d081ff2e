"""Turns what pydantic says about a recipe into lines that name the key, its value and the cure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, ValidationError

from msft_lite.errors import did_you_mean
from msft_lite.recipe import models
from msft_lite.recipe.files import EXTENDS, SourceFile
from msft_lite.recipe.keys import KEY_PROBLEM, NAME_PATTERN
from msft_lite.recipe.method_tables import METHOD_TABLES

Place: TypeAlias = tuple[str | int, ...]  # of a key: ("tasks", 0, "name")
Document: TypeAlias = Mapping[str, Any]

TABLES: Mapping[str, type[BaseModel]] = {
    "model": models.ModelTable,
    "train": models.TrainTable,
    "eval": models.EvalTable,
    "engine": models.EngineTable,
    "data": models.DataTable,
    "snapshots": models.SnapshotsTable,
    "tasks": models.TaskTable,
}
NO_TASK = 'needed is a list of presets such as ["gsm8k"], or at least one [[tasks]] table'
NEEDED = {
    "int_type": "a whole number is needed",
    "float_type": "a number is needed",
    "string_type": "text in quotes is needed",
    "bool_type": "true or false is needed",
    "model_type": "a table of keys is needed",
    "model_attributes_type": "a table of keys is needed",
    "tuple_type": "a list is needed: names of presets, or tables each headed [[tasks]]",
    "dict_type": 'a table of texts is needed, such as { question = "stem" }',
    "is_instance_of": "a path in quotes is needed",
    "finite_number": "a finite number is needed",
    "int_parsing_size": "the number is too large",
    "string_too_short": "must not be empty",
    "string_pattern_mismatch": "must be letters, digits, - and _, starting with a letter or digit",
    "too_short": NO_TASK,
}
LIMITS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
    "string_too_long": ("max_length", "characters; allowed are at most"),
}


def problem_lines(
    error: ValidationError,
    document: Document,
    *,
    changed: Collection[Place],
    files: Sequence[SourceFile],
) -> list[str]:
    """Returns one line for every problem.

    Args:
        error: what pydantic found.
        document: the document it looked at, overrides applied.
        changed: places that an override on the command line has set.
        files: what the document was made of; the last is the recipe itself.
    """
    lines: list[str] = []
    for found in error.errors(include_url=False):
        place = _place(found)
        if found["type"] == "too_short" and value_at(place, document):
            continue  # tasks with problems of their own do not count as tasks
        was_changed = any(other[: len(place)] == place for other in changed)
        origin = " (from the command line)" if was_changed else _origin(place, files)
        shown = _shown(found, place, document)
        text = _text(found, place, document)
        lines.append(f"{key_name(place, document)}{shown}{origin}: {text}")
    return lines


def key_name(place: Place, document: Document) -> str:
    """Returns ``train.learning_rate``, or ``tasks.gsm.path`` for a task that has a name."""
    names: list[str] = []
    for index, part in enumerate(place):
        if isinstance(part, int) and place[:index] == ("tasks",) and place[2:] != ("name",):
            name = value_at((*place[:2], "name"), document)
            is_name = isinstance(name, str) and re.match(NAME_PATTERN, name)
            names.append(name if is_name else str(part))
        else:
            names.append(str(part))
    return ".".join(names)


def value_at(place: Place, document: Any) -> Any:
    """Returns the value at ``place``, or None."""
    for part in place:
        if isinstance(part, str) and isinstance(document, dict):
            document = cast(dict[str, Any], document).get(part)
        elif isinstance(part, int) and isinstance(document, list):
            items = cast(list[Any], document)
            document = items[part] if part < len(items) else None
        else:
            return None
    return document


def known_keys(place: Place, document: Document) -> tuple[str, ...]:
    """Returns the keys of the table that ``place`` lies in."""
    if len(place) == 1:
        return (EXTENDS, *models.Recipe.model_fields)
    if place[0] == "method":
        return tuple(METHOD_TABLES[document["method"]["name"]].model_fields)
    return tuple(TABLES[str(place[0])].model_fields)


def _place(found: Mapping[str, Any]) -> Place:
    """Returns where a problem is, without pydantic's names for the members of a union."""
    place: Place = tuple(found["loc"])
    if place[:1] == ("method",):
        place = ("method", *place[2:])
    key = "name" if found["type"] == "union_tag_invalid" else found.get("ctx", {}).get("key", "")
    keys = [part for part in key.split(".") if part]
    return (*place, *(int(key) if key.isdigit() else key for key in keys))


def _origin(place: Place, files: Sequence[SourceFile]) -> str:
    """Returns the file that brought the value at ``place``, if it is not the recipe itself."""
    # Tasks are numbered in the one file that brings them all, where a name may stand for a table.
    part = place[:1] if place[0] == "tasks" else place
    holders = [file.path for file in files if value_at(part, file.content) is not None]
    return f" (in {holders[-1]})" if holders and holders[-1] != files[-1].path else ""


def _shown(found: Mapping[str, Any], place: Place, document: Document) -> str:
    if found["type"] == "missing":
        return ""
    value = value_at(place, document)
    is_list_at_fault = isinstance(value, list) and found["type"] == KEY_PROBLEM
    if value is None or (isinstance(value, dict | list) and not is_list_at_fault):
        return ""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f" = {text if len(text) <= 80 else text[:77] + '...'}"


def _text(found: Mapping[str, Any], place: Place, document: Document) -> str:
    kind: str = found["type"]
    context: Mapping[str, Any] = found.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(place, document)
    if kind == "missing":
        return _missing(place)
    if kind in LIMITS:
        name, text = LIMITS[kind]
        return f"{text} {context[name]:g}"
    if kind == "literal_error":
        return _not_among(found["input"], str(context["expected"]))
    if kind == "union_tag_invalid":
        return _not_among(value_at(("method", "name"), document), str(context["expected_tags"]))
    return NEEDED.get(kind) or str(found["msg"])


def _not_among(value: Any, expected: str) -> str:
    names = [name.strip(" '") for name in expected.replace(" or ", ",").split(",")]
    close = did_you_mean(value, names) if isinstance(value, str) else ""
    if len(names) == 1:
        return f"must be {names[0]!r}"
    return f"must be one of {', '.join(map(repr, names))}{close}"


def _missing(place: Place) -> str:
    if place == ("tasks",):
        return f"is missing; {NO_TASK}"
    if place == ("model",):
        return "is missing; a [model] table with name_or_path is needed"
    if place[0] == "tasks" and place[-1] == "name":
        return "is missing; a task needs a name, or a preset to take it from"
    return "is missing"


def _unknown(place: Place, document: Document) -> str:
    key, siblings = str(place[-1]), known_keys(place, document)
    other = _elsewhere(key, place, document)
    close = did_you_mean(key, siblings)
    if other:
        return f"unknown key here; {other}"
    if close:
        return f"unknown key{close}"
    return f"unknown key; known here: {', '.join(siblings)}"


def _elsewhere(key: str, place: Place, document: Document) -> str:
    """Returns where a key of that very name belongs, or ''."""
    if place[0] == "method":
        for name, table in METHOD_TABLES.items():
            if key in table.model_fields:
                own = document["method"]["name"]
                return f"it is an option of method {name!r}, not of {own!r}; take it out"
    if key in (EXTENDS, *models.Recipe.model_fields):
        return f"{key!r} belongs at the top of the file, before the first [table]"
    for name, table in {**TABLES, "method": METHOD_TABLES["msft"]}.items():
        if key in table.model_fields and name != "tasks":
            return f"did you mean {f'{name}.{key}'!r}?"
    return ""
