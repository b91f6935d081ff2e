"""Rows of presets' local files, and what every preset's text has in common."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from msft_lite.data.rows import Record
from msft_lite.data.tasks import PRESETS, preset
from msft_lite.data.tasks.items import item_of, preset_row
from msft_lite.data.tasks.preset import Item
from msft_lite.data.tasks.text import choice_text, free_text, letter
from msft_lite.errors import DataError

CHOICES = {"question": "Ice is", "choices": ["hot", "cold"], "answer": "B"}


def text_of(name: str, values: Mapping[str, object]) -> tuple[str, str]:
    row = preset_row(PRESETS[name], Record("a.jsonl, line 2", values), local=True)
    return row.prompt, row.answer


def test_a_full_item() -> None:
    values = {
        "id": "7",
        "question": "Ice is",
        "choices": ["hot", "cold"],
        "answer": " B ",
        "rationale": "Touch it.",
        "context": "In a freezer.",
        "subject": "physics",
    }
    expected = Item("Ice is", "B", ("hot", "cold"), "Touch it.", "In a freezer.", "physics")
    assert item_of(values) == expected


def test_an_item_of_nulls() -> None:
    nulls = dict.fromkeys(("id", "choices", "rationale", "context", "subject"))
    assert item_of({"question": "1+1?", "answer": 2, **nulls}) == Item("1+1?", "2")
    assert item_of({"question": "Is it?", "answer": True}) == Item("Is it?", "True")
    assert item_of({"question": "?", "answer": "a", "rationale": " "}) == Item("?", "a")


@pytest.mark.parametrize(
    ("name", "values", "prompt", "answer"),
    [
        ("arc_easy", CHOICES, "Q: Ice is\noptions: A. hot, B. cold\nA: ", "#### B"),
        (
            "arc_easy",
            {**CHOICES, "choices": ["hot\n\nair", 7]},
            "Q: Ice is\noptions: A. hot air, B. 7\nA: ",
            "#### B",
        ),
        ("hellaswag", CHOICES, 'Q: "Ice is"\noptions: A. "hot", B. "cold"\nA: ', "#### B"),
        ("sciq", CHOICES, "Q: Ice is\nA: ", "#### cold"),
        ("sciq", {"question": "Ice?", "answer": "cold\n water"}, "Q: Ice?\nA: ", "#### cold water"),
        (
            "boolq",
            {"question": "is it?", "answer": "yes", "context": "Ice -- Ice.\n\nIt is."},
            "Q: Ice -- Ice.\nIt is.\nis it?\nA: ",
            "#### True",
        ),
        ("boolq", {"question": "is it", "answer": "No"}, "Q: is it?\nA: ", "#### False"),
        ("boolq", {"question": "is it", "answer": False}, "Q: is it?\nA: ", "#### False"),
        (
            "aqua_rat",
            {**CHOICES, "rationale": "Touch\n\nit. #### A"},
            "Q: Ice is\noptions: A. hot, B. cold\nA: ",
            "Touch\nit. #### B",
        ),
        (
            "gsm8k",
            {"question": "1?", "answer": "1,500,000", "rationale": "So."},
            "Q: 1?\nA: ",
            "So. #### 1500000",
        ),
        (
            "svamp",
            {"question": "1?", "answer": "1.0", "rationale": "( 1 )"},
            "Q: 1?\nA: ",
            "#### 1",
        ),
    ],
)
def test_text(name: str, values: Mapping[str, object], prompt: str, answer: str) -> None:
    assert text_of(name, values) == (prompt, answer)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("arc_easy", {"question": "Ice is"}, "no column 'answer'; the columns are 'question'"),
        ("arc_easy", {"qestion": "a", "answer": "A"}, "'question'; did you mean 'qestion'"),
        ("arc_easy", {**CHOICES, "answer": "cold"}, "'cold'; needed is the letter .* A to B"),
        ("arc_easy", {**CHOICES, "answer": "b"}, "the answer is 'b'"),
        ("arc_easy", {**CHOICES, "answer": "AB"}, "the answer is 'AB'"),
        ("arc_easy", {**CHOICES, "choices": None}, "there are 0 choices; needed are 2 to 26"),
        ("arc_easy", {**CHOICES, "choices": ["x"] * 27}, "there are 27 choices"),
        ("arc_easy", {**CHOICES, "choices": "a, b"}, "'choices' must be a list of texts"),
        ("arc_easy", {**CHOICES, "choices": ["a", []]}, "'choices', entry 2 must be"),
        ("sciq", {**CHOICES, "answer": "C"}, "the answer is 'C'"),
        ("sciq", {**CHOICES, "choices": ["hot", ""]}, "the answer is empty"),
        ("boolq", {"question": "is it", "answer": "maybe"}, "'maybe'; needed is True, False"),
        ("gsm8k", {"question": "1?", "answer": ","}, "the answer is empty"),
        ("gsm8k", {"question": "1?", "answer": "1", "rationale": 1}, "'rationale' must be"),
    ],
)
def test_refused(name: str, values: Mapping[str, object], message: str) -> None:
    with pytest.raises(
        DataError, match=f"^a.jsonl, line 2: no row of preset '{name}': .*{message}"
    ):
        text_of(name, values)


def test_groups() -> None:
    known, record = PRESETS["medmcqa"], Record("line 1", {**CHOICES, "subject": "Skin"})
    assert preset_row(known, record, local=True, group_by="subject").group == "Skin"
    assert preset_row(known, record, local=True).group == ""
    with pytest.raises(DataError, match=r"^line 1: split_by: .* 'topic' .* by 'subject' only"):
        preset_row(known, record, local=True, group_by="topic")
    with pytest.raises(DataError, match=r"^line 1: split_by: .* has no subject"):
        preset_row(known, Record("line 1", CHOICES), local=True, group_by="subject")


def test_context_comes_before_any_question() -> None:
    item = Item("Hot?", "A", ("yes", "no"), context="Ice. ", rationale="See.")
    assert choice_text(item) == ("Q: Ice.\nHot?\noptions: A. yes, B. no\nA: ", "See. #### A")
    assert free_text(Item("Hot?", "no", context="Ice."))[0] == "Q: Ice.\nHot?\nA: "


def test_letters() -> None:
    assert [letter(index) for index in (0, 1, 25)] == ["A", "B", "Z"]


def test_unknown_preset() -> None:
    with pytest.raises(DataError, match=r"'gsm8'.*did you mean 'gsm8k'"):
        preset("gsm8")
    assert preset("gsm8k") is PRESETS["gsm8k"]


@pytest.mark.parametrize("name", PRESETS)
def test_hub_is_pinned_and_complete(name: str) -> None:
    hub = PRESETS[name].hub
    assert hub.revision is not None
    assert re.fullmatch("[0-9a-f]{40}", hub.revision)
    used = [split for split in (hub.train, hub.control, hub.report) if split is not None]
    assert len(set(used)) == len(used)
    assert set(hub.rows) == set(used)
    assert hub.report is not None
    assert all(count > 0 for count in hub.rows.values())
