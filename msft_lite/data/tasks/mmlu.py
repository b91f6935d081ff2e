"""MMLU (Hendrycks et al. 2021): examination questions in 57 subjects with four choices."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.tasks.columns import choices_of, numbered_letter, optional_text, text, value_of
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``question``, ``choices``, ``answer`` (0 to 3) and ``subject``."""
    choices = choices_of(value_of(row, "choices"), "choices")
    return Item(
        text(row, "question"),
        numbered_letter(row, "answer", choices=len(choices)),
        choices,
        subject=optional_text(row, "subject"),
    )


PRESET = Preset(
    name="mmlu",
    domain="science and knowledge",
    licence="MIT",
    # Its auxiliary training rows name no subject, and come from other benchmarks: ARC, OpenBookQA
    # and RACE among them.
    hub=Hub(
        dataset="cais/mmlu",
        revision="c30699e8356da336a370243923dbaf21066bb9fe",  # a pinned commit
        configuration="all",
        train="validation",
        control="dev",
        report="test",
        rows={"validation": 1531, "dev": 285, "test": 14042},
    ),
    to_item=to_item,
    to_text=choice_text,
    shots=(
        Item(
            "What is the derivative of x^3 with respect to x?",
            "B",
            ("x^2", "3x^2", "3x", "x^4 / 4"),
        ),
        Item(
            "Which body interprets the constitution in most federal states?",
            "D",
            ("the army", "the central bank", "the census office", "the supreme court"),
        ),
        Item(
            "A market with one seller and many buyers is called",
            "A",
            ("a monopoly", "an oligopoly", "a monopsony", "perfect competition"),
        ),
        Item(
            "Which data structure returns first what was put in last?",
            "C",
            ("a queue", "a heap", "a stack", "a hash table"),
        ),
        Item(
            "The pH of a neutral solution at 25 degrees Celsius is",
            "C",
            ("0", "1", "7", "14"),
        ),
    ),
    max_new_tokens=16,
)
