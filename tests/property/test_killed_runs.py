"""Law 3 on whole runs: every kind of optimizer, what makes a step fit, marks scored in part."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from msft_lite.ledger import Ledger
from msft_lite.run.folder import RunFolder
from msft_lite.run.resuming import load_run
from msft_lite.run.session import run
from tests.outcomes import results, tensors
from tests.whole_runs import FULL, Killed, Watcher, killed, short

# Adapters of rank 64 are large enough for moments of 8 bits.
LORA = ("model.lora_r=64", "model.lora_dropout=0.1")
BFLOAT16 = (*FULL, "model.dtype=bfloat16", "train.bf16_update=stochastic")
EIGHT_BIT, IN_BACKWARD = "train.optim=adamw_8bit", "train.optimizer_in_backward=true"
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is in the extras alone"
)
OPTIMIZERS = {
    "lora-8bit": (*LORA, EIGHT_BIT),
    "full-bfloat16-8bit": (*BFLOAT16, EIGHT_BIT),
    "lora-in-backward": (*LORA, IN_BACKWARD),
    "full-bfloat16-in-backward": (*BFLOAT16, IN_BACKWARD),
    "full-bfloat16-8bit-in-backward": (*BFLOAT16, EIGHT_BIT, IN_BACKWARD),
}
HALVED = ("train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=2")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=needs_bitsandbytes if "8bit" in n else ()) for n in OPTIMIZERS],
)
def test_a_killed_run_comes_out_the_same_with_every_optimizer(tmp_path: Path, name: str) -> None:
    whole = run(short(tmp_path / "whole", *OPTIMIZERS[name]), mode="new", watch=Watcher())
    rows = results(whole)
    recipe = short(tmp_path / "run", *OPTIMIZERS[name])
    killed(recipe, "progress", 4)
    killed(recipe, "row", 4, "resume")
    with safe_open(RunFolder(recipe.output_dir).crash_copy, "pt") as copy:
        kinds = {copy.get_slice(key).get_dtype() for key in copy.keys()}  # noqa: SIM118
    assert ("U8" in kinds) == ("8bit" in name)
    killed(recipe, "progress", 7, "resume")
    killed(recipe, "row", len(rows) - 2, "resume")
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == rows
    assert tensors(recipe.output_dir) == tensors(whole)


def test_a_chosen_micro_batch_gives_the_bits_of_a_named_one(tmp_path: Path) -> None:
    named = run(short(tmp_path / "named"), mode="new", watch=Watcher())
    recipe = short(
        tmp_path / "chosen",
        "train.per_device_train_batch_size=4",
        "train.gradient_accumulation_steps=4",
        "train.auto_micro_batch=true",
    )
    first = killed(recipe, "row", 3)
    (line,) = [text for text in first.said if text.startswith("chosen: ")]
    assert "16 rows in a pass, 1 pass: " in line
    killed(load_run(recipe.output_dir), "progress", 2, "resume")  # its recipe has the choice
    again = Watcher()
    run(recipe, mode="resume", watch=again)
    assert "chosen: 16 rows in a pass, 1 pass, as before" in again.said
    rows, expected = results(recipe.output_dir), results(named)
    assert isinstance(rows[0].pop("auto_micro_batch"), str)
    assert expected[0].pop("auto_micro_batch") is None
    assert rows == expected
    assert tensors(recipe.output_dir) == tensors(named)


def test_a_run_that_goes_on_with_other_rows_in_a_pass_can_be_killed_again(tmp_path: Path) -> None:
    for name in ("once", "twice"):
        killed(short(tmp_path / name, *LORA), "progress", 4)
        changed = load_run(tmp_path / name, HALVED)
        if name == "twice":
            killed(changed, "progress", 3, "resume")
            changed = load_run(tmp_path / name)
        run(changed, mode="resume", watch=Watcher())
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert [row["kind"] for row in results(once)].count("memory") == 1
    assert results(twice) == results(once)
    assert tensors(twice) == tensors(once)


def test_tasks_that_left_are_scored_now_and_then(tmp_path: Path) -> None:
    changes = ("method.start_counts=false", "method.max_stages=3", "eval.dropped_every=4")
    every = results(run(short(tmp_path / "all", *changes[:2]), mode="new", watch=Watcher()))
    rows = results(run(short(tmp_path / "some", *changes), mode="new", watch=Watcher()))
    active, completed = list[str](), 0
    for row, other in zip(rows, every, strict=True):
        active = row["tasks"] if row["kind"] == "rollout" else active
        if row["kind"] in ("rollout", "drop"):
            assert row == other
        if row["kind"] == "mark":
            tasks = rows[0]["tasks"] if row["k"] in (0, 4) else active
            assert row["outcomes"] == {task: other["outcomes"][task] for task in tasks}
            completed += row["n"] > 1 and row["k"] == 0 < row["prompt_tokens"]
    assert completed  # a stage began where dropped tasks had not been scored
    recipe = short(tmp_path / "killed", *changes, "eval.at=end")
    killed(recipe, "row", 9)
    killed(recipe, "row", len(rows) - 3, "resume")
    assert results(run(recipe, mode="resume", watch=Watcher())) == rows


@pytest.mark.parametrize("is_written", [False, True])
def test_a_run_that_is_killed_as_it_ends_trains_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    changes = (
        "method.name=continual",
        "method.budget=",
        "method.max_stages=",
        "method.epochs=1",
        "seed=3",
    )
    whole = run(short(tmp_path / "whole", *changes), mode="new", watch=Watcher())
    finished = results(whole)[-1]
    assert finished["last"]["snapshot"] != finished["snapshot"]  # it is scored at the end, too
    recipe = short(tmp_path / "run", *changes)
    append = Ledger.append

    def struck(self: Ledger, row: Mapping[str, Any]) -> None:
        if row["kind"] != "finish" or is_written:
            append(self, row)
        if row["kind"] == "finish":
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "append", struck)
        with pytest.raises(Killed):
            run(recipe, mode="new", watch=Watcher())
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == results(whole)
    assert tensors(recipe.output_dir) == tensors(whole)
