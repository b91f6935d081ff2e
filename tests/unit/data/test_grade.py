"""Tricky outputs, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from msft_lite.data.grade import GRADERS, exact, gold_of, grader, marked, text_of
from msft_lite.errors import DataError


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ("#### 7", "7", True),
        ("#### 7.", "7", True),
        ("#### 7.0", "7", True),
        ("#### 7..", "7", True),  # one period goes, "7." is a number
        ("#### .5", "0.5", True),
        ("#### -3", "-3.0", True),
        ("#### +3", "3", True),
        ("#### 1e3", "1000", True),
        ("#### B", "b", True),
        ("#### B.", "B", True),
        ("#### B .", "B", False),  # the rule strips before it takes the period off
        ("####  B  ", "B", True),
        ("####\tB", "B", False),  # the mark ends with a blank
        ("####B", "B", False),
        ("##### B", "B", True),  # "#### " is found within
        ("so 3 + 4 = 7 #### 7", "7", True),
        ("#### 7\n\nQ: 1+1\nA: #### 2", "7", True),
        ("#### 6 #### 7", "7", False),  # the first mark takes the rest of its line
        ("#### 6\n#### 7", "7", False),
        ("#### \n7", "7", False),
        ("####\n7", "7", False),  # no blank after it: no mark, and the whole text is not 7
        ("####", "7", False),
        ("", "7", False),
        ("   ", "7", False),
        ("7", "7", True),
        (" 7.\n", "7", True),
        ("the answer is 7", "7", False),
        ("#### 1,000", "1000", False),
        ("#### 1,000", "1,000", True),
        ("#### 1_000", "1000", False),
        ("#### nan", "nan", True),
        ("#### nan", "7", False),
        ("#### inf", "infinity", False),
        ("#### inf", "1e999", False),
        ("#### 1e999", "1e998", False),  # both overflow: compared as texts
        ("#### \u0667", "7", False),
        ("#### yes", "Yes", True),
        ("#### 7 apples", "7", False),
        ("#### 7\r\nmore", "7", True),
    ],
)
def test_marked(output: str, gold: str, *, right: bool) -> None:
    assert marked(output, gold) is right


@pytest.mark.parametrize(
    ("output", "gold", "right"),
    [
        ("B", "B", True),
        (" B\n", "B", True),
        ("b", "B", False),
        ("B.", "B", False),
        ("#### B", "B", False),
        ("", "B", False),
        ("7.0", "7", False),
        ("two\nlines", "two\nlines", True),
    ],
)
def test_exact(output: str, gold: str, *, right: bool) -> None:
    assert exact(output, gold) is right


@pytest.mark.parametrize(
    ("grade", "answer", "gold"),
    [
        ("marked", "3 + 4 = 7 #### 7.", "7"),
        ("marked", "B", "B"),
        ("marked", "#### ", ""),
        ("marked", "#### .", ""),
        ("marked", "reason\n#### C\n", "C"),
        ("exact", " #### B ", "#### B"),
    ],
)
def test_gold_of(grade: str, answer: str, gold: str) -> None:
    assert gold_of(grade, answer) == gold


@pytest.mark.parametrize("name", sorted(GRADERS))
@pytest.mark.parametrize("answer", ["#### 7", "B", "long reason #### 1,000.", "two\nlines"])
def test_an_answer_answers_itself(name: str, answer: str) -> None:
    assert grader(name).grade(answer, gold_of(name, answer))


def test_unknown_grader() -> None:
    with pytest.raises(DataError, match=r"'markd' is unknown.*did you mean 'marked'"):
        grader("markd")


def test_text_of_leaves_special_tokens_out(tiny_model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    ids = tokenizer("#### a , b .")["input_ids"]
    assert text_of(tokenizer, [*ids, tokenizer.eos_token_id]) == "#### a , b ."
    assert text_of(tokenizer, []) == ""
