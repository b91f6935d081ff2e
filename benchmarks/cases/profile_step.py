"""Tells where the time of one optimizer step goes, by kernel.

    python benchmarks/cases/profile_step.py [--device cuda] [--tuning full] [--model FOLDER]
        [--json FILE]

Without `--model` it is the Qwen2 of random weights (10 million parameters) of `speed.py`. Rows are
made-up tokens, of which the last fifth carries loss. Two steps warm up, the third is profiled by
torch. A kernel's own time does not hold that of what it calls. What is between kernels, Python
included, is in no row: the last two lines tell the sum and the step. FILE gets the record.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import load_at_start, markdown, record, table, write
from shapes import SEED, write_model
from torch.profiler import ProfilerActivity, profile

from msft_lite.data.task import Example
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss import vocabulary_size
from msft_lite.model.loss_kernel import resolve_loss_kernel
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

WARM_UP = 2
COLUMNS = {"kernel": "", "calls": ",d", "ms": ",.1f", "share": ".1%"}


def main() -> None:
    """Profiles a step, prints the table and writes the record."""
    given = arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        if given.model is None:
            write_model(Path(folder))
        trainer, rows = ready(given, str(given.model or folder))
        for _ in range(WARM_UP):
            trainer.step(rows)
        seconds, events = profiled(trainer, rows, given.device)
    found = record(
        {"kernels": table(COLUMNS, rows_of(events, seconds, given))},
        device=given.device,
        conditions=f"{given.threads} threads, loss {trainer.loss_kernel.name}, {load_at_start()}",
    )
    print(markdown(found["tables"]["kernels"]))
    write(given.json, found)


def arguments() -> argparse.Namespace:
    """Returns what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tuning", choices=("lora", "full"), default="lora")
    parser.add_argument("--model", type=Path, help="folder of another model")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, default=32, help="of the step")
    parser.add_argument("--pass-rows", type=int, default=8)
    parser.add_argument("--shortest", type=int, default=20, help="tokens of a row")
    parser.add_argument("--longest", type=int, default=400)
    parser.add_argument("--padding", action="store_true", help="pad rows")
    parser.add_argument("--loss-kernel", default="auto")
    parser.add_argument("--liger-kernels", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--top", type=int, default=15, help="kernels to print")
    parser.add_argument("--json", type=Path, help="file for the record")
    return parser.parse_args()


def ready(given: argparse.Namespace, folder: str) -> tuple[Trainer, list[Example]]:
    """Returns a trainer and the rows of its step."""
    settings = ModelSettings(
        folder,
        device=given.device,
        dtype=given.dtype,
        tuning=given.tuning,
        liger_kernels=given.liger_kernels,
        padding_free=False if given.padding else None,
    )
    model = load_model(settings, seed=SEED)
    kernel = resolve_loss_kernel(given.loss_kernel, model)
    train = TrainSettings(1e-4, given.pass_rows)
    trainer = Trainer(model, train, seed=SEED, pad_id=0, loss_kernel=kernel)
    return trainer, made_up(given, vocabulary_size(model))


def made_up(given: argparse.Namespace, vocabulary: int) -> list[Example]:
    """Returns rows of made-up tokens."""
    rng = random.Random(SEED)
    rows = []
    for number in range(given.rows):
        length = rng.randint(given.shortest, given.longest)
        ids = tuple(rng.randrange(1, vocabulary) for _ in range(length))
        answer = max(1, length // 5)
        rows.append(Example("made up", number, ids[:-answer], ids[-answer:]))
    return rows


def profiled(trainer: Trainer, rows: list[Example], device: str) -> tuple[float, list[Any]]:
    """Returns the seconds of a step and its operations, added up by name."""
    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as found:
        began = time.perf_counter()
        trainer.step(rows)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds, list(found.key_averages())


def rows_of(events: list[Any], seconds: float, given: argparse.Namespace) -> list[list[Any]]:
    """Returns the operations that took longest, their sum, and the step by the clock."""
    time_of = "self_device_time_total" if given.device == "cuda" else "self_cpu_time_total"
    found = [(getattr(one, time_of) / 1e6, one.count, one.key) for one in events]
    whole = sum(own for own, _, _ in found)
    longest = sorted(found, reverse=True)[: given.top]
    rows = [[f"`{name[:80]}`", count, 1e3 * own, own / whole] for own, count, name in longest]
    return [*rows, ["all kernels", None, 1e3 * whole, 1.0], ["the step", None, 1e3 * seconds, None]]


if __name__ == "__main__":
    main()
