"""SciQ (Welbl et al. 2017): science questions, answered in words without choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from msft_lite.data.tasks.columns import text
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import free_text, right_index


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``question`` and ``correct_answer``; distractors and support are not used."""
    return Item(text(row, "question"), text(row, "correct_answer"))


def to_text(item: Item) -> tuple[str, str]:
    """Returns the question without choices, and the text of the right one."""
    if item.choices:
        item = replace(item, answer=item.choices[right_index(item)])
    return free_text(item)


PRESET = Preset(
    name="sciq",
    domain="science and knowledge",
    licence="CC BY-NC 3.0",
    hub=Hub(
        dataset="allenai/sciq",
        revision="2c94ad3e1aafab77146f384e23536f97a4849815",  # a pinned commit
        configuration="",
        train="train",
        control="validation",
        report="test",
        rows={"train": 11679, "validation": 1000, "test": 1000},
    ),
    to_item=to_item,
    to_text=to_text,
    shots=(
        Item("What gas do plants take in from the air to make sugar?", "carbon dioxide"),
        Item("What is the hard outer layer of a tooth called?", "enamel"),
        Item("Which force pulls objects towards the centre of the Earth?", "gravity"),
        Item("What do we call an animal that eats plants only?", "herbivore"),
        Item("What is the smallest unit of an element that keeps its properties?", "atom"),
    ),
    max_new_tokens=64,
)
