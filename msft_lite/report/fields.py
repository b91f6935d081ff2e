"""Typed reading of one ledger row; what is missing or of the wrong type is named with its line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from msft_lite.core import Score
from msft_lite.errors import LedgerError
from msft_lite.ledger import DAMAGED

MOST_TOLD = 400  # characters of what is wrong with a row, which may be all of it


@dataclass(frozen=True, slots=True)
class Fields:
    """A row, or an object inside one, and where it stands.

    Every reading method raises LedgerError if the key is missing or its value is of another type.

    Attributes:
        values: the JSON object.
        where: file and line, for messages.
        prefix: path of the object inside its row, with a trailing dot; empty for the row itself.
    """

    values: Mapping[str, Any]
    where: str
    prefix: str = ""

    def damaged(self, what: str) -> LedgerError:
        """Returns the error to raise when the row says ``what``, of which the beginning is told."""
        told = what if len(what) <= MOST_TOLD else f"{what[:MOST_TOLD]}.."
        return LedgerError(f"{self.where}: {told}; {DAMAGED}")

    def text(self, key: str) -> str:
        """Returns a string."""
        value = self._value(key)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a text")
        return value

    def truth(self, key: str) -> bool:
        """Returns a boolean."""
        value = self._value(key)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def whole(self, key: str) -> int:
        """Returns a whole number, zero or more."""
        value = self._value(key)
        if not _is_whole(value):
            raise self._wrong(key, value, "a whole number of 0 or more")
        return cast(int, value)

    def names(self, key: str) -> tuple[str, ...]:
        """Returns a list of texts."""
        value = self._list(key)
        if not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "a list of texts")
        return tuple(cast("list[str]", value))

    def wholes(self, key: str) -> tuple[int, ...]:
        """Returns a list of whole numbers, each zero or more."""
        value = self._list(key)
        if not all(_is_whole(item) for item in value):
            raise self._wrong(key, value, "a list of whole numbers")
        return tuple(cast("list[int]", value))

    def group(self, key: str) -> Fields:
        """Returns the object under ``key``."""
        value = self._value(key)
        if not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return Fields(cast("Mapping[str, Any]", value), self.where, f"{self.prefix}{key}.")

    def numbers(self, key: str) -> dict[str, float]:
        """Returns an object of finite numbers."""
        group = self.group(key)
        return {name: group.number(name) for name in group.values}

    def number(self, key: str) -> float:
        """Returns a finite number."""
        value = self._value(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def scores(self, tasks: tuple[str, ...], counts: str, outcomes: str) -> dict[str, Score]:
        """Returns the score of every one of ``tasks``, in that order.

        Args:
            tasks: names that both objects must hold, and no others.
            counts: key path of the object of ``[sum, rows]``.
            outcomes: key path of the object of what every row is worth.
        """
        counted, texts = self._descend(counts), self._descend(outcomes)
        for group in (counted, texts):
            if set(group.values) != set(tasks):
                raise self.damaged(
                    f"{group.prefix[:-1]} names the tasks {sorted(group.values)} "
                    f"where the run has {sorted(tasks)}"
                )
        return {task: _score(task, counted, texts) for task in tasks}

    def _descend(self, path: str) -> Fields:
        fields = self
        for key in path.split("."):
            fields = fields.group(key)
        return fields

    def _value(self, key: str) -> object:
        if key not in self.values:
            raise self.damaged(f"there is no {self.prefix}{key}")
        return self.values[key]

    def _list(self, key: str) -> list[object]:
        value = self._value(key)
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return cast("list[object]", value)

    def _wrong(self, key: str, value: object, wanted: str) -> LedgerError:
        return self.damaged(f"{self.prefix}{key} = {repr(value)[:80]} is not {wanted}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _score(task: str, counted: Fields, texts: Fields) -> Score:
    score = _rows(task, texts)
    said = [sum(score.rows), score.total]
    if counted.values[task] != said:
        raise counted.damaged(
            f"{counted.prefix}{task} = {counted.values[task]} but the outcomes say {said}"
        )
    return score


def _rows(task: str, texts: Fields) -> Score:
    """Returns the score of a text of 0s and 1s, or of a list of millionths."""
    value = texts.values[task]
    if isinstance(value, str) and value and not set(value) - {"0", "1"}:
        return Score(value)
    if isinstance(value, list) and value:
        worth = cast("list[object]", value)
        if all(isinstance(row, int) and not isinstance(row, bool) for row in worth):
            return Score(worth=tuple(cast("list[int]", worth)))
    raise texts.damaged(f"{texts.prefix}{task} is neither a text of 0s and 1s nor a list of wholes")
