"""PIQA (Bisk et al. 2020): which of two ways reaches a goal in the physical world."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.tasks.columns import numbered_letter, text
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``goal``, ``sol1``, ``sol2`` and ``label`` (0 or 1)."""
    choices = (text(row, "sol1"), text(row, "sol2"))
    return Item(text(row, "goal"), numbered_letter(row, "label", choices=2), choices)


PRESET = Preset(
    name="piqa",
    domain="commonsense and language",
    licence="AFL-3.0 (unconfirmed)",
    # The authors' own copy needs a script, which is never run; this is its Parquet form. The
    # answers of its test split are withheld.
    hub=Hub(
        dataset="baber/piqa",
        revision="142f6d7367fd9877f0fb3b5734ea6a545f54cdd1",  # a pinned commit
        configuration="",
        train="train",
        control=None,
        report="validation",
        rows={"train": 16113, "validation": 1838},
    ),
    to_item=to_item,
    to_text=choice_text,
    shots=(
        Item(
            "To open a jar with a tight lid,",
            "A",
            ("hold the lid under hot water first.", "hold the lid under a blanket of feathers."),
        ),
        Item(
            "How do you dry wet boots over night?",
            "B",
            ("Fill them with water.", "Stuff them with newspaper."),
        ),
        Item(
            "To hang a picture level on a wall,",
            "B",
            ("close your eyes while nailing.", "check its upper edge with a spirit level."),
        ),
        Item(
            "How do you keep cut apples from turning brown?",
            "A",
            ("Sprinkle them with lemon juice.", "Leave them in bright sunlight."),
        ),
        Item(
            "To remove a splinter from a finger,",
            "A",
            ("use clean tweezers.", "use a clean hammer."),
        ),
    ),
    max_new_tokens=16,
)
