"""The recipes of own data, one for each form of rows: each runs to its end through the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from msft_lite.recipe import load
from tests.outcomes import results

FOLDER = Path(__file__).parents[2] / "recipes" / "own_data"
MOST_LINES = 20
ROWS = {"train": 16, "control": 4, "report": 4}
TASKS = {
    "csv": {"words-reverse", "words-sort"},
    "parquet": {"first", "sort"},
    "alpaca": {"last", "sort"},
    "sharegpt": {"reverse", "sort"},
    "openai": {"sort", "spell"},
}


def test_the_recipes_are_known_and_short() -> None:
    recipes = sorted(FOLDER.glob("*.toml"))
    assert {recipe.stem for recipe in recipes} == set(TASKS)
    for recipe in recipes:
        assert load(recipe).tasks
        assert len(recipe.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", TASKS)
def test_a_recipe_of_own_data_runs_to_its_end(
    finish: Callable[..., str],
    tmp_path: Path,
    name: str,
) -> None:
    few = [f"data.{split}_samples={count}" for split, count in ROWS.items()]
    small = ["method.budget=1", "engine.name=torch", "train.threads=1"]
    finish("run", FOLDER / f"{name}.toml", f"output_dir={tmp_path / 'run'}", *small, *few)
    ledger = results(tmp_path / "run")
    start, end = ledger[0], ledger[-1]
    assert (start["kind"], end["kind"]) == ("start", "finish")
    assert start["rows"] == dict.fromkeys(sorted(TASKS[name]), ROWS)
    marks = [row for row in ledger if row["kind"] == "mark"]
    assert all(set(mark["scores"]) == TASKS[name] for mark in marks)
    assert all(asked == 4 for mark in marks for _, asked in mark["scores"].values())
    assert end["scores"]
    assert all(set(scores) == TASKS[name] for scores in end["scores"].values())
    assert all(mark["train_loss"][task] > 0 for mark in marks[1:] for task in mark["train_loss"])
