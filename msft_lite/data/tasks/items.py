"""Rows of presets: from hub rows or local files to items, from items to text."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.rows import Record, Row
from msft_lite.data.tasks.columns import choices_of, optional_text, text, value_of
from msft_lite.data.tasks.preset import Item, Preset
from msft_lite.data.tasks.text import letter_options
from msft_lite.errors import DataError

SUBJECT = "subject"  # the one column that rows of presets can be divided by


def item_of(values: Mapping[str, object]) -> Item:
    """Returns the item that an object of a preset's local file stands for.

    Raises:
        DataError: a value is missing or of the wrong type; the message does not say where.
    """
    choices, given = values.get("choices"), value_of(values, "answer")
    # JSON has true and false; BoolQ's answers may be written so.
    answer = str(given) if isinstance(given, bool) else text(values, "answer", numbers=True).strip()
    return Item(
        question=text(values, "question"),
        answer=answer,
        choices=() if choices is None else choices_of(choices, "choices"),
        rationale=optional_text(values, "rationale"),
        context=optional_text(values, "context"),
        subject=optional_text(values, SUBJECT),
    )


def preset_row(preset: Preset, record: Record, *, local: bool, group_by: str | None = None) -> Row:
    """Returns the row of text that a record of ``preset`` stands for.

    Args:
        preset: the benchmark.
        record: a row of its local file, or of its dataset on the hub.
        local: which of the two.
        group_by: ``subject`` makes the item's subject the row's group.

    Raises:
        DataError: the record is not one of the preset's, or it cannot be grouped; the message
            starts with ``record.where``.
    """
    if group_by not in (None, SUBJECT):
        raise DataError(
            f"{record.where}: split_by: there is no column {group_by!r} in preset "
            f"{preset.name!r}; it can be divided by {SUBJECT!r} only"
        )
    try:
        item = item_of(record.values) if local else preset.to_item(record.values)
        prompt, answer = preset.to_text(item)
    except DataError as error:
        raise DataError(f"{record.where}: no row of preset {preset.name!r}: {error}") from error
    if group_by and not item.subject:
        raise DataError(
            f"{record.where}: split_by: this row of preset {preset.name!r} has no {SUBJECT}"
        )
    group = item.subject if group_by else ""
    return Row(record.where, prompt, answer, group=group, options=letter_options(item, answer))


def shot_rows(preset: Preset) -> tuple[Row, ...]:
    """Returns the preset's solved items as rows."""
    return tuple(
        Row(f"{preset.name}, shot {number}", *preset.to_text(item))
        for number, item in enumerate(preset.shots, start=1)
    )
