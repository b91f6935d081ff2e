"""The values of one row by column, and the checks that make texts of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from msft_lite.data.files import kind
from msft_lite.errors import DataError

MOST_EXACT = 2**53  # floats count by ones up to here


@dataclass(frozen=True, slots=True)
class Cells:
    """A row under the names that formats give its columns.

    Attributes:
        where: the place that messages start with.
        values: by the formats' names.
        sources: the source's names of columns that it calls otherwise.
    """

    where: str
    values: Mapping[str, object]
    sources: Mapping[str, str]

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def source(self, name: str) -> str:
        return self.sources.get(name, name)

    def label(self, name: str) -> str:
        """Returns what messages call a column: ``'stem' (question)``."""
        source = self.source(name)
        return repr(name) if source == name else f"{source!r} ({name})"

    def text(self, name: str, *, numbers: bool = False) -> str:
        """Returns the text in a column: not blank, and no half characters in it.

        Args:
            name: the column.
            numbers: whether a number is written out, a whole one without a point.
        """
        return checked_text(self.values[name], f"{self.where}: {self.label(name)}", numbers=numbers)

    def optional_text(self, name: str) -> str:
        """Returns the text in a column, empty where there is none."""
        value = self.values.get(name)
        blank = value is None or (isinstance(value, str) and not value.strip())
        return "" if blank else self.text(name)

    def texts(self, name: str, value: object) -> tuple[str, ...]:
        """Returns the texts of a list that stands in a column."""
        where = f"{self.where}: {self.label(name)}"
        if not isinstance(value, list):
            raise DataError(f"{where} must be a list of strings, found {kind(value)}")
        return tuple(
            checked_text(entry, f"{where}, entry {number}", numbers=True)
            for number, entry in enumerate(value, start=1)
        )


def checked_text(value: object, where: str, *, numbers: bool = False) -> str:
    """Returns a text that holds more than blanks and can be written as UTF-8.

    Raises:
        DataError: it is none; the message starts with ``where``.
    """
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, where)
    if not isinstance(value, str):
        raise DataError(f"{where} must be a string, found {kind(value)}")
    if not value.strip():
        raise DataError(f"{where} is empty; give it a text or delete the row")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a surrogate pair, {value[error.start]!r} at character "
            f"{error.start}; write the whole character"
        ) from error
    return value


def _number(value: float, where: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where} is {value}; give it a text or a finite number")
    # Tables store whole numbers as floats where a cell of the column is empty.
    return str(int(value)) if abs(value) <= MOST_EXACT and value == int(value) else str(value)
