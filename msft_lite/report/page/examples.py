"""Example answers of the base and of the returned point, from examples.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from msft_lite.core import MILLION

FILE_NAME = "examples.json"
FORMAT = 1
MOST_SHOWN = 12  # rows of a task
_MOST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and what it is worth in millionths."""

    output: str
    worth: int

    @property
    def verdict(self) -> str:
        """``right``, ``wrong``, or the worth of a partly right answer."""
        if self.worth >= MILLION:
            return "right"
        return "wrong" if self.worth <= 0 else f"worth {self.worth / MILLION:.2f}"

    @property
    def css(self) -> str:
        """The class that colours the verdict."""
        return self.verdict if self.verdict in ("right", "wrong") else "partly"


@dataclass(frozen=True, slots=True)
class Example:
    """A row: its prompt, the answer wanted, and both answers given."""

    row: int
    prompt: str
    gold: str
    base: Answer
    best: Answer


@dataclass(frozen=True, slots=True)
class TaskExamples:
    """The examples of one task.

    Attributes:
        left_out: how many more the file has.
    """

    task: str
    examples: tuple[Example, ...]
    left_out: int

    @property
    def tally(self) -> str:
        """How many of the shown rows each model had right."""
        base, best = (
            sum(answer.verdict == "right" for answer in side)
            for side in ([e.base for e in self.examples], [e.best for e in self.examples])
        )
        return f"of {len(self.examples)} shown: base {base} right, returned {best} right"


@dataclass(frozen=True, slots=True)
class Examples:
    """All examples, or a note that says why there are none although there is a file."""

    tasks: tuple[TaskExamples, ...] = ()
    note: str = ""


class _Damage(Exception):
    """The file does not say what it should; the text says where."""


def read_examples(folder: Path) -> Examples:
    """Returns the examples of the run in ``folder``; none where it has no such file.

    A file that cannot be used is no reason to have no report: it gives a note.
    """
    path = folder / FILE_NAME
    try:
        if path.stat().st_size > _MOST_BYTES:
            return Examples(note=f"{FILE_NAME} is larger than 64 MiB and was not read.")
        content: object = json.loads(path.read_bytes())
        return Examples(_tasks(_mapping(content, "the file")))
    except FileNotFoundError:
        return Examples()
    except OSError as error:
        return Examples(note=f"{FILE_NAME} cannot be read: {error.strerror}.")
    except (ValueError, RecursionError):
        return Examples(note=f"{FILE_NAME} is damaged: it is not JSON.")
    except _Damage as damage:
        return Examples(note=f"{FILE_NAME} is damaged: {damage}.")


def _tasks(content: Mapping[str, object]) -> tuple[TaskExamples, ...]:
    if content.get("format") != FORMAT:
        raise _Damage(f"format is {str(content.get('format'))[:40]} where {FORMAT} is read")
    return tuple(
        _task(task, rows) for task, rows in _mapping(content.get("tasks"), "tasks").items()
    )


def _task(task: str, rows: object) -> TaskExamples:
    where = f"tasks.{task}"
    if not isinstance(rows, list):
        raise _Damage(f"{where} is not a list")
    entries = cast("list[object]", rows)
    found = (_example(row, f"{where}[{k}]") for k, row in enumerate(entries[:MOST_SHOWN]))
    return TaskExamples(task, tuple(found), max(0, len(entries) - MOST_SHOWN))


def _example(row: object, where: str) -> Example:
    fields = _mapping(row, where)
    return Example(
        _whole(fields, "row", where),
        _text(fields, "prompt", where),
        _text(fields, "gold", where),
        _answer(fields.get("base"), f"{where}.base"),
        _answer(fields.get("best"), f"{where}.best"),
    )


def _answer(value: object, where: str) -> Answer:
    fields = _mapping(value, where)
    return Answer(_text(fields, "output", where), _whole(fields, "worth", where))


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _Damage(f"{where} is not an object")
    return cast("dict[str, object]", value)


def _text(fields: Mapping[str, object], key: str, where: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise _Damage(f"{where}.{key} is not a text")
    return value


def _whole(fields: Mapping[str, object], key: str, where: str) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Damage(f"{where}.{key} is not a whole number")
    return value
