"""ARC-Easy (Clark et al. 2018): grade-school science questions, mostly with four choices."""

from __future__ import annotations

from msft_lite.data.tasks.columns import labelled_item
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text

PRESET = Preset(
    name="arc_easy",
    domain="science and knowledge",
    licence="CC BY-SA 4.0",
    hub=Hub(
        dataset="allenai/ai2_arc",
        revision="210d026faf9955653af8916fad021475a3f00453",  # a pinned commit
        configuration="ARC-Easy",
        train="train",
        control="validation",
        report="test",
        rows={"train": 2251, "validation": 570, "test": 2376},
    ),
    to_item=labelled_item,
    to_text=choice_text,
    shots=(
        Item(
            "With which organ does a person taste soup?",
            "C",
            ("the lung", "the stomach", "the tongue", "the kidney"),
        ),
        Item(
            "Which tool shows how warm the water in a bath is?",
            "A",
            ("a thermometer", "a ruler", "a scale", "a compass"),
        ),
        Item(
            "A lamp goes out when its plug is pulled because",
            "D",
            (
                "its bulb becomes heavier",
                "its wire becomes longer",
                "its switch closes",
                "its circuit is broken",
            ),
        ),
        Item(
            "A village wants power from a source that does not run out. What should it use?",
            "B",
            ("coal", "wind", "oil", "natural gas"),
        ),
        Item(
            "Ice that is left in a warm room changes from a solid to a",
            "B",
            ("gas", "liquid", "metal", "crystal"),
        ),
    ),
    max_new_tokens=16,
)
