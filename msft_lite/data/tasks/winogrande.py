"""WinoGrande, debiased (Sakaguchi et al. 2020): which of two names fills the blank."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.tasks.columns import numbered_letter, text
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``sentence``, ``option1``, ``option2`` and ``answer`` (``1`` or ``2``)."""
    choices = (text(row, "option1"), text(row, "option2"))
    right = numbered_letter(row, "answer", choices=2, first=1)
    return Item(text(row, "sentence"), right, choices)


PRESET = Preset(
    name="winogrande",
    domain="commonsense and language",
    licence="CC BY",
    # The answers of its test split are withheld.
    hub=Hub(
        dataset="allenai/winogrande",
        revision="01e74176c63542e6b0bcb004dcdea22d94fb67b5",  # a pinned commit
        configuration="winogrande_debiased",
        train="train",
        control=None,
        report="validation",
        rows={"train": 9248, "validation": 1267},
    ),
    to_item=to_item,
    to_text=choice_text,
    shots=(
        Item(
            "The piano did not fit through the door because the _ was too wide.",
            "A",
            ("piano", "door"),
        ),
        Item("Clara lent Ines her umbrella, so _ got wet on the way home.", "A", ("Clara", "Ines")),
        Item(
            "Paul asked Omar for advice on the engine because _ had repaired many.",
            "B",
            ("Paul", "Omar"),
        ),
        Item(
            "The soup stayed warm longer than the tea because the _ was in a closed pot.",
            "A",
            ("soup", "tea"),
        ),
        Item(
            "Greta beat Hanna at chess, so _ asked for another game to make up for it.",
            "B",
            ("Greta", "Hanna"),
        ),
    ),
    max_new_tokens=16,
)
