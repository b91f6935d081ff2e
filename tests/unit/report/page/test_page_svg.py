from __future__ import annotations

import pytest

from msft_lite.report.page.svg import Element, circle, drawing, markup, number, polyline, words
from msft_lite.report.page.texts import clipped, cut, shortened, visible_lines


def test_texts_and_attributes_are_escaped() -> None:
    element = Element("text", {"class": "a\"><b c='"}, ("<i>&amp;</i>",))
    assert markup(element) == (
        '<text class="a&quot;&gt;&lt;b c=&#x27;">&lt;i&gt;&amp;amp;&lt;/i&gt;</text>'
    )


def test_characters_that_turn_or_break_lines_are_spelt_out() -> None:
    assert markup(words((0, 0), "a\u202eb\x00c\ud800", "x")) == (
        '<text x="0" y="0" class="x" text-anchor="start">a\\u202eb\\x00c\\ud800</text>'
    )


def test_a_tip_comes_before_what_the_element_holds() -> None:
    point = circle((1, 2), 3, "point").titled("62.5 %")
    assert markup(point) == (
        '<circle cx="1" cy="2" r="3" class="point"><title>62.5 %</title></circle>'
    )


def test_a_drawing_speaks() -> None:
    picture = drawing(10, 20.25, "what it shows", [polyline([(0, 1), (2.345, 3)], "line")])
    assert picture.attributes["aria-label"] == "what it shows"
    assert picture.attributes["role"] == "img"
    assert 'points="0,1 2.3,3"' in markup(picture)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (-0.01, "0"), (12.04, "12"), (12.06, "12.1"), (-3.5, "-3.5")]
)
def test_coordinates_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_long_texts_say_how_much_is_missing() -> None:
    assert shortened("x" * 10_000, 5) == "xxxxx\N{HORIZONTAL ELLIPSIS} (+9,995 characters)"
    assert shortened("abc", 3) == "abc"
    assert clipped("abcdef", 4) == "abc\N{HORIZONTAL ELLIPSIS}"
    assert clipped("abcd", 4) == "abcd"


def test_a_text_is_cut_after_so_many_characters_or_lines() -> None:
    long = cut("y" * 10_000, 500)
    assert (len(long.head), len(long.rest), long.more, long.left_out) == (500, 9_500, 9_500, 0)
    huge = cut("y" * 100_000, 500)
    assert (huge.more, len(huge.rest), huge.left_out) == (99_500, 50_000, 49_500)
    many = cut("line\n" * 30)
    assert (many.head, many.more) == ("line\n" * 12, 90)
    assert cut("").head == ""


def test_lines_stay_lines_and_nothing_else_acts() -> None:
    assert visible_lines("a\r\nb\n\tc\u202ed") == "a\nb\n\\tc\\u202ed"
