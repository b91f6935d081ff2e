"""Plans: counts worked out by hand on small recipes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from msft_lite.errors import DataError, ModelError
from msft_lite.recipe import load
from msft_lite.run.plan import Tally, assumed_peaks, plan, simulate


def write_rows(path: Path, count: int, word: str) -> None:
    rows = [{"prompt": f"{word} {n:03}", "answer": "####" + "y" * 4} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    for name, count in (("one", 16), ("two", 32)):
        write_rows(tmp_path / f"{name}.jsonl", count, name)
        write_rows(tmp_path / f"{name}.control.jsonl", 5, f"{name} control")
        write_rows(tmp_path / f"{name}.report.jsonl", 7, f"{name} report")
    tables = "".join(
        f'[[tasks]]\nname = "{name}"\npath = "{name}.jsonl"\n'
        f'control_path = "{name}.control.jsonl"\nreport_path = "{name}.report.jsonl"\n'
        for name in ("one", "two")
    )
    path = tmp_path / "r.toml"
    path.write_text(
        '[model]\nname_or_path = "owner/name"\n'
        "[train]\nper_device_train_batch_size = 4\ngradient_accumulation_steps = 1\n"
        f"[method]\nbudget = 1\n[eval]\nmax_new_tokens = 10\n{tables}"
    )
    return path


def tally(path: Path, *overrides: str) -> Tally:
    recipe = load(path, overrides)
    return simulate(recipe, {"one": 16, "two": 32}, 2)


def test_peaks_are_evenly_spread() -> None:
    assert assumed_peaks(1, 6) == (Fraction(13, 4),)
    assert assumed_peaks(2, 2) == (Fraction(1, 2), Fraction(2))
    assert assumed_peaks(4, 2) == (Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(2))


def test_msft_with_two_tasks(recipe_path: Path) -> None:
    """Peaks of own epochs: one 1/2, two 2; a stage is an epoch of four marks.

    Stage 1 trains both for 4 marks of 12 rows (3 steps); one peaks at mark 2 and leaves; back to
    1/2. Stage 2 trains two for 4 marks of 8 rows (2 steps): ends at 3/2, its best. Stage 3 goes on
    to 5/2; it peaked at mark 2 and leaves.
    """
    counted = tally(recipe_path)
    assert counted.stages == 3
    assert counted.steps == 4 * 3 + 4 * 2 + 4 * 2
    assert counted.rows == {"one": 16, "two": 96}
    assert counted.drops == ("one", "two")
    assert counted.snapshots_written == 12
    # Stages 2 and 3 start where a scored mark was: only the base is scored besides the marks.
    assert counted.evaluations == 13


def test_sft_with_two_tasks(recipe_path: Path) -> None:
    counted = tally(recipe_path, "method.budget=", "method.name=sft", "method.epochs=2")
    assert (counted.stages, counted.steps, counted.drops) == (1, 24, ())
    assert counted.rows == {"one": 32, "two": 64}
    assert (counted.evaluations, counted.snapshots_written) == (9, 8)
    # At the seventh mark: peaks of both, the best mean, the sixth and the new seventh.
    assert counted.snapshots_alive <= 5


def test_deferred_evaluation_keeps_a_whole_stage(recipe_path: Path) -> None:
    overrides = ("method.budget=", "method.name=sft", "method.epochs=2")
    assert tally(recipe_path, *overrides, "eval.at=end").snapshots_alive == 8
    counted = (tally(recipe_path, *overrides), tally(recipe_path, *overrides, "eval.at=end"))
    assert counted[0].steps == counted[1].steps


def test_every_task_leaves_within_the_guard(recipe_path: Path) -> None:
    for detector in ("peak", "significant"):
        recipe = load(recipe_path, [f"method.detector={detector}", "method.budget=3"])
        sizes = {f"task{n}": 12 for n in range(6)}
        counted = simulate(recipe, sizes, 6)
        assert sorted(counted.drops) == sorted(sizes)


def test_rows_and_tokens_of_files(recipe_path: Path) -> None:
    found = plan(load(recipe_path))
    one = found.tasks[0]
    assert (one.train_rows, one.control_rows, one.report_rows) == (16, 5, 7)
    # No tokenizer: 4 characters a token; "one 000" is 1, "####yyyy" is 2, and the end of text.
    assert one.tokens_per_row == 4
    assert found.train_tokens == 4 * sum(found.tally.rows.values())
    assert found.generated_tokens_at_most == (13 * (5 + 5) + 2 * (7 + 7)) * 10
    assert any("4 characters a token" in note for note in found.notes)
    assert found.size is None


def test_carved_splits_are_counted(recipe_path: Path) -> None:
    overrides = ["tasks.two.control_path=", "tasks.two.report_path="]
    overrides += ["tasks.two.control_samples=3", "tasks.two.report_samples=4"]
    two = plan(load(recipe_path, overrides)).tasks[1]
    assert (two.train_rows, two.control_rows, two.report_rows) == (25, 3, 4)


def test_sizes_and_tokens_of_a_local_model(recipe_path: Path, tiny_model_folder: Path) -> None:
    found = plan(load(recipe_path, [f"model.name_or_path={tiny_model_folder}", "model.lora_r=2"]))
    assert found.size is not None
    # A byte-level tokenizer: "one 000" has 7 bytes, "####yyyy" 8, and the end of text.
    assert found.tasks[0].tokens_per_row == 16
    alive, written = found.tally.snapshots_alive, found.tally.snapshots_written
    snapshot, moments = found.size.snapshot_bytes, 8 * found.size.trainable_parameters
    assert found.disk is not None
    assert found.disk.most_bytes == alive * snapshot + 2 * moments
    assert found.written_bytes == written * (snapshot + moments)


def test_answers_that_do_not_fit_are_left_out(recipe_path: Path, tiny_model_folder: Path) -> None:
    model = f"model.name_or_path={tiny_model_folder}"
    kept = plan(load(recipe_path, [model, "train.max_length=10"]))
    assert kept.tasks[0].tokens_per_row == 10
    with pytest.raises(DataError, match="max_length"):
        plan(load(recipe_path, [model, "train.max_length=9"]))


def test_a_hub_data_set_is_assumed_and_said_so(recipe_path: Path) -> None:
    overrides = ["tasks.two.path=", "tasks.two.control_path=", "tasks.two.report_path="]
    overrides += ["tasks.two.dataset=owner/name", "tasks.two.split=train"]
    found = plan(load(recipe_path, overrides))
    assert (found.tasks[1].control_rows, found.tasks[1].report_rows) == (200, 500)
    assert any("two: on the hub and not counted" in note for note in found.notes)
    told = plan(load(recipe_path, [*overrides, "tasks.two.train_samples=64"]))
    assert told.tasks[1].train_rows == 64


def test_what_is_missing_is_refused(recipe_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        plan(load(recipe_path, ["tasks.one.path=none.jsonl"]))
    with pytest.raises(ModelError, match="does not exist"):
        plan(load(recipe_path, ["model.name_or_path=./none"]))
