"""CommonsenseQA (Talmor et al. 2019): everyday questions with five choices."""

from __future__ import annotations

from msft_lite.data.tasks.columns import labelled_item
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text

PRESET = Preset(
    name="commonsenseqa",
    domain="commonsense and language",
    licence="MIT",
    # The answers of its test split are withheld.
    hub=Hub(
        dataset="tau/commonsense_qa",
        revision="94630fe30dad47192a8546eb75f094926d47e155",  # a pinned commit
        configuration="",
        train="train",
        control=None,
        report="validation",
        rows={"train": 9741, "validation": 1221},
    ),
    to_item=labelled_item,
    to_text=choice_text,
    shots=(
        Item(
            "Where would you keep milk so that it does not spoil?",
            "C",
            ("bookshelf", "garden", "refrigerator", "mailbox", "garage"),
        ),
        Item(
            "What do people usually put on before they walk in the rain?",
            "A",
            ("a raincoat", "sunglasses", "pyjamas", "a swimsuit", "a necklace"),
        ),
        Item(
            "A cook who wants to slice bread reaches for what?",
            "E",
            ("a ladle", "a kettle", "a sponge", "a towel", "a knife"),
        ),
        Item(
            "Where do passengers wait before they board a train?",
            "B",
            ("courtroom", "platform", "stage", "orchard", "cellar"),
        ),
        Item(
            "Why would somebody whisper in a library?",
            "D",
            ("to be paid", "to keep warm", "to get lost", "not to disturb readers", "to grow"),
        ),
    ),
    max_new_tokens=16,
)
