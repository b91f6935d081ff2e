"""OpenBookQA (Mihaylov et al. 2018): elementary science with four choices."""

from __future__ import annotations

from functools import partial

from msft_lite.data.tasks.columns import labelled_item
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import choice_text

PRESET = Preset(
    name="openbookqa",
    domain="science and knowledge",
    licence="Apache-2.0",
    hub=Hub(
        dataset="allenai/openbookqa",
        revision="388097ea7776314e93a529163e0fea805b8a6454",  # a pinned commit
        configuration="main",
        train="train",
        control="validation",
        report="test",
        rows={"train": 4957, "validation": 500, "test": 500},
    ),
    to_item=partial(labelled_item, question="question_stem"),
    to_text=choice_text,
    shots=(
        Item(
            "A puddle is gone after a sunny afternoon because the water",
            "B",
            ("froze", "evaporated", "burned", "turned to soil"),
        ),
        Item(
            "Which of these lets electricity pass best?",
            "D",
            ("a rubber band", "a wooden spoon", "a glass cup", "a copper wire"),
        ),
        Item(
            "A polar bear's thick fur helps it to",
            "A",
            ("stay warm", "breathe under water", "see at night", "digest fish"),
        ),
        Item(
            "What does a seedling on a window sill bend towards?",
            "C",
            ("the floor", "the pot", "the light", "the wall"),
        ),
        Item(
            "A magnet will pull on",
            "B",
            ("a paper cup", "an iron nail", "a plastic comb", "a cotton sock"),
        ),
    ),
    max_new_tokens=16,
)
