"""Texts of rows on a terminal: nothing in them acts, and nothing of them is lost."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from msft_lite.cli.texts import pieces_text, print_lines, print_pieces, print_text, row_text
from msft_lite.run.samples import Piece

PIECES = (Piece("Q: [bold]x[/bold]\nA: ", False), Piece("#### 1<|end|>", True))


def console(*, is_terminal: bool, width: int = 80) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=is_terminal,
        color_system="standard" if is_terminal else None,
        width=width,
    )


def printed(place: Console) -> str:
    assert isinstance(place.file, io.StringIO)
    return place.file.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a↵\nb"),
        ("a\n\n", "a↵\n↵\n"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\rb\tc\x00", "a\\rb\\tc\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\u202edef", "abc\\u202edef"),
        ("\ud800", "\\ud800"),
        ("übung 漢字", "übung 漢字"),
    ],
)
def test_control_characters_are_spelt_out(text: str, shown: str) -> None:
    assert row_text(text) == shown


def test_what_carries_no_loss_is_dim_on_a_terminal() -> None:
    text = pieces_text(PIECES, has_styles=True)
    assert text.plain == "Q: [bold]x[/bold]↵\nA: #### 1<|end|>"
    assert [(text.plain[s.start : s.end], s.style) for s in text.spans] == [
        ("Q: [bold]x[/bold]↵\nA: ", "dim")
    ]


def test_what_carries_no_loss_is_in_brackets_elsewhere() -> None:
    place = console(is_terminal=False)
    print_pieces(PIECES, place)
    lines = [line.rstrip() for line in printed(place).splitlines()]
    assert lines == ["    ⟦Q: [bold]x[/bold]↵", "    A: ⟧#### 1<|end|>"]


def test_brackets_of_a_row_are_not_ours() -> None:
    text = pieces_text([Piece("a⟧b", False), Piece("⟦c", True)], has_styles=False)
    assert text.plain == "⟦a\\u27e7b⟧\\u27e6c"


def test_no_text_of_a_row_reaches_the_left_edge() -> None:
    place = console(is_terminal=False, width=40)
    print_text("word " * 30 + "\nready: it is not\r\n" + "x" * 100, place)
    lines = printed(place).splitlines()
    assert len(lines) > 6
    assert {line[:4] for line in lines} == {"    "}
    assert max(map(len, lines)) <= 40


def test_only_our_own_codes_reach_a_terminal() -> None:
    place = console(is_terminal=True)
    hostile = "\x1b[31mred\x1b]0;title\x07 [link=http://x]y[/link]"
    print_pieces([Piece(hostile, False), Piece(hostile, True)], place)
    print_text(hostile, place)
    print_lines([hostile], place, style="red")
    assert set(re.findall(r"\x1b.[^m]*m?", printed(place))) == {"\x1b[2m", "\x1b[0m", "\x1b[31m"}
    assert printed(place).count("[link=http://x]y[/link]") == 4


def test_a_line_is_not_folded() -> None:
    place = console(is_terminal=False, width=20)
    print_lines(["a path " * 20], place)
    assert printed(place) == "a path " * 20 + "\n"
