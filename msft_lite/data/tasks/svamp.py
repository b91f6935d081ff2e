"""SVAMP (Patel et al. 2021): short arithmetic word problems with varied wording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from msft_lite.data.tasks.columns import optional_text, text
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import number_text


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``Body``, ``Question``, ``Answer`` (``8.0``) and ``Type``."""
    return Item(
        f"{text(row, 'Body').strip()} {text(row, 'Question').strip()}",
        text(row, "Answer", numbers=True).strip(),
        subject=optional_text(row, "Type"),
    )


def to_text(item: Item) -> tuple[str, str]:
    """Returns question and number; a local file's equation is not shown."""
    return number_text(replace(item, rationale=""))


PRESET = Preset(
    name="svamp",
    domain="mathematical",
    licence="MIT",
    hub=Hub(
        dataset="ChilleD/SVAMP",
        revision="5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",  # a pinned commit
        configuration="",
        train="train",
        control=None,
        report="test",
        rows={"train": 700, "test": 300},
    ),
    to_item=to_item,
    to_text=to_text,
    shots=(
        Item("Mia had 17 stickers. She gave 5 to her brother. How many are left?", "12"),
        Item("There are 4 shelves with 9 books each. How many books are there in all?", "36"),
        Item("A rope of 56 metres is cut into 8 equal parts. How long is each part?", "7"),
        Item("Ben walked 3 km and then 11 km more. How many km did he walk in all?", "14"),
        Item("Eve has 30 beads, 6 more than Ann. How many beads has Ann?", "24"),
    ),
    max_new_tokens=16,
)
