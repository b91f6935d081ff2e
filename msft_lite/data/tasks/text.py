"""The text of questions and answers: ``Q: ..\\nA: `` and ``#### ..``, as the paper has them."""

from __future__ import annotations

import string
from dataclasses import replace

from msft_lite.data.tasks.preset import Item
from msft_lite.errors import DataError

MARK = "#### "
MOST_CHOICES = len(string.ascii_uppercase)


def letter(index: int) -> str:
    """Returns the letter of a choice: A for 0."""
    return string.ascii_uppercase[index]


def choice_text(item: Item) -> tuple[str, str]:
    """Returns the question with a line of lettered options, and the right letter.

    Raises:
        DataError: there are not 2 to 26 choices, or the answer is the letter of none. The message
            does not say where.
    """
    right_index(item)
    options = ", ".join(f"{letter(i)}. {one_line(text)}" for i, text in enumerate(item.choices))
    return _asked(item, f"\noptions: {options}"), _answered(item)


def letter_options(item: Item, answer: str) -> tuple[str, ...]:
    """Returns the marked letter of every choice if ``answer`` is one of them, else nothing.

    An answer that reasons first, or that is a choice's text, is none of them.
    """
    options = tuple(f"{MARK}{letter(index)}" for index in range(len(item.choices)))
    return options if answer in options else ()


def free_text(item: Item) -> tuple[str, str]:
    """Returns question and answer of an item that is answered in words or with a number.

    Raises:
        DataError: the answer is blank. The message does not say where.
    """
    if not item.answer.strip():
        raise DataError("the answer is empty")
    return _asked(item), _answered(item)


def number_text(item: Item) -> tuple[str, str]:
    """Returns what `free_text` does, the answer without thousands commas and without ``.0``."""
    return free_text(replace(item, answer=item.answer.replace(",", "").removesuffix(".0")))


def right_index(item: Item) -> int:
    """Returns the index of the right choice.

    Raises:
        DataError: see `choice_text`.
    """
    letters = string.ascii_uppercase[: len(item.choices)]
    if not 2 <= len(item.choices) <= MOST_CHOICES:
        raise DataError(f"there are {len(item.choices)} choices; needed are 2 to {MOST_CHOICES}")
    if len(item.answer) != 1 or item.answer not in letters:
        raise DataError(
            f"the answer is {item.answer[:60]!r}; needed is the letter of a choice, "
            f"{letters[0]} to {letters[-1]}"
        )
    return letters.index(item.answer)


def one_block(text: str) -> str:
    """Returns ``text`` stripped and without blank lines, which part the shots."""
    return "\n".join(line for line in text.strip().splitlines() if line.strip())


def one_line(text: str) -> str:
    """Returns ``text`` on one line: an answer ends with its line."""
    return " ".join(text.split())


def _asked(item: Item, ending: str = "") -> str:
    """Returns the prompt: the context if there is one, the question and ``ending``."""
    blocks = [one_block(text) for text in (item.context, item.question)]
    return "Q: " + "\n".join(block for block in blocks if block) + f"{ending}\nA: "


def _answered(item: Item) -> str:
    """Returns the answer after its mark, and before it the reasoning if there is any.

    Reasoning ends where a mark of its own begins, as the first one of a text counts.
    """
    reasoning = one_block(item.rationale.partition(MARK.strip())[0])
    marked = f"{MARK}{one_line(item.answer)}"
    return f"{reasoning} {marked}" if reasoning else marked
