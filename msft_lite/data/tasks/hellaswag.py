"""HellaSwag (Zellers et al. 2019): which of four endings goes on with a scene."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from msft_lite.data.tasks.columns import choices_of, numbered_letter, optional_text, text, value_of
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text

# Marks of the parts of a WikiHow article; a title is a sentence of its own without a stop.
_TITLE = re.compile(r"(?<=[^\s.?!])\s*\[title\]")
_PART = re.compile(r"\[(?:header|title|step|substeps)\]")


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``ctx``, ``endings``, ``label`` (``0`` to ``3``) and ``activity_label``."""
    endings = choices_of(value_of(row, "endings"), "endings")
    return Item(
        _without_marks(text(row, "ctx")),
        numbered_letter(row, "label", choices=len(endings)),
        tuple(_without_marks(ending) for ending in endings),
        subject=optional_text(row, "activity_label"),
    )


def to_text(item: Item) -> tuple[str, str]:
    """Returns what `choice_text` does, with question and choices in double quotes."""
    quoted = tuple(f'"{choice.strip()}"' for choice in item.choices)
    return choice_text(replace(item, question=f'"{item.question.strip()}"', choices=quoted))


def _without_marks(article: str) -> str:
    return " ".join(_PART.sub(" ", _TITLE.sub(". ", article)).split())


PRESET = Preset(
    name="hellaswag",
    domain="commonsense and language",
    licence="MIT",
    # The answers of its test split are withheld.
    hub=Hub(
        dataset="Rowan/hellaswag",
        revision="218ec52e09a7e7462a5400043bb9a69a41d06b76",  # a pinned commit
        configuration="",
        train="train",
        control=None,
        report="validation",
        rows={"train": 39905, "validation": 10042},
    ),
    to_item=to_item,
    to_text=to_text,
    shots=(
        Item(
            "A woman kneads dough on a floured table. She",
            "A",
            (
                "shapes it into a loaf and puts it in a pan.",
                "throws the table out of the window.",
                "paints the dough with a roller brush.",
                "sits down on the dough and reads.",
            ),
        ),
        Item(
            "A boy kneels to tie his shoe at the edge of the track. When the whistle blows, he",
            "C",
            (
                "takes the track home.",
                "pours water into the whistle.",
                "stands up and starts to run.",
                "ties the shoe to a tree.",
            ),
        ),
        Item(
            "How to water a cactus. Check the soil with a finger first. If it is dry,",
            "D",
            (
                "put the cactus in the freezer.",
                "cut off all of its spines.",
                "paint the pot blue.",
                "pour a little water around the stem.",
            ),
        ),
        Item(
            "Two men carry a sofa up a narrow staircase. At the corner they",
            "B",
            (
                "cook it in a pot.",
                "tilt it upright to get around.",
                "swim across it.",
                "eat it slowly with a spoon.",
            ),
        ),
        Item(
            "A girl stands at the free-throw line with a ball. She bends her knees and",
            "C",
            (
                "buries the ball in the floor.",
                "lies down to sleep under the net.",
                "throws the ball at the hoop.",
                "peels the ball like an orange.",
            ),
        ),
    ),
    max_new_tokens=16,
)
