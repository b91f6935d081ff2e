"""What of a recipe may change when a run is resumed, and what is recorded of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from msft_lite.errors import RecipeError
from msft_lite.recipe import Recipe, load
from msft_lite.report.telling import read_story
from msft_lite.run.folder import RunFolder
from msft_lite.run.resuming import check_places, load_run, recorded_memory
from msft_lite.run.session import run
from tests.outcomes import results, tensors
from tests.whole_runs import Watcher, killed

HALVED = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2")
CHECKPOINTED = "model.gradient_checkpointing=true"


@pytest.fixture
def recipe(small_recipe: Path) -> Recipe:
    changes = [f"output_dir={small_recipe.parent / 'run'}", "method.max_stages=1"]
    return load(small_recipe, changes)


def test_what_was_moved_is_named_and_the_run_goes_on_with_it(
    recipe: Recipe, small_recipe: Path, tiny_model_folder: Path
) -> None:
    folder, data = recipe.output_dir, small_recipe.parent
    whole = recipe.model_copy(update={"output_dir": folder.with_name("whole")})
    run(whole, mode="new", watch=Watcher())
    base = Path(shutil.copytree(tiny_model_folder, data / "base"))
    killed(load(small_recipe, [f"output_dir={folder}", "method.max_stages=1",
                               f"model.name_or_path={base}"]), "row", 3)  # fmt: skip
    check_places(load_run(folder))
    moved = data / "moved"
    moved.mkdir()
    files = [base, *data.glob("*.jsonl")]
    for file in files:
        file.rename(moved / file.name)
    with pytest.raises(RecipeError) as error:
        check_places(load_run(folder))
    named = {file.name: f"tasks.{file.stem}.path" for file in files} | {
        "base": "model.name_or_path"
    }
    for name, key in named.items():
        assert f"\n  {key} = {data / name}" in str(error.value)
        assert f" {key}=..." in str(error.value)
    found = load_run(folder, [f"{key}={moved / name}" for name, key in named.items()])
    check_places(found)
    run(found, mode="resume", watch=Watcher())
    assert results(folder) == results(whole.output_dir)
    assert tensors(folder) == tensors(whole.output_dir)
    check_places(load_run(folder))  # the folder's own recipe has the new places


def test_a_resume_with_fewer_rows_in_a_pass_is_recorded_and_told_once(recipe: Recipe) -> None:
    killed(recipe, "row", 3)
    folder = recipe.output_dir
    before = results(folder)
    first = killed(load_run(folder, HALVED), "row", 5, "resume")
    (said,) = [text for text in first.said if "goes on with" in text]
    assert "per_device_train_batch_size = 4 (before: 8)" in said
    assert "gradient_accumulation_steps = 2 (before: 1)" in said
    assert "differ in the last bits" in said
    assert "dropout" not in said
    second = Watcher()
    run(load_run(folder), mode="resume", watch=second)  # the recipe in the folder has the change
    assert not any("goes on with" in text for text in second.said)
    rows = results(folder)
    assert rows[: len(before)] == before
    assert rows[len(before)] == {
        "kind": "memory",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        "activation_offload": False,
    }
    assert [row["kind"] for row in rows].count("memory") == 1
    assert rows[-1]["kind"] == "finish"
    assert "memory since roll-out 1" in read_story(RunFolder(folder).ledger).setting.facts


def test_activations_computed_again_give_the_bits_of_a_run_without(recipe: Recipe) -> None:
    whole = recipe.model_copy(update={"output_dir": recipe.output_dir.with_name("whole")})
    run(whole, mode="new", watch=Watcher())
    killed(recipe, "row", 3)
    folder = recipe.output_dir
    watch = Watcher()
    run(load_run(folder, [CHECKPOINTED]), mode="resume", watch=watch)
    assert any("gradient_checkpointing = True (before: False)" in text for text in watch.said)
    rows = [row for row in results(folder) if row["kind"] != "memory"]
    assert rows == results(whole.output_dir)
    assert tensors(folder) == tensors(whole.output_dir)


def test_other_rows_in_a_pass_draw_other_masks_and_it_is_said(small_recipe: Path) -> None:
    changes = [f"output_dir={small_recipe.parent / 'run'}", "model.lora_dropout=0.1"]
    killed(load(small_recipe, changes), "row", 2)
    resumed = killed(load_run(small_recipe.parent / "run", HALVED), "row", 3, "resume")
    assert any(text.endswith("and dropout draws other masks") for text in resumed.said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.per_device_train_batch_size=4", "their product must stay 8"),
        ("train.learning_rate=1e-4", "would change the results"),
        ("train.optim=adamw_8bit", "would change the results"),
        ("train.auto_micro_batch=true", "chosen when a run begins, never again"),
        ("model.gradient_checkpointing=auto", "chosen when a run begins, never again"),
        ("train.lernrate=1", "unknown key"),
    ],
)
def test_a_change_of_results_is_refused(recipe: Recipe, change: str, said: str) -> None:
    killed(recipe, "row", 2)
    folder = recipe.output_dir
    files = RunFolder(folder)
    before = files.recipe.read_bytes(), files.ledger.read_bytes()
    with pytest.raises(RecipeError, match=said):
        load_run(folder, [change])
    assert (files.recipe.read_bytes(), files.ledger.read_bytes()) == before


def test_a_finished_run_is_left_alone_by_changes(recipe: Recipe) -> None:
    run(recipe, mode="new", watch=Watcher())
    files = RunFolder(recipe.output_dir)
    before = files.recipe.read_bytes(), files.ledger.read_bytes()
    run(load_run(recipe.output_dir, HALVED), mode="resume", watch=Watcher())
    assert (files.recipe.read_bytes(), files.ledger.read_bytes()) == before


def test_a_resume_with_another_loss_kernel_goes_on_and_says_so(recipe: Recipe) -> None:
    killed(recipe, "row", 2)
    folder = recipe.output_dir
    ledger = RunFolder(folder).ledger
    first, *rest = ledger.read_text().splitlines(keepends=True)
    assert json.loads(first)["loss_kernel"] == "chunked"
    ledger.write_text("".join([first.replace('"chunked"', '"liger"'), *rest]))
    resumed = killed(load_run(folder), "row", 3, "resume")
    assert "loss: logits in chunks" in resumed.said
    told = "the run began with loss_kernel = liger and goes on with chunked: the last bits of its"
    assert any(text.startswith(told) for text in resumed.said)


def test_the_last_recorded_settings_count() -> None:
    start = {"kind": "start", "memory": {"per_device_train_batch_size": 8}}
    later = {"kind": "memory", "per_device_train_batch_size": 4}
    assert recorded_memory([]) is None
    assert recorded_memory([start, {"kind": "mark"}]) == {"per_device_train_batch_size": 8}
    assert recorded_memory([start, later, {"kind": "mark"}]) == {"per_device_train_batch_size": 4}
