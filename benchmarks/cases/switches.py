"""Measures what switches of training cost: deterministic algorithms, layers computed again.

    python benchmarks/cases/switches.py [--tuning lora full] [--device cpu] [--steps 6]

Model and rows are those of `speed.py`. Every variant has a trainer of its own in one process; they
take turns, step by step, so that whatever else the machine does meets all of them. On a CPU the
process's CPU seconds are counted, on a GPU those of a clock. The first step of each warms up.
Printed are the median of a step's seconds, and the median of their ratio to those of the plain
variant at the same step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from speed import PASS_ROWS, ROWS, SEED, made_up_rows, write_model

from msft_lite.data.task import Example
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer


@dataclass(frozen=True)
class Variant:
    """A recipe's switches."""

    name: str
    every: bool | int = False
    deterministic: bool = False


VARIANTS = (
    Variant("plain"),
    Variant("train.deterministic = true", deterministic=True),
    *(Variant(f"model.gradient_checkpointing = {k}", every=k) for k in (4, 2)),
    Variant("model.gradient_checkpointing = true", every=True),
)


def main() -> None:
    """Measures every tuning and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=6, help="measured, after one to warm up")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    print("| tuning | variant | seconds a step | of plain |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for tuning in given.tuning:
            seconds = measured(ModelSettings(folder, device=given.device, tuning=tuning), given)
            for variant in VARIANTS:
                own, plain = seconds[variant], seconds[VARIANTS[0]]
                ratio = statistics.median(a / b for a, b in zip(own, plain, strict=True))
                median = statistics.median(own)
                print(f"| {tuning} | {variant.name} | {median:.2f} | {ratio:.2f} |", flush=True)


def measured(settings: ModelSettings, given: argparse.Namespace) -> dict[Variant, list[float]]:
    """Returns the seconds of every step of every variant, the first left out."""
    rows = [
        Example("made up", number, ids[:-answer], ids[-answer:])
        for number, (ids, answer) in enumerate(made_up_rows(given.steps))
    ]
    trainers = {variant: trainer_of(variant, settings) for variant in VARIANTS}
    seconds: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
    for step in range(given.steps + 1):
        for variant, trainer in trainers.items():
            began = now(given.device)
            trainer.step(rows[step * ROWS : (step + 1) * ROWS])
            seconds[variant].append(now(given.device) - began)
    return {variant: each[1:] for variant, each in seconds.items()}


def trainer_of(variant: Variant, settings: ModelSettings) -> Trainer:
    """Returns a trainer with the variant's switches."""
    model = load_model(replace(settings, gradient_checkpointing=variant.every), seed=SEED)
    train = TrainSettings(1e-4, PASS_ROWS, deterministic=variant.deterministic)
    return Trainer(model, train, seed=SEED, pad_id=0)


def now(device: str) -> float:
    """Returns seconds: of the CPU for this process, or of a clock once the GPU is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
