from __future__ import annotations

import pytest

from msft_lite.report.page.axes import (
    Span,
    padded,
    panel_axes,
    panel_frame,
    round_ticks,
    text_width,
    tick_texts,
)
from msft_lite.report.page.svg import Element


def texts_of(parts: list[Element]) -> list[str]:
    return [str(part.children[0]) for part in parts if part.tag == "text"]


def test_a_span_maps_both_ends_and_the_middle() -> None:
    downwards = Span(0.0, 100.0, 200.0, 40.0)
    assert [downwards.at(value) for value in (0, 50, 100)] == [200.0, 120.0, 40.0]


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.0, 10.0, 5, (0, 2, 4, 6, 8, 10)),
        (0.0, 14.25, 8, (0, 2, 4, 6, 8, 10, 12, 14)),
        (0.3, 0.9, 3, (0.4, 0.6, 0.8)),
        (-1.0, 1.0, 4, (-1, -0.5, 0, 0.5, 1)),
        (0.0, 0.004, 4, (0, 0.001, 0.002, 0.003, 0.004)),
    ],
)
def test_ticks_are_round_and_inside(
    low: float, high: float, most: int, ticks: tuple[float, ...]
) -> None:
    assert round_ticks(low, high, most) == pytest.approx(ticks)


def test_ticks_are_written_with_the_digits_they_need() -> None:
    assert tick_texts((-0.5, 0.0, 0.5)) == ["-0.5", "0.0", "0.5"]
    assert tick_texts((0, 1000, 2000)) == ["0", "1,000", "2,000"]
    assert tick_texts((0.1, 0.12, 0.14)) == ["0.10", "0.12", "0.14"]
    assert tick_texts((-0.0, 20.0)) == ["0", "20"]
    assert tick_texts((7.0,)) == ["7"]


@pytest.mark.parametrize("values", [[], [3.0], [0.0], [2.0, 2.0], [1.0, 5.0]])
def test_a_padded_stretch_is_never_empty(values: list[float]) -> None:
    low, high = padded(values)
    assert low < high
    assert all(low < value < high for value in values)


def test_a_panel_without_training_has_an_axis_all_the_same() -> None:
    frame = panel_frame((0.0, 0.0), (0.0, 1.0))
    assert frame.x.low < 0.0 < frame.x.high


def test_axes_name_quantities_and_number_the_ticks() -> None:
    frame = panel_frame((0.0, 4.0), (-4.0, 104.0))
    parts = panel_axes(frame, x_label="epochs", y_label="correct, %", y_ticks=(0.0, 50.0, 100.0))
    assert texts_of(parts) == [
        "correct, %", "0", "50", "100", "0", "1", "2", "3", "4", "epochs",
    ]  # fmt: skip


def test_a_wide_script_takes_twice_the_room() -> None:
    assert text_width("漢字", 10) == 2 * text_width("ab", 10)
