"""Runs that are steered by the loss on the control rows, or scored by losses alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.outcomes import results

Run = Callable[..., str]


def of_kind(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind]


def is_by_loss(row: Mapping[str, Any]) -> bool:
    return all(
        isinstance(worth, list) and all(value < 0 for value in worth)
        for worth in row["outcomes"].values()
    )


def test_a_run_steered_by_loss_is_reported_by_its_metric(
    finish: Run, short_recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    printed = finish("run", short_recipe, "method.signal=loss", "--output-dir", folder)
    rows = results(folder)
    assert rows[0]["signal"] == "loss"
    marks = of_kind(rows, "mark")
    assert all(is_by_loss(mark) and mark["generated_tokens"] == 0 for mark in marks)
    (end,) = of_kind(rows, "finish")
    assert all(set(text) <= {"0", "1"} for text in end["outcomes"]["best"].values())
    assert "lower is better" in printed
    # What is returned is best by the mean of what steered.
    best = max(marks, key=lambda m: sum(total / count for total, count in m["scores"].values()))
    assert end["snapshot"] == best["snapshot"]


@pytest.mark.parametrize("at", ["mark", "end"])
def test_a_run_scored_by_losses_alone_has_no_engine(
    finish: Run, short_recipe: Path, tmp_path: Path, at: str
) -> None:
    folder = tmp_path / "run"
    changes = ("eval.metric=loss", "eval.max_new_tokens=", f"eval.at={at}", "engine.name=auto")
    finish("run", short_recipe, *changes, "--output-dir", folder)
    rows = results(folder)
    assert rows[0]["engine"] == "none"
    assert not (folder / "engine.log").exists()
    (end,) = of_kind(rows, "finish")
    assert all(is_by_loss(mark) for mark in of_kind(rows, "mark"))
    assert sum(end["outcomes"]["best"]["sort"]) > sum(end["outcomes"]["base"]["sort"])
