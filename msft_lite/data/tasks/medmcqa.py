"""MedMCQA (Pal et al. 2022): questions of medical entrance examinations in 21 subjects."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.tasks.columns import choices_of, numbered_letter, optional_text, text, value_of
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text

_OPTIONS = ("opa", "opb", "opc", "opd")


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``question``, ``opa`` to ``opd``, ``cop`` (0 to 3) and ``subject_name``."""
    return Item(
        text(row, "question"),
        numbered_letter(row, "cop", choices=len(_OPTIONS)),
        choices_of([value_of(row, option) for option in _OPTIONS], "opa to opd"),
        subject=optional_text(row, "subject_name"),
    )


PRESET = Preset(
    name="medmcqa",
    domain="science and knowledge",
    licence="Apache-2.0",
    # The answers of its test split are withheld.
    hub=Hub(
        dataset="openlifescienceai/medmcqa",
        revision="91c6572c454088bf71b679ad90aa8dffcd0d5868",  # a pinned commit
        configuration="",
        train="train",
        control=None,
        report="validation",
        rows={"train": 182822, "validation": 4183},
    ),
    to_item=to_item,
    to_text=choice_text,
    shots=(
        Item(
            "A patient who never goes out in daylight is likely to be short of",
            "C",
            ("Vitamin A", "Vitamin B12", "Vitamin D", "Vitamin K"),
        ),
        Item(
            "The loss of which cells of the pancreas leads to a lack of insulin?",
            "B",
            ("Alpha cells", "Beta cells", "Delta cells", "Acinar cells"),
        ),
        Item(
            "A man with a broken tibia has broken a bone of his",
            "D",
            ("arm", "hand", "skull", "leg"),
        ),
        Item(
            "Breathing that too much morphine has slowed is restored with",
            "A",
            ("Naloxone", "Fentanyl", "Codeine", "Heparin"),
        ),
        Item(
            "A sailor with bleeding gums has had no fruit for months. He lacks",
            "B",
            ("Iron", "Vitamin C", "Iodine", "Calcium"),
        ),
    ),
    max_new_tokens=16,
)
