"""Graders: which part of a text counts, and whether a generated text answers a row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import regex  # beside re for its time limit: a pattern of the user's own may backtrack for ever

from msft_lite.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REGEX = "regex"  # the grader that is made of a pattern of the user's own
MOST_CHARACTERS = 20_000  # of an output that a pattern is searched in
PATTERN_SECONDS = 5.0  # the longest search in one output

_MARK = re.compile("#### (.*)")
# Narrower than float(): "nan", "inf", "1_000" and other alphabets' digits are compared as text.
_PLAIN_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# What is stated stands on the same line, or alone on the next one.
_AFTER_MARK = re.compile(r"####[^\S\n]*\n?(.*)")
_AFTER_WORDS = re.compile(
    r"\b(?:answer|option|choice)[\s*_]*(?:is\b|[:=])[^\S\n]*\n?(.*)", re.IGNORECASE
)
_NUMBER = re.compile(
    r"""
    (?: (?<![\w)]) (?P<sign>[-+\N{MINUS SIGN}]) [$€£¥₹]? )?  # in 10-7 it is no sign
    (?<!\w) (?<!\d\.)                                        # not the 2 of x2, nor the 3 of 1.2.3
    (?: (?: (?P<whole>\d+)[ ] )? (?P<top>\d+) / (?P<bottom>0*[1-9]\d*) (?![\d/]|\.\d)
      | (?P<decimal> (?: (?: \d{1,3}(?:,\d{3})+(?!\d) | \d+ ) (?:\.\d+)? | \.\d+ )
                     (?: e[-+]?\d{1,3}(?!\w) )? )            # a longer exponent fills the memory
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LETTER = re.compile(r"\W*(?:(?:option|choice)\W+)?([a-z])(?!\w)(.*)", re.IGNORECASE)
_CLOSED = re.compile(r"""[)\]}]|[.:,;*"'](?!\w)|\s+[^\w\s]|\s*$""")
_GOES_ON = re.compile(r"\s+(?:is|was|because|since|as|and|or)\b", re.IGNORECASE)
_WORDS = ("A", "I")  # letters that are words, too
_YES_NO = re.compile(
    r"\W*(?:(?P<not>not)\s+(?=true|false))?(?P<word>yes|no|true|false)(?!\w|['\u2019-]\w)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Grader:
    """A rule that scores outputs.

    Attributes:
        gold_of: the answer to look for, taken from a row's answer; empty if there is none.
        extract: the part of an output that counts; empty if there is none.
        grade: tells whether an output (first argument) answers a gold (second).
    """

    gold_of: Callable[[str], str]
    extract: Callable[[str], str]
    grade: Callable[[str, str], bool]


def exact(output: str, gold: str) -> bool:
    """Returns whether the whole output, stripped, is ``gold``."""
    return output.strip() == gold


def marked(output: str, gold: str) -> bool:
    """Returns whether what follows the first ``#### `` of the output's line is ``gold``.

    The paper's rule (its released code): both are equal as numbers where both are numbers, else
    they are compared in lower case. A thousands comma makes a text, so ``1,000`` is not ``1000``.
    Ours: ``nan``, ``inf`` and ``1_000`` are texts too, though Python reads them as numbers.
    """
    found = after_mark(output)
    ours, theirs = _plain_number(found), _plain_number(gold)
    if ours is not None and theirs is not None:
        return ours == theirs
    return found.lower() == gold.lower()


def after_mark(text: str) -> str:
    """Returns what follows the first ``#### `` on its line, stripped, without one final period.

    Without a mark it is the whole text that is stripped and loses a final period.
    """
    match = _MARK.search(text)
    return (match.group(1) if match else text).strip().removesuffix(".")


def stated(text: str) -> str | None:
    """Returns what ``text`` says its answer is, to the end of the line; None if it does not say.

    That is what follows the first ``####``; without one, what follows the first ``answer is``,
    ``answer:``, or the same with ``option`` or ``choice``.
    """
    match = _AFTER_MARK.search(text) or _AFTER_WORDS.search(text)
    return match.group(1).strip() if match else None


def number(text: str) -> str:
    """Returns the first number of what is `stated`, else the last of the text; empty if none.

    Signs, thousands commas, decimals, exponents, fractions (``3/4``, ``1 1/2``) and other
    alphabets' digits are read. Currency, units and percent signs are passed over: ``50%`` is 50.
    """
    said = stated(text)
    if said is not None:
        match = _NUMBER.search(said)
        return match.group() if match else ""
    found = [match.group() for match in _NUMBER.finditer(text)]
    return found[-1] if found else ""


def same_number(output: str, gold: str) -> bool:
    """Returns whether `number` of the output is ``gold``, exactly: ``7.0`` is 7, 0.33 not 1/3."""
    ours, theirs = _value(number(output)), _value(gold)
    return ours is not None and ours == theirs


def choice(text: str) -> str:
    """Returns the capital letter that begins what is `stated`, else the text; empty if none does.

    It may be in brackets, quotes or asterisks and may follow ``option`` or ``choice``. ``A dog``
    and ``I think`` begin with words, not letters; ``A is right``, ``A.`` and ``A) dog`` with A.
    """
    said = stated(text)
    match = _LETTER.match(text.strip() if said is None else said)
    if match is None:
        return ""
    letter, rest = match.groups()
    is_letter = letter.isupper() and letter not in _WORDS and rest[:1].isspace()
    return letter.upper() if is_letter or _CLOSED.match(rest) or _GOES_ON.match(rest) else ""


def yes_no(text: str) -> str:
    """Returns ``yes`` or ``no`` by the first word of what is `stated`, else of the text.

    ``true`` and ``not false`` are yes, ``false`` and ``not true`` are no; empty if it is another.
    """
    said = stated(text)
    match = _YES_NO.match(text if said is None else said)
    if match is None:
        return ""
    is_yes = match["word"].lower() in ("yes", "true")
    return "yes" if is_yes != bool(match["not"]) else "no"


def _equal(output: str, gold: str, *, extract: Callable[[str], str]) -> bool:
    found = extract(output)
    return found != "" and found.casefold() == gold.casefold()


GRADERS: Mapping[str, Grader] = MappingProxyType(
    {
        "marked": Grader(after_mark, after_mark, marked),
        "exact": Grader(str.strip, str.strip, exact),
        "number": Grader(number, number, same_number),
        "choice": Grader(choice, choice, partial(_equal, extract=choice)),
        "yes_no": Grader(yes_no, yes_no, partial(_equal, extract=yes_no)),
    }
)


def grader(name: str, pattern: str | None = None) -> Grader:
    """Returns the grader called ``name``.

    Args:
        name: a key of `GRADERS`, or ``regex``.
        pattern: regular expression of ``regex``.

    Raises:
        DataError: there is none of that name, or the pattern cannot be used.
    """
    if name == REGEX:
        return _regex_grader(pattern)
    if name not in GRADERS:
        names = (*GRADERS, REGEX)
        raise DataError(
            f"grade = {name!r} is unknown (known: {', '.join(map(repr, names))})"
            f"{did_you_mean(name, names)}"
        )
    return GRADERS[name]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Returns the text to grade: ``ids`` decoded, without special tokens."""
    # Clean-up would turn "a ." into "a." for some tokenizers and not for others.
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else "".join(text)


def _regex_grader(pattern: str | None) -> Grader:
    """Returns the grader that looks for the first match of ``pattern``, whatever the case.

    What counts is the first group that took part, or the whole match where there is none. An
    answer without a match is its own gold.
    """
    if not pattern:
        raise DataError(f'grade = "{REGEX}" needs grade_pattern, a regular expression')
    try:
        compiled = regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        raise DataError(f"grade_pattern = {pattern!r} is no regular expression: {error}") from None
    extract = partial(_matched, compiled)
    return Grader(
        lambda answer: extract(answer) or answer.strip(), extract, partial(_equal, extract=extract)
    )


def _matched(pattern: regex.Pattern[str], text: str) -> str:
    try:
        match = pattern.search(text[:MOST_CHARACTERS], timeout=PATTERN_SECONDS)
    except TimeoutError:
        raise DataError(
            f"grade_pattern = {pattern.pattern!r} found no end in {PATTERN_SECONDS:g} seconds on "
            f"the text {text[:60]!r}; write it without a repetition inside a repetition"
        ) from None
    if match is None:
        return ""
    return next((group for group in match.groups() if group is not None), match.group()).strip()


def _plain_number(text: str) -> float | None:
    if not _PLAIN_NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _value(text: str) -> Fraction | None:
    """Returns the number that ``text`` is, exactly; None if it is none."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    # Through Decimal: int() and Fraction() refuse texts of more than 4,300 digits.
    if match["decimal"]:
        size = Fraction(Decimal(match["decimal"].replace(",", "")))
    else:
        top, bottom, whole = (Decimal(match[part] or 0) for part in ("top", "bottom", "whole"))
        size = Fraction(whole) + Fraction(top) / Fraction(bottom)
    return size if match["sign"] in (None, "+") else -size
