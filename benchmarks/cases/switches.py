"""Measures what switches of training cost: deterministic algorithms, layers computed again.

    python benchmarks/cases/switches.py [--tuning lora full] [--steps 6] [--json FILE]

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
from record import load_at_start, markdown, record, table, write
from shapes import SEED, write_model
from side import Setup

from msft_lite.model.load import load_model
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
COLUMNS = {
    device: {"tuning": "", "variant": "", f"{seconds} a step": ".2f", "of plain": ".2f"}
    for device, seconds in (("cpu", "CPU seconds"), ("cuda", "seconds"))
}


def main() -> None:
    """Measures every tuning and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=6, help="measured, after one to warm up")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    conditions = f"one thread, {load_at_start()}"
    if given.device == "cpu":
        torch.set_num_threads(1)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        for tuning in given.tuning:
            setup = Setup(folder, given.device, tuning=tuning, steps=given.steps)
            seconds = measured(setup)
            for variant in VARIANTS:
                own, plain = seconds[variant], seconds[VARIANTS[0]]
                ratio = statistics.median(a / b for a, b in zip(own, plain, strict=True))
                rows.append([tuning, variant.name, statistics.median(own), ratio])
            made = table(COLUMNS[given.device], rows)
            write(
                given.json, record({"switches": made}, device=given.device, conditions=conditions)
            )
    print(markdown(made))


def measured(setup: Setup) -> dict[Variant, list[float]]:
    """Returns the seconds of every step of every variant, the first left out."""
    rows = setup.rows()
    trainers = {variant: trainer_of(variant, setup) for variant in VARIANTS}
    seconds: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
    for step in range(setup.steps + 1):
        for variant, trainer in trainers.items():
            began = now(setup.device)
            trainer.step(rows[step * setup.step_rows : (step + 1) * setup.step_rows])
            seconds[variant].append(now(setup.device) - began)
    return {variant: each[1:] for variant, each in seconds.items()}


def trainer_of(variant: Variant, setup: Setup) -> Trainer:
    """Returns a trainer with the variant's switches."""
    model = load_model(replace(setup.settings, gradient_checkpointing=variant.every), seed=SEED)
    train = TrainSettings(1e-4, setup.pass_rows, deterministic=variant.deterministic)
    return Trainer(model, train, seed=SEED, pad_id=0)


def now(device: str) -> float:
    """Returns seconds: of the CPU for this process, or of a clock once the GPU is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
