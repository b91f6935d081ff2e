"""The solved items that every preset shows."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from msft_lite.data.files import read_records
from msft_lite.data.grade import grader
from msft_lite.data.splits import normalised
from msft_lite.data.tasks import PRESETS
from msft_lite.data.tasks.items import shot_rows

FILES = sorted((Path(__file__).parents[5] / "shared" / "data").glob("*.jsonl"))
MOST_CHARACTERS = 1_300  # about 400 tokens: five shots leave room for a question in 700
LETTERS = [name for name, preset in PRESETS.items() if preset.shots[0].choices]


@pytest.mark.parametrize("name", PRESETS)
def test_five_distinct_shots(name: str) -> None:
    shots = shot_rows(PRESETS[name])
    assert [row.where for row in shots] == [f"{name}, shot {number}" for number in range(1, 6)]
    assert len({normalised(row.prompt) for row in shots}) == 5
    assert sum(len(row.prompt) + len(row.answer) + 2 for row in shots) <= MOST_CHARACTERS


@pytest.mark.parametrize("name", LETTERS)
def test_right_letters_vary(name: str) -> None:
    shots = PRESETS[name].shots
    letters = [shot.answer for shot in shots]
    assert len(set(letters)) >= min(4, len(shots[0].choices))
    assert all(letters.count(letter) <= 3 for letter in letters)
    assert all(len(set(shot.choices)) == len(shot.choices) for shot in shots)


@pytest.mark.parametrize("name", PRESETS)
def test_shots_are_right_and_short(name: str) -> None:
    preset = PRESETS[name]
    scored = grader(preset.grade)
    for shot, row in zip(preset.shots, shot_rows(preset), strict=True):
        gold = scored.gold_of(row.answer)
        assert gold == shot.answer
        assert scored.grade(row.answer, gold)
        # A token a byte, and the end-of-text token: no tokenizer needs more.
        assert len(row.answer.encode()) + 1 <= preset.max_new_tokens


@pytest.mark.parametrize("name", ["aqua_rat", "gsm8k"])
def test_shots_reason(name: str) -> None:
    assert all(shot.rationale for shot in PRESETS[name].shots)


@pytest.mark.skipif(not FILES, reason="no benchmark data beside the repository")
@pytest.mark.parametrize("name", PRESETS)
def test_no_shot_is_a_row_of_a_benchmark(name: str) -> None:
    assert len(questions()) > len(FILES)
    assert questions().isdisjoint(normalised(shot.question) for shot in PRESETS[name].shots)


@cache
def questions() -> frozenset[str]:
    return frozenset(
        normalised(str(record.values["question"]))
        for path in FILES
        for record in read_records(path)
    )
