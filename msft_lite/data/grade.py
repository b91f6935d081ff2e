"""Graders: whether a generated text answers a row."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from msft_lite.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = re.compile("#### (.*)")
# Narrower than float(): "nan", "inf", "1_000" and other alphabets' digits are compared as text.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Grader:
    """A rule that scores outputs.

    Attributes:
        gold_of: the answer to look for, taken from a row's answer; empty if there is none.
        grade: tells whether an output (first argument) answers a gold (second).
    """

    gold_of: Callable[[str], str]
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
    ours, theirs = _number(found), _number(gold)
    if ours is not None and theirs is not None:
        return ours == theirs
    return found.lower() == gold.lower()


def after_mark(text: str) -> str:
    """Returns what follows the first ``#### `` on its line, stripped, without one final period.

    Without a mark it is the whole text that is stripped and loses a final period.
    """
    match = _MARK.search(text)
    return (match.group(1) if match else text).strip().removesuffix(".")


GRADERS: Mapping[str, Grader] = MappingProxyType(
    {"exact": Grader(str.strip, exact), "marked": Grader(after_mark, marked)}
)


def grader(name: str) -> Grader:
    """Returns the grader called ``name``.

    Raises:
        DataError: there is none.
    """
    if name not in GRADERS:
        known = ", ".join(repr(known) for known in GRADERS)
        raise DataError(
            f"grade = {name!r} is unknown (known: {known}){did_you_mean(name, GRADERS)}"
        )
    return GRADERS[name]


def gold_of(grade: str, answer: str) -> str:
    """Returns what the grader called ``grade`` looks for, given a row's answer; may be empty."""
    return grader(grade).gold_of(answer)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Returns the text to grade: ``ids`` decoded, without special tokens."""
    # Clean-up would turn "a ." into "a." for some tokenizers and not for others.
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text if isinstance(text, str) else "".join(text)


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
