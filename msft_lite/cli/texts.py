"""How texts of the user's are printed: none acts on the terminal, and nothing of a row is lost."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from msft_lite.report.wording import visible
from msft_lite.run.samples import Piece

LINE_END = "↵"
OPEN, CLOSE = "⟦", "⟧"
INDENT = 4  # what stands at the left edge is never a row's text


def print_lines(lines: Iterable[str], console: Console, *, style: str = "") -> None:
    """Prints texts that may hold names and values of the user's, a line each and unwrapped."""
    for line in lines:
        console.print(Text(visible(line), style=style), soft_wrap=True)


def print_title(text: str, console: Console) -> None:
    """Prints what the lines below it are."""
    console.print(Text(visible(text), style="underline"))


def print_pieces(pieces: Iterable[Piece], console: Console) -> None:
    """Prints a row, what carries no loss dimmed, or in brackets where there are no styles."""
    _print_indented(pieces_text(pieces, has_styles=has_styles(console)), console)


def print_text(text: str, console: Console) -> None:
    """Prints a text that stands for itself."""
    _print_indented(Text(row_text(text)), console)


def _print_indented(text: Text, console: Console) -> None:
    for line in text.wrap(console, console.width - INDENT):
        console.print(Text(" " * INDENT).append_text(line), soft_wrap=True)


def has_styles(console: Console) -> bool:
    """Returns whether ``console`` can dim a text."""
    return console.color_system is not None


def masked_legend(console: Console) -> str:
    """Returns in words how `print_pieces` marks what carries no loss."""
    return "dim" if has_styles(console) else f"in {OPEN} {CLOSE}"


def pieces_text(pieces: Iterable[Piece], *, has_styles: bool) -> Text:
    """Returns the pieces as one text, marked as `print_pieces` says."""
    text = Text()
    for piece in pieces:
        shown = row_text(piece.text)
        if has_styles:
            text.append(shown, style="" if piece.is_trained else "dim")
            continue
        for bracket in (OPEN, CLOSE):  # a row's own must not pass for ours
            shown = shown.replace(bracket, bracket.encode("unicode_escape").decode())
        text.append(shown if piece.is_trained else f"{OPEN}{shown}{CLOSE}")
    return text


def row_text(text: str) -> str:
    """Returns ``text`` with its line ends marked and control characters spelt out."""
    return f"{LINE_END}\n".join(visible(line) for line in text.split("\n"))
