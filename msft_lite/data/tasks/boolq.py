"""BoolQ (Clark et al. 2019): yes-or-no questions about a passage, answered True or False."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from msft_lite.data.tasks.columns import text, value_of
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import free_text
from msft_lite.errors import DataError

_ANSWERS = {"true": "True", "yes": "True", "false": "False", "no": "False"}


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``question`` (no question mark), ``passage`` and ``answer``."""
    return Item(text(row, "question"), str(value_of(row, "answer")), context=text(row, "passage"))


def to_text(item: Item) -> tuple[str, str]:
    """Returns the passage, then the question with one question mark, and True or False."""
    answer = _ANSWERS.get(item.answer.lower())
    if answer is None:
        raise DataError(f"the answer is {item.answer[:60]!r}; needed is True, False, yes or no")
    question = f"{item.question.strip().rstrip('?').rstrip()}?"
    return free_text(replace(item, question=question, answer=answer))


PRESET = Preset(
    name="boolq",
    domain="commonsense and language",
    licence="CC BY-SA 3.0",
    hub=Hub(
        dataset="google/boolq",
        revision="35b264d03638db9f4ce671b711558bf7ff0f80d5",  # a pinned commit
        configuration="",
        train="train",
        control=None,
        report="validation",
        rows={"train": 9427, "validation": 3270},
    ),
    to_item=to_item,
    to_text=to_text,
    shots=(
        Item(
            "can a violin be played without a bow",
            "True",
            context="A violin is mostly played with a bow. In pizzicato the player plucks the "
            "strings with a finger.",
        ),
        Item(
            "is the lighthouse on the island open in winter",
            "False",
            context="The island's lighthouse was built in 1871. Visitors may climb it from May to "
            "September; it is closed for the rest of the year.",
        ),
        Item(
            "do bats lay eggs",
            "False",
            context="Bats are the only mammals that truly fly. Like nearly all mammals they bear "
            "live young, usually one a year.",
        ),
        Item(
            "does the river reach the sea",
            "True",
            context="The river rises in the northern hills, runs through two lakes and ends in a "
            "wide delta on the coast.",
        ),
        Item(
            "is rye bread made with wheat only",
            "False",
            context="Rye bread is made with flour from rye grain, alone or mixed with wheat flour.",
        ),
    ),
    max_new_tokens=16,
)
