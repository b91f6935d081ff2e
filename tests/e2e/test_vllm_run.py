"""Whole runs with vLLM: the same scores as with torch, one engine, nothing left behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.outcomes import results, tensors

Launch = Callable[..., subprocess.Popen[str]]
Workers = Callable[[int], set[int]]
Benchmark = Callable[..., subprocess.CompletedProcess[str]]
TUNINGS = {
    "lora": ("method.max_stages=2",),
    "full": ("model.tuning=full", "train.learning_rate=1e-3", "method.max_stages=1"),
}
TUNINGS["shared"] = TUNINGS["full"]
ENGINES = {"shared": ("engine.name=vllm", "engine.share_weights=true")}
# What docs/format.md lists. Anything else, such as weights on their way to the engine, is too much.
DOCUMENTED = {
    "recipe.toml",
    "ledger.jsonl",
    "snapshots",
    "crash.safetensors",
    "best",
    "best.tmp",
    "best.old",
    "engine.log",
    "examples.json",
    "summary.json",
    "report.md",
    "report.html",
    "figures",
    "lock",
}
LOOK_SECONDS = 0.01
LOOKS_A_SCAN = 20  # a look at every process costs more than one into a folder


@dataclass(frozen=True, slots=True)
class Watched:
    """A finished run with vLLM, what was seen while it ran, and the same run with torch.

    Attributes:
        names: everything that ever stood in the run folder.
        engines: process ids of the engines that were seen.
        left: those that were still there when the run had ended.
    """

    tuning: str
    folder: Path
    reference: Path
    output: str
    exit_code: int
    names: set[str] = field(default_factory=set)
    engines: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)


@pytest.fixture(scope="module", params=TUNINGS)
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Runs each tuning once with torch and once, watched, with vLLM."""
    recipe: Path = request.getfixturevalue("short_recipe")
    base = tmp_path_factory.mktemp(request.param)
    changes = TUNINGS[request.param]
    finish: Callable[..., str] = request.getfixturevalue("finish")
    finish("run", recipe, *changes, "--output-dir", base / "torch")
    launch: Launch = request.getfixturevalue("launch")
    engine = ENGINES.get(request.param, ("engine.name=vllm",))
    process = launch("run", recipe, *changes, *engine, "--output-dir", base / "vllm")
    workers: Workers = request.getfixturevalue("workers")
    names, engines = observed(process, base / "vllm", workers)
    return Watched(
        tuning=request.param,
        folder=base / "vllm",
        reference=base / "torch",
        output=process.communicate()[0],
        exit_code=process.returncode,
        names=names,
        engines=engines,
        left=workers(process.pid),
    )


def observed(
    process: subprocess.Popen[str], folder: Path, workers: Workers
) -> tuple[set[str], set[int]]:
    """Looks on until the process ends."""
    names: set[str] = set()
    engines: set[int] = set()
    looks = 0
    while process.poll() is None:
        if folder.exists():
            names |= {entry.name for entry in folder.iterdir()}
        if looks % LOOKS_A_SCAN == 0:
            engines |= workers(process.pid)
        looks += 1
        time.sleep(LOOK_SECONDS)
    return names, engines


def test_it_finishes(watched: Watched) -> None:
    assert watched.exit_code == 0, watched.output
    assert "Traceback" not in watched.output
    rows = results(watched.folder)
    assert rows[-1]["kind"] == "finish"
    assert rows[0]["engine"] == "vllm"
    assert rows[0]["tuning"] == ("lora" if watched.tuning == "lora" else "full")
    is_shared = watched.tuning == "shared"
    assert rows[0]["tenancy"]["kind"] == ("share" if is_shared else "resident")
    assert ("one copy of the weights for trainer and engine" in watched.output) == is_shared
    assert "vllm holds a copy of the weights" not in watched.output
    assert (watched.folder / "engine.log").stat().st_size > 0


def test_every_score_is_that_of_the_torch_engine(watched: Watched) -> None:
    rows, expected = results(watched.folder), results(watched.reference)
    assert expected[0]["engine"] == "torch"
    assert rows[1:] == expected[1:]


def test_the_tensors_are_those_of_the_run_with_torch(watched: Watched) -> None:
    found = tensors(watched.folder)
    assert {name.split("/")[0] for name in found} == {"best", "snapshots"}
    assert found == tensors(watched.reference)


def test_one_engine_served_the_run_and_is_gone(watched: Watched) -> None:
    assert len(watched.engines) == 1
    assert not watched.left


def test_no_weights_for_the_engine_were_in_the_run_folder(watched: Watched) -> None:
    names = {name.removesuffix(".partial") for name in watched.names}
    assert "snapshots" in names
    assert names <= DOCUMENTED


def test_a_second_opinion_agrees(watched: Watched, benchmark: Benchmark) -> None:
    # The adapter goes through another vLLM too; its start takes as long as all else here.
    options = () if watched.tuning == "lora" else ("--without-vllm",)
    done = benchmark("verify_run.py", watched.folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agree     vLLM: ") == (3 if watched.tuning == "lora" else 0)
    reader = "peft" if watched.tuning == "lora" else "transformers"
    assert done.stdout.count(f"agree     {reader}: ") == 3
