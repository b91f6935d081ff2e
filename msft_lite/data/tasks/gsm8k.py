"""GSM8K (Cobbe et al. 2021): grade-school word problems solved in steps."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.tasks.columns import text
from msft_lite.data.tasks.preset import Hub, Item, Preset
from msft_lite.data.tasks.text import MARK, number_text
from msft_lite.errors import DataError


def to_item(row: Mapping[str, object]) -> Item:
    """Maps a row with ``question`` and ``answer``: a solution that ends with ``#### 1,234``."""
    solution, mark, number = text(row, "answer").rpartition(MARK)
    if not mark or not number.strip():
        raise DataError("'answer' does not end with '#### ' and a number")
    return Item(text(row, "question"), number.strip(), rationale=solution)


PRESET = Preset(
    name="gsm8k",
    domain="mathematical",
    licence="MIT",
    hub=Hub(
        dataset="openai/gsm8k",
        revision="740312add88f781978c0658806c59bc2815b9866",  # a pinned commit
        configuration="main",
        train="train",
        control=None,
        report="test",
        rows={"train": 7473, "test": 1319},
    ),
    to_item=to_item,
    to_text=number_text,
    shots=(
        Item(
            "Nora picks 14 apples in the morning and twice as many in the afternoon. She gives 9 "
            "away. How many apples has she left?",
            "33",
            rationale="In the afternoon she picks 14*2 = <<14*2=28>>28 apples.\n"
            "In all she picks 14+28 = <<14+28=42>>42 apples.\n"
            "She has 42-9 = <<42-9=33>>33 apples left.",
        ),
        Item(
            "A box holds 6 rows of 8 candles. Tom buys 3 boxes and burns 20 candles. How many "
            "candles are left?",
            "124",
            rationale="A box holds 6*8 = <<6*8=48>>48 candles.\n"
            "Three boxes hold 48*3 = <<48*3=144>>144 candles.\n"
            "There are 144-20 = <<144-20=124>>124 candles left.",
        ),
        Item(
            "Lena earns $12 an hour and works 5 hours a day, 4 days a week. How many dollars does "
            "she earn in a week?",
            "240",
            rationale="She works 5*4 = <<5*4=20>>20 hours a week.\n"
            "She earns 20*12 = $<<20*12=240>>240 a week.",
        ),
        Item(
            "A train of 9 cars has 40 seats in each car. Three quarters of the seats are taken. "
            "How many seats are free?",
            "90",
            rationale="The train has 9*40 = <<9*40=360>>360 seats.\n"
            "One quarter is free: 360/4 = <<360/4=90>>90 seats.",
        ),
        Item(
            "Ravi reads 25 pages on Monday and 10 pages more on Tuesday than on Monday. His book "
            "has 100 pages. How many pages are left to read?",
            "40",
            rationale="On Tuesday he reads 25+10 = <<25+10=35>>35 pages.\n"
            "In two days he reads 25+35 = <<25+35=60>>60 pages.\n"
            "There are 100-60 = <<100-60=40>>40 pages left.",
        ),
    ),
    max_new_tokens=512,
)
