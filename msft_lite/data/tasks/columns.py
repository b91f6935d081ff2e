"""Values of hub rows and of presets' local files, checked.

Errors say what is wrong without a place: `items.preset_row` puts it in front.
"""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.cells import checked_text
from msft_lite.data.files import kind
from msft_lite.data.tasks.preset import Item
from msft_lite.data.tasks.text import letter
from msft_lite.errors import DataError, did_you_mean


def value_of(row: Mapping[str, object], column: str) -> object:
    """Returns the value of a column that must be there."""
    if column not in row:
        known = ", ".join(repr(name) for name in list(row)[:12]) or "(none)"
        raise DataError(
            f"there is no column {column!r}{did_you_mean(column, row)}; the columns are {known}"
        )
    return row[column]


def text(row: Mapping[str, object], column: str, *, numbers: bool = False) -> str:
    """Returns the text in a column, which is not blank.

    Args:
        row: columns and values.
        column: the one to read.
        numbers: whether a number is written out, a whole one without a point.
    """
    return checked_text(value_of(row, column), repr(column), numbers=numbers)


def optional_text(row: Mapping[str, object], column: str) -> str:
    """Returns the text in a column, empty where it is blank, null or not there."""
    value = row.get(column)
    return "" if _is_blank(value) else text(row, column)


def choices_of(value: object, name: str) -> tuple[str, ...]:
    """Returns a list of choices as texts; blank and null ones are empty.

    Published data has a few of them; what is asked is answered with a letter all the same.

    Args:
        value: what should be a list.
        name: what messages call it.
    """
    if not isinstance(value, list):
        raise DataError(f"{name!r} must be a list of texts, found {kind(value)}")
    return tuple(
        "" if _is_blank(entry) else checked_text(entry, f"{name!r}, entry {number}", numbers=True)
        for number, entry in enumerate(value, start=1)
    )


def numbered_letter(row: Mapping[str, object], column: str, *, choices: int, first: int = 0) -> str:
    """Returns the letter of the right choice.

    Args:
        row: columns and values.
        column: holds the choice's number, as an integer or in digits.
        choices: how many there are.
        first: number of the first one.
    """
    value = value_of(row, column)
    digits = value if isinstance(value, str) else str(value) if type(value) is int else ""
    numbers = [str(first + index) for index in range(choices)]
    if digits not in numbers:
        raise DataError(
            f"the answer {column!r} is {_shown(value)}, none of {', '.join(numbers)}; where it is "
            "withheld the split cannot be used"
        )
    return letter(numbers.index(digits))


def labelled_item(row: Mapping[str, object], *, question: str = "question") -> Item:
    """Returns the item of a row with ``choices`` (``text`` and ``label``) and ``answerKey``.

    Labels may be letters or numbers; the item's answer is the letter of the place.

    Args:
        row: columns and values.
        question: name of the question's column.
    """
    choices, key = value_of(row, "choices"), value_of(row, "answerKey")
    if not isinstance(choices, Mapping):
        raise DataError(f"'choices' must be an object of text and label, found {kind(choices)}")
    texts = choices_of(value_of(choices, "text"), "choices.text")
    labels = choices_of(value_of(choices, "label"), "choices.label")
    if len(labels) != len(texts):
        raise DataError(f"'choices' has {len(texts)} texts and {len(labels)} labels")
    if not isinstance(key, str) or key not in labels:
        raise DataError(
            f"the answer 'answerKey' is {_shown(key)}, none of {', '.join(labels)}; where it is "
            "withheld the split cannot be used"
        )
    return Item(text(row, question), letter(labels.index(key)), texts)


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _shown(value: object) -> str:
    return repr(value)[:60]
