"""Runs of seconds: their recipes, and what watches them and kills them where a test says."""

from __future__ import annotations

import atexit
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from msft_lite.recipe import Recipe, load
from msft_lite.run.folder import Mode
from msft_lite.run.session import run

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart.toml"
BASE = QUICKSTART.parent / "quickstart" / "base"
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
FULL = ("model.tuning=full", "model.lora_r=", "model.lora_alpha=", "train.learning_rate=1e-3")


@cache
def first_layer() -> Path:
    """The folder of the quickstart's base with its first layer alone, which computes in no time."""
    folder = Path(mkdtemp(prefix="msft-lite-base-"))
    atexit.register(shutil.rmtree, folder)
    shape = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    AutoModelForCausalLM.from_pretrained(BASE, **shape).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    return folder


def short(folder: Path, *changes: str) -> Recipe:
    """The quickstart's recipe, cut short and with a small base, for a run in ``folder``."""
    fixed = (f"output_dir={folder}", f"model.name_or_path={first_layer()}")
    return load(QUICKSTART, [*fixed, *SHORT, *changes])


def changed(recipe: Path, folder: Path, *changes: str) -> Recipe:
    """A recipe with changes, for a run in ``folder``."""
    return load(recipe, [f"output_dir={folder}", *changes])


class Killed(BaseException):
    """Stands for the end of a process: nothing in the program catches it."""


class Watcher:
    """Shows nothing, and may kill the run at an event.

    Events are "progress" (a step of training), "row" (of the ledger), and a row's kind.

    Args:
        event: where the run is killed; "" for nowhere.
        after: how many such events it lives through.
        act: is called at every step and every row with "progress" or "row", before a kill.
    """

    def __init__(
        self, event: str = "", after: int = 0, act: Callable[[str], None] = lambda _: None
    ) -> None:
        self.event = event
        self.after = after
        self.act = act
        self.seen = Counter[str]()
        self.first_step: tuple[int, int] | None = None
        self.said: list[str] = []

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object, **__: object) -> None:
        return

    def row(self, row: Mapping[str, Any]) -> None:
        self.count("row", row["kind"])

    def progress(self, *, n: int, step: int, steps: int, losses: Mapping[str, float]) -> None:
        self.first_step = self.first_step or (n, step)
        self.count("progress")

    def say(self, text: str) -> None:
        self.said.append(text)

    def count(self, *events: str) -> None:
        self.seen.update(events)
        self.act(events[0])
        if self.event in events and self.seen[self.event] > self.after:
            raise Killed


def killed(recipe: Recipe, event: str, after: int, mode: Mode = "new") -> Watcher:
    """Runs until the kill and returns the watcher."""
    watch = Watcher(event, after)
    with pytest.raises(Killed):
        run(recipe, mode=mode, watch=watch)
    return watch
