"""Foreign texts on the page: control characters spelt out, long ones cut with a count."""

from __future__ import annotations

from dataclasses import dataclass

from msft_lite.report.wording import visible

NAME_LENGTH = 60
CELL_LENGTH = 300
OUTPUT_LENGTH = 500
_MOST_LINES = 12
_MOST_REST = 50_000


@dataclass(frozen=True, slots=True)
class Cut:
    """A text in two parts: what is shown at once, and the rest behind a click.

    Attributes:
        rest: empty for a short text.
        more: characters behind the head.
        left_out: characters of the text that are in neither part.
    """

    head: str
    rest: str = ""
    more: int = 0
    left_out: int = 0


def visible_lines(text: str) -> str:
    """Returns ``text`` with its line feeds kept; every other control character is spelt out."""
    return "\n".join(visible(line) for line in text.replace("\r\n", "\n").split("\n"))


def cut(text: str, length: int = OUTPUT_LENGTH) -> Cut:
    """Returns ``text`` divided after ``length`` characters or some lines, whichever is less."""
    lines = text.splitlines(keepends=True)
    length = min(length, sum(len(line) for line in lines[:_MOST_LINES]))
    rest = text[length : length + _MOST_REST]
    more = max(0, len(text) - length)
    return Cut(visible_lines(text[:length]), visible_lines(rest), more, more - len(rest))


def shortened(text: str, length: int = CELL_LENGTH) -> str:
    """Returns ``text`` on one line; of a longer one the beginning and how much is missing."""
    if len(text) <= length:
        return visible(text)
    return f"{visible(text[:length])}\N{HORIZONTAL ELLIPSIS} (+{len(text) - length:,} characters)"


def clipped(text: str, length: int) -> str:
    """Returns ``text`` on one line of at most ``length`` characters."""
    shown = visible(text[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
