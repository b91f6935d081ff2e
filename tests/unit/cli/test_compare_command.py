"""`msft-lite compare` on run folders made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from msft_lite.cli import app
from tests.light_commands import assert_light

RUNNER = CliRunner()
Place = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Writes the ledger of a run of one task into a folder beside the others."""

    def make(method: str, outcomes: str, *, seed: int = 20, rows: int = 5, **start: Any) -> Path:
        finish = {"kind": "finish", "snapshot": "s1", "n": 1, "k": 1, "note": "", "seconds": {}}
        count = [outcomes.count("1"), len(outcomes)]
        ledger: list[dict[str, Any]] = [
            {
                "kind": "start", "format": 1, "method": method, "seed": seed, "tasks": ["a"],
                "rows": {"a": {"train": 9, "control": 2, "report": len(outcomes)}},
                "data": {"a": "beef"}, "base": "cafe", "marks_per_epoch": 4, **start,
            },
            {
                "kind": "rollout", "n": 1, "start": "root", "tasks": ["a"], "share": {"a": "1"},
                "marks": [3], "fresh": True,
            },
            *(
                {
                    "kind": "mark", "n": 1, "k": k, "step": 3 * k,
                    "snapshot": "s1" if k else "root",
                    "scores": {"a": [k, 2]}, "outcomes": {"a": "01" if k else "00"},
                    "train_loss": {}, "trained_tokens": 70 * k, "generated_tokens": 5,
                    "seconds": {"train": 9.0 * k}, "peak_bytes": 1,
                }
                for k in (0, 1)
            ),
            {
                **finish, "scores": {"base": {"a": [0, len(outcomes)]}, "best": {"a": count}},
                "outcomes": {"base": {"a": "0" * len(outcomes)}, "best": {"a": outcomes}},
            },
        ]  # fmt: skip
        folder = tmp_path / "runs" / f"{method}{seed}"
        folder.mkdir(parents=True)
        lines = [json.dumps(row) + "\n" for row in ledger[:rows]]
        (folder / "ledger.jsonl").write_text("".join(lines))
        return folder

    return make


def test_two_runs_are_compared_beside_them(place: Place, tmp_path: Path) -> None:
    folders = [place("sft", "0011"), place("msft", "0111")]
    result = RUNNER.invoke(app, ["compare", *map(str, folders)])
    assert result.exit_code == 0, result.output
    written = tmp_path / "runs" / "compare"
    assert result.stdout.startswith("Comparison of 2 systems on 1 task (report split)")
    assert "+25.0 [" in result.stdout
    assert result.stdout.endswith(f"comparison: {written.resolve()}/compare.md\n")
    systems = json.loads((written / "compare.json").read_text())["systems"]
    assert [systems[label]["mean"]["value"] for label in ("sft", "msft")] == [0.5, 0.75]


def test_a_folder_can_be_named_and_an_unfinished_run_is_left_out(
    place: Place, tmp_path: Path
) -> None:
    folders = [place("sft", "0011"), place("msft", "0111"), place("ies", "0111", rows=3)]
    out = tmp_path / "elsewhere"
    result = RUNNER.invoke(app, ["compare", *map(str, folders), "--output-dir", str(out)])
    assert result.exit_code == 0, result.output
    assert f"{folders[2]} is not finished and left out" in result.stdout
    assert "ies20 is not finished and left out" in (out / "compare.md").read_text()
    assert "ies" not in json.loads((out / "compare.json").read_text())["systems"]


@pytest.mark.parametrize("change", [{"base": "f00d"}, {"steer_on": "report"}])
def test_runs_that_cannot_be_compared_end_in_a_message(
    place: Place, tmp_path: Path, change: dict[str, str]
) -> None:
    folders = [place("sft", "0011"), place("msft", "0111", **change)]
    result = RUNNER.invoke(app, ["compare", *map(str, folders)])
    assert result.exit_code == 2
    assert result.stdout == ""
    (key, value) = next(iter(change.items()))
    assert result.stderr.startswith(
        f"error: {folders[0]} and {folders[1]} cannot be compared: {key}"
    )
    assert repr(value) in result.stderr
    assert not (tmp_path / "runs" / "compare").exists()


def test_one_run_and_a_foreign_folder_end_in_a_message(place: Place) -> None:
    folders = [place("sft", "0011"), place("msft", "0111")]
    result = RUNNER.invoke(app, ["compare", str(folders[0])])
    assert result.exit_code == 2
    assert "a comparison needs two finished runs and was given 1" in result.stderr
    given = ["compare", *map(str, folders), "--output-dir", str(folders[0])]
    result = RUNNER.invoke(app, given)
    assert result.exit_code == 2
    assert "holds a run: name a folder of its own" in result.stderr


def test_comparing_imports_no_torch(place: Place) -> None:
    folders = [place("sft", "0011"), place("msft", "0111")]
    assert_light("compare", *map(str, folders))


def test_a_taken_folder_is_refused_before_any_run(small_recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "compare").mkdir(parents=True)
    (runs / "compare" / "compare.md").write_text("mine")
    changes = ['methods=["sft","ies"]', f"output_dir={runs}"]
    result = RUNNER.invoke(app, ["compare", str(small_recipe), *changes])
    assert result.exit_code == 2
    assert "compare.md is there and is of no comparison" in result.stderr
    assert [path.name for path in runs.iterdir()] == ["compare"]


@pytest.mark.parametrize("option", ["--resume", "--overwrite"])
def test_options_of_a_recipe_are_refused_for_folders(place: Place, option: str) -> None:
    folders = [str(place("sft", "01")), str(place("msft", "11"))]
    result = RUNNER.invoke(app, ["compare", *folders, option])
    assert result.exit_code == 2
    assert "--resume and --overwrite go with a recipe" in result.output
    assert "bug" not in result.output
