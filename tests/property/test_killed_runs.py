"""Law 3 on whole runs: every kind of optimizer, what makes a step fit, marks scored in part."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from msft_lite.ledger import read_rows
from msft_lite.recipe import Recipe, load
from msft_lite.run.folder import Mode, RunFolder
from msft_lite.run.resuming import load_run
from msft_lite.run.session import run

RECIPES = Path(__file__).parents[2] / "recipes"
SHORT = (
    "engine.name=torch",
    "data.train_samples=24",
    "data.control_samples=6",
    "data.report_samples=8",
    "method.budget=1",
    "method.max_stages=2",
    "train.threads=1",
    "eval.max_new_tokens=4",
)
# Adapters of rank 64 are large enough for moments of 8 bits.
LORA = ("model.lora_r=64", "model.lora_dropout=0.1")
FULL = (
    "model.tuning=full",
    "model.lora_r=",
    "model.lora_alpha=",
    "model.dtype=bfloat16",
    "train.bf16_update=stochastic",
    "train.learning_rate=1e-3",
)
EIGHT_BIT, IN_BACKWARD = "train.optim=adamw_8bit", "train.optimizer_in_backward=true"
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is in the extras alone"
)
OPTIMIZERS = {
    "lora-8bit": (*LORA, EIGHT_BIT),
    "full-bfloat16-8bit": (*FULL, EIGHT_BIT),
    "lora-in-backward": (*LORA, IN_BACKWARD),
    "full-bfloat16-in-backward": (*FULL, IN_BACKWARD),
    "full-bfloat16-8bit-in-backward": (*FULL, EIGHT_BIT, IN_BACKWARD),
}
HALVED = ("train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=2")
TIMINGS = ("seconds", "peak_bytes", "cached_tokens", "written_bytes", "disk_bytes")


class Killed(BaseException):
    """Stands for the end of a process: nothing in the program catches it."""


class Watcher:
    """Shows nothing, and may end the process's work at a chosen event."""

    def __init__(self, event: str = "", *, left: int = 0) -> None:
        self.event = event
        self.left = left
        self.said: list[str] = []

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def row(self, row: Mapping[str, Any]) -> None:
        self.count("row")

    def progress(self, *, n: int, step: int, steps: int, losses: Mapping[str, float]) -> None:
        self.count("progress")

    def say(self, text: str) -> None:
        self.said.append(text)

    def count(self, event: str) -> None:
        if event == self.event:
            if self.left == 0:
                raise Killed
            self.left -= 1


def short(folder: Path, *changes: str) -> Recipe:
    return load(RECIPES / "quickstart.toml", [f"output_dir={folder}", *SHORT, *changes])


def killed(recipe: Recipe, event: str, left: int, mode: Mode = "resume") -> None:
    with pytest.raises(Killed):
        run(recipe, mode=mode, watch=Watcher(event, left=left))


def results(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(RunFolder(folder).ledger)
    return [{key: row[key] for key in row if key not in TIMINGS} for row in rows]


def tensors(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "best").glob("*.safetensors")}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=needs_bitsandbytes if "8bit" in n else ()) for n in OPTIMIZERS],
)
def test_a_killed_run_comes_out_the_same_with_every_optimizer(tmp_path: Path, name: str) -> None:
    whole = run(short(tmp_path / "whole", *OPTIMIZERS[name]), mode="new", watch=Watcher())
    rows = results(whole)
    recipe = short(tmp_path / "run", *OPTIMIZERS[name])
    killed(recipe, "progress", 4, mode="new")
    killed(recipe, "row", 4)
    with safe_open(RunFolder(recipe.output_dir).crash_copy, "pt") as copy:
        kinds = {copy.get_slice(key).get_dtype() for key in copy.keys()}  # noqa: SIM118
    assert ("U8" in kinds) == ("8bit" in name)
    killed(recipe, "progress", 7)
    killed(recipe, "row", len(rows) - 2)
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
    watch = Watcher("row", left=3)
    with pytest.raises(Killed):
        run(recipe, mode="new", watch=watch)
    (line,) = [text for text in watch.said if text.startswith("chosen: ")]
    assert "16 rows in a pass, 1 pass: " in line
    killed(load_run(recipe.output_dir), "progress", 2)  # its recipe has the choice
    again = Watcher()
    run(recipe, mode="resume", watch=again)
    assert "chosen: 16 rows in a pass, 1 pass, as before" in again.said
    first, *others = results(recipe.output_dir)
    assert isinstance(first.pop("auto_micro_batch"), str)
    expected, *rest = results(named)
    assert expected.pop("auto_micro_batch") is None
    assert (first, others) == (expected, rest)
    assert tensors(recipe.output_dir) == tensors(named)


def test_a_run_that_goes_on_with_other_rows_in_a_pass_can_be_killed_again(tmp_path: Path) -> None:
    for name in ("once", "twice"):
        killed(short(tmp_path / name, *LORA), "progress", 4, mode="new")
        changed = load_run(tmp_path / name, HALVED)
        if name == "twice":
            killed(changed, "progress", 3)
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
    killed(recipe, "row", 9, mode="new")
    killed(recipe, "row", len(rows) - 3)
    assert results(run(recipe, mode="resume", watch=Watcher())) == rows
