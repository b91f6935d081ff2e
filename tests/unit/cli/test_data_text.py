"""Histograms in the terminal."""

from __future__ import annotations

from msft_lite.cli.data_text import BAR_WIDTH, histogram_lines
from msft_lite.run.samples import lengths


def test_the_fullest_bin_has_the_longest_bar_and_one_row_is_seen() -> None:
    lines = histogram_lines(lengths([10] * 1000 + [11]), limit=11)
    assert lines[0].count("█") == BAR_WIDTH
    assert "▏" in lines[1]
    assert "█" not in lines[1]
    assert lines[0].split() == ["10-10", "█" * BAR_WIDTH, "1,000", "p50", "p95"]
    assert lines[1].split() == ["11-11", "▏", "1", "max", "limit"]


def test_an_empty_bin_has_no_bar() -> None:
    assert histogram_lines(lengths([1, 3]), limit=3)[1].split() == ["2-2", "0"]


def test_a_limit_beyond_every_row_has_a_line_of_its_own() -> None:
    lines = histogram_lines(lengths([8, 9]), limit=512)
    assert [line.split()[-1] for line in lines] == ["p50", "max", "limit"]
    assert lines[-1].split() == ["512", "limit"]


def test_lines_fit_eighty_columns() -> None:
    lines = histogram_lines(lengths([100_000, 131_072] * 50_000), limit=131_072)
    assert max(map(len, lines)) <= 80
