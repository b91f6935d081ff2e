"""What figures of several runs are drawn with."""

from __future__ import annotations

from pathlib import Path

from msft_lite.report.pictures import drawable, name_rows, new_figure, save


def test_names_beside_rows_are_short_and_no_mathematics(tmp_path: Path) -> None:
    figure = new_figure(8.0, 3.0, "$title$")
    axes = figure.subplots()
    name_rows(axes, ["$x_{1}$", "a\x1b[31m", "words " * 12])
    save(
        lambda: figure, tmp_path / "names.png"
    )  # ticks are given their texts anew when they are drawn
    labels = axes.get_yticklabels()
    assert [label.get_text() for label in labels] == [
        "$x_{1}$", "a\\x1b[31m", "words words wor…ds words words ",
    ]  # fmt: skip
    assert not any(label.get_parse_math() for label in labels)


def test_a_name_that_fits_is_whole() -> None:
    assert drawable("a" * 31) == "a" * 31
    assert drawable("a" * 16 + "b" * 16) == "a" * 15 + "…" + "b" * 15
