"""What is told of a recipe's data: every problem, and numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from msft_lite.errors import RecipeError
from msft_lite.recipe import load
from msft_lite.run.plan import plan
from msft_lite.run.survey import Survey, standard_error_points, survey


def write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def surveyed(recipe: Path, *changes: str, only: str | None = None) -> Survey:
    return survey(load(recipe, [f"data.cache_dir={recipe.parent / 'cache'}", *changes]), only=only)


@pytest.mark.parametrize(("rows", "points"), [(1, 50.0), (100, 5.0), (400, 2.5)])
def test_the_standard_error_is_that_of_a_coin(rows: int, points: float) -> None:
    assert standard_error_points(rows) == points


def test_a_good_recipe_has_no_problem(small_recipe: Path) -> None:
    found = surveyed(small_recipe)
    assert found.problems == ()
    assert [task.name for task in found.tasks] == ["same", "noise", "letter"]
    for task in found.tasks:
        assert task.form == "plain"
        assert task.rows is not None
        assert task.task is not None
        assert len(task.task.train) == len(task.rows.splits.train) == 12


def test_what_was_tokenised_once_is_found_again(small_recipe: Path) -> None:
    first, again = surveyed(small_recipe).notes[-1], surveyed(small_recipe).notes[-1]
    assert not first.startswith("tokenised 0 texts")
    assert again.startswith("tokenised 0 texts")


def test_every_task_is_looked_at_whatever_is_wrong_with_others(small_recipe: Path) -> None:
    folder = small_recipe.parent
    write(folder / "same.jsonl", [{"promt": "x", "answer": "#### 1"}])
    write(folder / "noise.jsonl", [{"prompt": f"{n}?", "answer": "x" * 80} for n in range(24)])
    found = surveyed(small_recipe, "tasks.letter.train_samples=3")
    first, second, third = found.problems
    assert "task 'same'" in first
    assert "same.jsonl, line 1" in first
    assert "task 'noise': no answer tokens" in second
    assert "task 'letter' has 3 training rows" in third
    assert [task.rows is None for task in found.tasks] == [True, False, False]
    assert [task.task is None for task in found.tasks] == [True, True, False]


def test_too_few_positions_are_one_problem(small_recipe: Path) -> None:
    found = surveyed(small_recipe, "eval.max_new_tokens=600")
    # The longest prompt is "Q: axa\nA: ": 10 tokens.
    assert found.problems == found.general
    (problem,) = found.problems
    assert problem.startswith("a question and its answer take up to 610 tokens, the model has 512")


def test_rows_without_a_loss_are_a_problem_of_their_task(small_recipe: Path) -> None:
    long = [{"prompt": f"{n}?", "answer": "#### " + "x" * 80} for n in range(6)]
    write(small_recipe.parent / "long.jsonl", long)
    found = surveyed(small_recipe, "method.signal=loss", "tasks.noise.control_path=long.jsonl")
    (problem,) = found.problems
    assert "task 'noise': none of its 6 control rows" in problem


def test_without_a_tokenizer_rows_are_read_all_the_same(small_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = surveyed(small_recipe, f"model.name_or_path={tmp_path / 'empty'}")
    (problem,) = found.problems
    assert problem.startswith("lengths were not counted: model folder")
    assert found.tokenizer is None
    assert [task.rows is not None for task in found.tasks] == [True] * 3


def test_a_model_that_cannot_be_made_is_told(small_recipe: Path, tmp_path: Path) -> None:
    source = Path(load(small_recipe, []).model.name_or_path)
    folder = tmp_path / "other"
    folder.mkdir()
    for file in source.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    found = surveyed(small_recipe, f"model.name_or_path={folder}")
    (problem,) = found.problems
    assert "cannot be made" in problem


def test_one_task_alone(small_recipe: Path) -> None:
    (small_recipe.parent / "same.jsonl").write_text("damaged")
    found = surveyed(small_recipe, only="letter")
    assert [task.name for task in found.tasks] == ["letter"]
    assert found.problems == ()


def test_no_such_task(small_recipe: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'letter'.*same, noise, letter"):
        surveyed(small_recipe, only="leter")


@pytest.fixture
def split_recipe(small_recipe: Path) -> Path:
    """The small recipe, ``same`` divided by a column: 12 rows of each of two fields."""
    rows = [{"prompt": f"{n}?", "answer": f"#### {n}", "field": "ab"[n % 2]} for n in range(24)]
    write(small_recipe.parent / "same.jsonl", rows)
    return small_recipe


def test_a_task_that_is_split_counts_as_many(split_recipe: Path) -> None:
    changes = (
        "tasks.same.split_by=field",
        "tasks.same.control_samples=2",
        "tasks.same.report_samples=2",
    )
    found = surveyed(split_recipe, *changes)
    assert [(task.name, task.table) for task in found.tasks][:2] == [
        ("same-a", "same"),
        ("same-b", "same"),
    ]
    for only, names in (("same", ["same-a", "same-b"]), ("same-b", ["same-b"])):
        found = surveyed(split_recipe, *changes, only=only)
        assert [task.name for task in found.tasks] == names
        assert found.problems == ()
    with pytest.raises(RecipeError, match="same-a, same-b"):
        surveyed(split_recipe, *changes, only="same-c")


def test_a_task_whose_table_cannot_be_read_is_told_so(split_recipe: Path) -> None:
    (split_recipe.parent / "same.jsonl").write_text("damaged")
    (problem,) = surveyed(split_recipe, "tasks.same.split_by=field", only="same-a").problems
    assert "same.jsonl, line 1" in problem


def test_two_tasks_of_one_name_are_told(split_recipe: Path) -> None:
    found = surveyed(
        split_recipe,
        "tasks.same.split_by=field",
        "tasks.same.control_samples=2",
        "tasks.same.report_samples=2",
        "tasks.noise.name=same-a",
    )
    assert found.problems == ("two tasks are called 'same-a'; give tasks.same-a another name",)


def test_few_control_rows_are_a_warning(small_recipe: Path) -> None:
    (warning,) = surveyed(small_recipe).warnings
    assert warning.startswith("few control rows (letter 6, noise 6, same 6): ")
    assert "up to 20.4 points; 200 rows bring it to 3.5" in warning


def test_a_loss_needs_no_more_control_rows(small_recipe: Path) -> None:
    assert surveyed(small_recipe, "method.signal=loss").warnings == ()


def test_steering_by_the_report_rows_is_a_warning(small_recipe: Path) -> None:
    free = [f"tasks.{task}.control_samples=" for task in ("same", "noise", "letter")]
    warnings = surveyed(small_recipe, "eval.steer_on=report", *free).warnings
    assert "will be too good" in warnings[0]


def test_a_template_in_use_is_named(small_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = surveyed(small_recipe, "data.apply_chat_template=true", "data.chat_template=chat.jinja")
    assert found.problems == ()
    assert f"chat template: {tmp_path / 'chat.jinja'}" in found.notes
    assert {task.form for task in found.tasks} == {"template"}


def test_nearest_rounding_gets_a_note(small_recipe: Path) -> None:
    full = ("model.tuning=full", "model.lora_r=", "model.lora_alpha=", "model.dtype=bfloat16")
    (note,) = (
        note
        for note in surveyed(small_recipe, *full, "train.bf16_update=nearest").notes
        if "bf16_update" in note
    )
    assert "1/500 to 1/250 of the weight) is lost of every update" in note
    assert not any("bf16_update" in note for note in surveyed(small_recipe, *full).notes)


@pytest.mark.skipif(torch.cuda.is_available(), reason='"auto" is the GPU here')
def test_what_auto_rules_out_is_a_problem(small_recipe: Path) -> None:
    full = ("model.tuning=full", "model.lora_r=", "model.lora_alpha=", "model.dtype=auto")
    (problem,) = surveyed(small_recipe, *full, "train.bf16_update=nearest").problems
    assert 'model.dtype = "auto" is float32 on a CPU' in problem
    (problem,) = surveyed(small_recipe, "train.optim=paged_adamw").problems
    assert 'model.device = "auto" is the CPU here; take "adamw"' in problem


def test_what_the_disk_is_asked_for(small_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = surveyed(small_recipe, "snapshots.max_bytes=1000").problems
    assert problem.startswith("snapshots.max_bytes = 1,000: a mark needs ")
    disk = plan(load(small_recipe, [])).disk
    assert disk is not None
    found = surveyed(small_recipe, f"snapshots.max_bytes={disk.wanted_bytes - 1}")
    assert not found.problems
    assert any(f"holds {disk.alive - 1} snapshots stored whole" in note for note in found.notes)
    full = SimpleNamespace(total=9, used=9, free=0)
    monkeypatch.setattr("msft_lite.run.disk.shutil.disk_usage", lambda _place: full)
    assert any("disk: 0 B free in " in text for text in surveyed(small_recipe).warnings)
