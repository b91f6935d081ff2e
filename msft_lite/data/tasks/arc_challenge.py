"""ARC-Challenge (Clark et al. 2018): grade-school science questions that are hard to look up."""

from __future__ import annotations

from msft_lite.data.tasks.columns import labelled_item
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text

PRESET = Preset(
    name="arc_challenge",
    domain="science and knowledge",
    licence="CC BY-SA 4.0",
    hub=Hub(
        dataset="allenai/ai2_arc",
        revision="210d026faf9955653af8916fad021475a3f00453",  # a pinned commit
        configuration="ARC-Challenge",
        train="train",
        control="validation",
        report="test",
        rows={"train": 1119, "validation": 299, "test": 1172},
    ),
    to_item=labelled_item,
    to_text=choice_text,
    shots=(
        Item(
            "Two equal pots of water stand on equal flames, one with a lid. The pot with the lid "
            "boils first because the lid",
            "B",
            (
                "adds heat to the water",
                "keeps heat from escaping with the steam",
                "makes the flame hotter",
                "lowers the mass of the water",
            ),
        ),
        Item(
            "A farmer plants clover between two seasons of corn. What does this do for the soil?",
            "D",
            (
                "It makes the soil more acid.",
                "It washes minerals away.",
                "It turns clay into sand.",
                "It brings nitrogen back into it.",
            ),
        ),
        Item(
            "Which change would make a paper glider fall more slowly?",
            "A",
            (
                "larger wings of the same paper",
                "a paper clip at its nose",
                "a start from a higher place",
                "a shorter tail",
            ),
        ),
        Item(
            "Fossils of sea shells are found on a mountain. This suggests that the rock there",
            "C",
            (
                "was carried up by birds",
                "is younger than the mountain",
                "once lay under an ocean",
                "was formed by a volcano",
            ),
        ),
        Item(
            "A student rides a bicycle twice as fast as before on the same level road. Which "
            "quantity becomes four times as large?",
            "C",
            ("its mass", "its weight", "its kinetic energy", "its momentum"),
        ),
    ),
    max_new_tokens=16,
)
