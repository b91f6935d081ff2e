"""`msft-lite study` on runs that are finished already, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from msft_lite.cli import app
from msft_lite.recipe import digest
from msft_lite.recipe.studies import PLANS, StudyOptions, load_study
from msft_lite.report.studies import TELLERS

RUNNER = CliRunner()
RECIPE = """
tasks = [{ name = "add", path = "add.jsonl" }, { name = "sub", path = "sub.jsonl" }]
[model]
name_or_path = "base"
"""
Finished = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def finished(recipe: Path, tmp_path: Path) -> Finished:
    """Writes the ledgers that the runs of a study leave: add is best at mark 1, sub at mark 2."""

    def make(name: str, *, epochs: int | None = None, **first: Any) -> Path:
        options = StudyOptions(epochs)
        folder, variants = load_study(name, recipe, output_dir=tmp_path / "out", options=options)
        for variant in variants:
            rows = ledger(variant.recipe.method.name)
            rows[0] = {**rows[0], "recipe": digest(variant.recipe), **first}
            variant.recipe.output_dir.mkdir(parents=True)
            text = "".join(json.dumps(row) + "\n" for row in rows.values())
            (variant.recipe.output_dir / "ledger.jsonl").write_text(text)
        return folder

    return make


def ledger(method: str) -> dict[int, dict[str, Any]]:
    tasks, counts = ["add", "sub"], {"add": "131", "sub": "012"}
    outcomes = [
        {task: "1" * int(of[k]) + "0" * (4 - int(of[k])) for task, of in counts.items()}
        for k in range(3)
    ]
    scores = [{task: [of.count("1"), 4] for task, of in marks.items()} for marks in outcomes]
    start = {
        "kind": "start", "format": 1, "method": method, "seed": 20, "tasks": tasks,
        "rows": {task: {"train": 9, "control": 4, "report": 4} for task in tasks},
        "data": {}, "base": "cafe", "marks_per_epoch": 4,
    }  # fmt: skip
    rollout = {
        "kind": "rollout", "n": 1, "start": "root", "tasks": tasks, "marks": [3, 6],
        "share": dict.fromkeys(tasks, "1"), "fresh": True,
    }  # fmt: skip
    marks = [
        {
            "kind": "mark", "n": 1, "k": k, "step": 3 * k, "snapshot": f"s{k}" if k else "root",
            "scores": scores[k], "outcomes": outcomes[k], "train_loss": {}, "peak_bytes": 1,
            "trained_tokens": 70 * k, "generated_tokens": 5, "seconds": {},
        }
        for k in range(3)
    ]  # fmt: skip
    finish = {
        "kind": "finish", "snapshot": "s1", "n": 1, "k": 1, "note": "", "seconds": {},
        "scores": {"base": scores[0], "best": scores[1]},
        "outcomes": {"base": outcomes[0], "best": outcomes[1]},
    }  # fmt: skip
    return dict(enumerate([start, rollout, *marks, finish]))


def study(*arguments: str | Path) -> Any:
    return RUNNER.invoke(app, ["study", *map(str, arguments)])


def content(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_study_is_planned_and_told() -> None:
    assert list(PLANS) == list(TELLERS)


def test_finished_runs_give_the_same_files_again(
    recipe: Path, finished: Finished, tmp_path: Path
) -> None:
    folder = finished("heterogeneity")
    given = ("heterogeneity", recipe, "--output-dir", tmp_path / "out", "--resume")
    first = study(*given)
    assert first.exit_code == 0, first.output
    # add at 0.25 and sub at 0.5; the mean's peak is mark 1.
    assert "the tasks' peaks lie 0.12 epochs" in first.stdout
    assert first.stdout.endswith(f"study: {folder}/study.md\n")
    files = content(folder)
    assert study(*given).exit_code == 0
    assert content(folder) == files
    assert Path("sft/ledger.jsonl") in files
    assert Path("figures/curves.svg") in files


def test_a_run_of_another_study_is_taken_over(
    recipe: Path, finished: Finished, tmp_path: Path
) -> None:
    elsewhere = finished("budget")
    result = study("heterogeneity", recipe, "--output-dir", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"run sft: taken from {elsewhere}/sft, which is of the same recipe" in result.stdout
    assert not (tmp_path / "out" / "heterogeneity" / "sft").exists()


def test_runs_in_use_are_not_mixed_with(recipe: Path, finished: Finished, tmp_path: Path) -> None:
    folder = finished("heterogeneity")
    result = study("heterogeneity", recipe, "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{folder}/sft is in use" in result.stderr


def test_finished_runs_of_other_options_are_not_taken_for_these(
    recipe: Path, finished: Finished, tmp_path: Path
) -> None:
    folder = finished("heterogeneity", epochs=3)
    given = ("heterogeneity", recipe, "--output-dir", tmp_path / "out", "--resume")
    result = study(*given)
    assert result.exit_code == 2
    assert f"{folder}/sft: the finished run there is of another recipe" in result.stderr
    assert study(*given, "--epochs", "3").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shft"], "'shft' is no study; did you mean 'shift'?"),
        (["granularity"], 'write split_by = "COLUMN"'),
        (["scale"], "data.train_samples=N"),
        (["loss", "seeds=[1, 2]"], "seeds: a study chooses its own methods"),
        (["loss", "train.lerning_rate=1"], "did you mean 'learning_rate'?"),
        (["budget", "--budgets", "1,one"], "needed are different epochs, such as 1,3,5"),
        (["budget", "--budgets", "1,1"], "needed are different epochs"),
        (["budget", "--budgets", "0"], "needed are different epochs"),
        (["loss", "--budgets", "1"], "--budgets goes with the study budget alone"),
        (["loss", "--epochs", "0"], "'--epochs'"),
        (["loss", "--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_mistakes_end_in_a_message(
    recipe: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    name, *rest = arguments
    result = study(name, recipe, *rest, "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_foreign_file_is_not_replaced(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "loss").mkdir(parents=True)
    (tmp_path / "out" / "loss" / "study.md").write_text("mine")
    result = study("loss", recipe, "--output-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert "study.md is there and is of no study" in result.stderr
