"""Tricky outputs, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from msft_lite.data.grade import GRADERS, MOST_CHARACTERS, exact, grader, marked, text_of
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
    ("output", "gold", "right"),
    [
        ("7", "7", True),
        ("7.", "7", True),
        ("7.0", "7", True),
        ("7.5", "7", False),
        ("1,000", "1000", True),
        ("#### 1,234,567.50.", "1234567.5", True),
        ("1,00", "100", False),  # no thousands: 1 and 00
        ("-3", "-3.0", True),
        ("\N{MINUS SIGN}3", "-3", True),
        ("+3", "3", True),
        ("3", "-3", False),
        ("10-7", "7", True),  # a difference or a range, not minus seven
        ("$5", "5", True),
        ("-$5", "-5", True),
        ("$-5", "-5", True),
        ("5 €", "5", True),
        ("50%", "50", True),
        ("50%", "0.5", False),
        ("7 apples", "7", True),
        ("7km", "7", True),
        (".5", "0.5", True),
        ("0.1", "0.10", True),
        ("0.333", "1/3", False),
        ("3/4", "0.75", True),
        ("6/8", "3/4", True),
        ("-1 1/2", "-1.5", True),
        ("1 1/2", "1", False),
        ("3/0", "3", False),  # no fraction: its last number is 0
        ("1e3", "1000", True),
        ("1e999999999", "1", True),  # no exponent: more than a number of this world has
        ("\u0667", "7", True),  # an Arabic digit
        ("x2", "2", False),  # part of a word
        ("3 + 4 = 7", "7", True),  # the last of the text
        ("It takes 3 steps, so 7.", "7", True),
        ("#### 7 apples of 12", "7", True),  # the first of what is stated
        ("The answer is 7. I took 3 steps.", "7", True),
        ("Answer: 7\n\nQ: 1 + 1\nAnswer: 2", "7", True),
        ("**Answer:** 7", "7", True),
        ("The final answer is: $7", "7", True),
        ("The answer is\n7", "7", True),
        ("####7", "7", True),
        ("####\n7", "7", True),
        ("#### 6\n#### 7", "7", False),
        ("so 3 + 4 #### 7", "7", True),
        ("12 ####", "12", False),  # stated, but nothing
        ("12 ####", "", False),
        ("#### seven, not 7", "7", True),
        ("#### seven", "7", False),
        ("seven", "7", False),
        ("", "7", False),
        ("\n\n", "7", False),
        ("nan", "nan", False),
        ("9" * 5000, "9" * 5000 + ".0", True),
        ("9" * 5000, "9" * 4999, False),
        ("1e3/4", "1000", False),
    ],
)
def test_number(output: str, gold: str, *, right: bool) -> None:
    assert GRADERS["number"].grade(output, gold) is right


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(b)", "B"),
        ("B) a dog", "B"),
        ("B: a dog", "B"),
        ("[B] a dog", "B"),
        ("**B**", "B"),
        ('"B"', "B"),
        ("B\nbecause", "B"),
        ("\n B \n", "B"),
        ("B a dog", "B"),
        ("B - a dog", "B"),
        ("b because it barks", "B"),
        ("b dog", ""),
        ("A", "A"),
        ("a", "A"),
        ("A.", "A"),
        ("A) dog", "A"),
        ("A - dog", "A"),
        ("A because it barks", "A"),
        ("A is right", "A"),
        ("A dog", ""),
        ("a dog", ""),
        ("A, B and C", "A"),
        ("I", "I"),
        ("I think it is B", ""),
        ("I'm sure", ""),
        ("A-level", ""),
        ("AB", ""),
        ("B2", ""),
        ("2", ""),
        ("Dog", ""),
        ("U.S.", ""),
        ("#### B", "B"),
        ("####B", "B"),
        ("####\nB", "B"),
        ("#### (B).", "B"),
        ("#### A dog", ""),
        ("#### B\n\nQ: 1+1\nA: #### C", "B"),
        ("A ####", ""),  # stated, but nothing
        ("reason #### B", "B"),
        ("The answer is (B).", "B"),
        ("The answer is B", "B"),
        ("The answer is: **B**", "B"),
        ("The answer is A because it barks", "A"),
        ("the answer is a dog", ""),
        ("The correct option is b.", "B"),
        ("The answer is option C", "C"),
        ("Answer: B", "B"),
        ("Answer:\nB", "B"),
        ("The answer is A. No, the answer is B.", "A"),
        ("The options: A. dog, B. cat. The answer is B.", "B"),
        ("É", ""),
        ("", ""),
        (" \n", ""),
        ("*" * 50_000, ""),
        ("option " * 20_000, ""),
    ],
)
def test_choice(output: str, letter: str) -> None:
    grade = GRADERS["choice"]
    assert grade.extract(output) == letter
    assert grade.grade(output, "B") is (letter == "B")
    assert not grade.grade(output, "")


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        ("TRUE", "yes"),
        ("True, because", "yes"),
        ("no", "no"),
        ("No, it is true.", "no"),
        ("false", "no"),
        ("not true", "no"),
        ("Not false.", "yes"),
        ("not yes", ""),
        ("**Yes**", "yes"),
        ("\nyes\n", "yes"),
        ("#### True", "yes"),
        ("####\nno", "no"),
        ("#### no\n#### yes", "no"),
        ("The answer is no.", "no"),
        ("Answer: yes", "yes"),
        ("yes ####", ""),
        ("Maybe yes", ""),
        ("It is true", ""),
        ("nothing", ""),
        ("no-one", ""),
        ("Yesterday", ""),
        ("1", ""),
        ("", ""),
    ],
)
def test_yes_no(output: str, word: str) -> None:
    grade = GRADERS["yes_no"]
    assert grade.extract(output) == word
    assert grade.grade(output, "yes") is (word == "yes")
    assert not grade.grade(output, "")


@pytest.mark.parametrize(
    ("pattern", "output", "gold", "right"),
    [
        (r"<(\w+)>", "<dog> <cat>", "dog", True),
        (r"<(\w+)>", "<dog> <cat>", "cat", False),
        (r"<(\w+)>", "<DOG>", "dog", True),
        (r"<(.+)>", "< dog >", "dog", True),
        (r"<(\w+)>", "dog", "dog", False),
        (r"<(\w*)>", "<>", "", False),
        (r"\d+", "so 12 and 13", "12", True),
        (r"is (\w+)|: (\w+)", "answer: dog", "dog", True),  # the group that took part
        (r"(?s)a.b", "a\nb", "a\nb", True),
        (r"\d", "x" * MOST_CHARACTERS + "7", "7", False),  # past what is looked at
        (r"\d", "x" * (MOST_CHARACTERS - 1) + "7", "7", True),
        (r"\d", "", "7", False),
    ],
)
def test_regex(pattern: str, output: str, gold: str, *, right: bool) -> None:
    assert grader("regex", pattern).grade(output, gold) is right


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(", r"grade_pattern = '\(' is no regular expression: .* position 1"),
        ("a**", r"multiple repeat at position 2"),
        ("", "needs grade_pattern"),
        (None, "needs grade_pattern"),
    ],
)
def test_a_pattern_that_cannot_be_used(pattern: str | None, told: str) -> None:
    with pytest.raises(DataError, match=told):
        grader("regex", pattern)


def test_a_pattern_that_backtracks_for_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msft_lite.data.grade.PATTERN_SECONDS", 0.2)
    with pytest.raises(DataError, match=r"'\(a\+\)\+b' found no end in 0.2 seconds .*'aaaa"):
        grader("regex", "(a+)+b").extract("a" * 5000)


@pytest.mark.parametrize(
    ("grade", "answer", "gold"),
    [
        ("marked", "3 + 4 = 7 #### 7.", "7"),
        ("marked", "B", "B"),
        ("marked", "#### ", ""),
        ("marked", "#### .", ""),
        ("marked", "reason\n#### C\n", "C"),
        ("exact", " #### B ", "#### B"),
        ("number", "3 + 4 = 7 #### 1,000 m", "1,000"),
        ("number", "seven", ""),
        ("choice", "reason #### C", "C"),
        ("choice", "c", "C"),
        ("choice", "a dog", ""),
        ("yes_no", "#### True", "yes"),
        ("yes_no", "maybe", ""),
    ],
)
def test_gold_of(grade: str, answer: str, gold: str) -> None:
    assert grader(grade).gold_of(answer) == gold


def test_an_answer_without_the_pattern_is_its_own_gold() -> None:
    rule = grader("regex", r"<(\w+)>")
    assert rule.gold_of("so <dog>") == "dog"
    assert rule.gold_of(" dog ") == "dog"


@pytest.mark.parametrize(
    "answer", ["#### 7", "B", "long reason #### 1,000.", "#### True", "#### -2/3"]
)
@pytest.mark.parametrize("name", [*GRADERS, "regex"])
def test_an_answer_answers_itself_if_anything_in_it_counts(name: str, answer: str) -> None:
    rule = grader(name, "#### (.*)" if name == "regex" else None)
    assert rule.grade(answer, rule.gold_of(answer)) is bool(rule.extract(answer))


def test_unknown_grader() -> None:
    with pytest.raises(DataError, match=r"'markd' is unknown.*did you mean 'marked'"):
        grader("markd")
    with pytest.raises(DataError, match=r"did you mean 'regex'"):
        grader("regexp")


def test_text_of_leaves_special_tokens_out(tiny_model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    ids = tokenizer("#### a , b .")["input_ids"]
    assert text_of(tokenizer, [*ids, tokenizer.eos_token_id]) == "#### a , b ."
    assert text_of(tokenizer, []) == ""
