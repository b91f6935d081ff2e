"""AQuA-RAT (Ling et al. 2017): algebra word problems with five choices and a rationale."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msft_lite.data.tasks.columns import choices_of, optional_text, text, value_of
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text

_LETTER = re.compile(r"\s*[A-E]\s*\)\s*")


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``question``, ``options`` (``A)21``), ``rationale`` and ``correct``."""
    options = choices_of(value_of(row, "options"), "options")
    return Item(
        text(row, "question"),
        text(row, "correct"),
        tuple(_LETTER.sub("", option, count=1) for option in options),
        rationale=optional_text(row, "rationale"),
    )


PRESET = Preset(
    name="aqua_rat",
    domain="mathematical",
    licence="Apache-2.0",
    hub=Hub(
        dataset="deepmind/aqua_rat",
        revision="33301c6a050c96af81f63cad5562cb5363e88971",  # a pinned commit
        configuration="raw",
        train="train",
        control="validation",
        report="test",
        rows={"train": 97467, "validation": 254, "test": 254},
    ),
    to_item=to_item,
    to_text=choice_text,
    shots=(
        Item(
            "A shop lowers the price of a 60 dollar coat by 15 percent. What does it cost now?",
            "B",
            ("45 dollars", "51 dollars", "54 dollars", "55 dollars", "69 dollars"),
            "Discount = 15/100 * 60 = 9\nNew price = 60 - 9 = 51 dollars",
        ),
        Item(
            "A car goes 180 km in 2.5 hours. What is its average speed in km per hour?",
            "D",
            ("60", "64", "70", "72", "75"),
            "Speed is distance over time: 180 / 2.5 = 72.",
        ),
        Item(
            "The sum of three consecutive whole numbers is 48. What is the largest of them?",
            "C",
            ("15", "16", "17", "18", "19"),
            "Let the middle number be x.\n3x = 48\nx = 16, so the largest is 17.",
        ),
        Item(
            "Six workers dig a trench in 8 days. In how many days do four workers dig it?",
            "E",
            ("5", "6", "9", "10", "12"),
            "The work is 6 * 8 = 48 worker days. Four workers need 48 / 4 = 12 days.",
        ),
        Item(
            "A bag holds 3 red and 5 blue balls. What is the chance that a ball drawn is red?",
            "A",
            ("3/8", "3/5", "5/8", "1/3", "1/2"),
            "There are 8 balls and 3 of them are red, so the chance is 3/8.",
        ),
    ),
    max_new_tokens=512,
    file_stem="aqua",
)
