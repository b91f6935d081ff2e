"""Measures a roll-back: seconds and bytes read, against loading a full checkpoint.

    python benchmarks/cases/rollback.py [--model quickstart random] [--device cpu]

A model is trained for a few steps, a snapshot is stored and training goes on. Then the snapshot is
put back in place, as a run does it: read, verified and copied into the trainer. Beside it, a full
checkpoint of the same weights is written and loaded as a new model, which is the least that a
resume from a folder of checkpoints does. Files are taken out of the system's cache before every
reading, and bytes are what the system then read from the disk for this process.

The models are the quickstart's base, a random Qwen2 of 30M parameters, and with their names random
weights in the shapes of `memory.py`. Full tuning is in bfloat16, stochastically rounded at 1e-5;
LoRA in float32 over a base in bfloat16, rank 16. Every bit that was put back is compared. Printed
is a table of the median of the repeats; with --json the record of it is written too.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import record
import torch
from evaluation_bench import BASE, write_model
from shapes import configs
from transformers import AutoModelForCausalLM

from msft_lite.data.task import Example
from msft_lite.model.load import base_weights, load_model
from msft_lite.model.settings import Device, ModelSettings, Tuning
from msft_lite.model.weights import Weights
from msft_lite.snapshot.base import BaseFiles
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

SEED, STEPS, ROWS, ROW_TOKENS = 20, 25, 8, 64
RATES: dict[Tuning, float] = {"lora": 2e-4, "full": 1e-5}
STORED: tuple[tuple[Tuning, bool], ...] = (("lora", False), ("full", False), ("full", True))


@dataclass(frozen=True, slots=True)
class Reading:
    """One time that weights came back."""

    seconds: float
    read_bytes: int


def written(name: str, folder: Path) -> Path:
    """Returns a folder with the base model of that name in bfloat16."""
    if name == "random":
        write_model(name, folder / "float32")
    source = {"quickstart": BASE, "random": folder / "float32"}.get(name)
    if source is None:
        torch.manual_seed(SEED)
        model: Any = AutoModelForCausalLM.from_config(configs()[name], dtype=torch.bfloat16)
    else:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    model.save_pretrained(folder / "base")
    return folder / "base"


def measured(
    base: Path, tuning: Tuning, *, deltas: bool, device: Device, repeats: int
) -> dict[str, Any]:
    """Returns the row of the table for one form of snapshot."""
    settings = ModelSettings(str(base), device=device, dtype="bfloat16", tuning=tuning)
    trainer, model = trainer_of(settings)
    untouched = trainer.capture() if tuning == "lora" else None
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        store = SnapshotStore(
            Path(folder) / "snapshots",
            root=lambda: base_weights(settings) if untouched is None else untouched,
            base=BaseFiles(base) if tuning == "full" else None,
            deltas=deltas,
        )
        train(trainer, model, seed=0)
        target = trainer.capture()
        identity = store.save(target)
        checkpoint = Path(folder) / "checkpoint"
        model.save_pretrained(checkpoint)
        back = [
            rolled_back(
                trainer, model, store=store, identity=identity, folder=base.parent, seed=repeat
            )
            for repeat in range(1, repeats + 1)
        ]
        check_same(trainer.capture(), target)
        del trainer, model
        gc.collect()
        source = settings if tuning == "lora" else replace(settings, name_or_path=str(checkpoint))
        anew = [loaded_anew(source, base.parent) for _ in range(repeats)]
        return {
            "tuning": tuning,
            "stored": "delta" if deltas else "whole",
            "snapshot_bytes": store.size_bytes(identity),
            "back": median(back),
            "anew": median(anew),
        }


def rolled_back(
    trainer: Trainer, model: Any, *, store: SnapshotStore, identity: str, folder: Path, seed: int
) -> Reading:
    """Trains on and returns what it took to put the snapshot back, with nothing in the cache."""
    train(trainer, model, seed=seed, steps=1)
    forget(folder)
    return reading(lambda: trainer.load(store.load(identity)))


def loaded_anew(settings: ModelSettings, folder: Path) -> Reading:
    """Returns what it takes to load a model, with nothing in the cache."""
    forget(folder)
    found = reading(lambda: load_model(settings, seed=SEED))
    gc.collect()
    return found


def trainer_of(settings: ModelSettings) -> tuple[Trainer, Any]:
    """Returns a trainer and its model."""
    model: Any = load_model(settings, seed=SEED)
    rates = TrainSettings(RATES[settings.tuning], ROWS)
    return Trainer(model, rates, seed=SEED, pad_id=0), model


def train(trainer: Trainer, model: Any, *, seed: int, steps: int = STEPS) -> None:
    """Trains some steps on rows of made-up tokens."""
    rng = random.Random(seed)
    tokens = range(min(model.config.vocab_size, 1000))
    for _ in range(steps):
        rows = [tuple(rng.choices(tokens, k=ROW_TOKENS)) for _ in range(ROWS)]
        trainer.step([Example("t", i, ids[:1], ids[1:]) for i, ids in enumerate(rows)])


def forget(folder: Path) -> None:
    """Takes every file in ``folder`` out of the system's cache."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading(work: Callable[[], object]) -> Reading:
    """Returns what ``work`` took."""
    began, before = time.perf_counter(), disk_reads()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Reading(time.perf_counter() - began, disk_reads() - before)


def disk_reads() -> int:
    """Returns the bytes that the system has read from a disk for this process."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def median(readings: list[Reading]) -> Reading:
    """Returns the median of seconds and of bytes."""
    return Reading(
        statistics.median(one.seconds for one in readings),
        int(statistics.median(one.read_bytes for one in readings)),
    )


def check_same(found: Weights, wanted: Weights) -> None:
    """Ends the benchmark if a bit of what was put back is another one."""
    for name, tensor in wanted.tensors.items():
        if not torch.equal(found.tensors[name], tensor):
            raise SystemExit(f"{name} is not what was stored: the figures would mean nothing")


COLUMNS = {
    "model": "",
    "tuning": "",
    "snapshot": "",
    "its MB": ".1f",
    "roll-back, s": ".3f",
    "read, MB": ".1f",
    "loading anew, s": ".3f",
    "then read, MB": ".1f",
    "loading, of roll-back": ".1f",
}


def cells(model: str, row: dict[str, Any]) -> list[Any]:
    """Returns a row of the table."""
    back, anew = row["back"], row["anew"]
    return [
        model,
        row["tuning"],
        row["stored"],
        row["snapshot_bytes"] / 1e6,
        back.seconds,
        back.read_bytes / 1e6,
        anew.seconds,
        anew.read_bytes / 1e6,
        anew.seconds / back.seconds,
    ]


def main() -> None:
    """Measures what the command line names, prints the table and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["quickstart", "random"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="on the disk to measure; left out: here")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[Any]] = []
    conditions = f"median of {given.repeats}, one thread, {record.load_at_start()}"
    for name in given.model:
        with tempfile.TemporaryDirectory(dir=given.work or Path.cwd()) as folder:
            base = written(name, Path(folder))
            for tuning, deltas in STORED:
                row = measured(
                    base, tuning, deltas=deltas, device=given.device, repeats=given.repeats
                )
                rows.append(cells(name, row))
    found = record.record(
        {"rollback": record.table(COLUMNS, rows)},
        device=given.device,
        conditions=conditions,
        packages=("torch", "transformers", "safetensors", "pyarrow"),
    )
    print(record.markdown(found["tables"]["rollback"]))
    record.write(given.json, found)


if __name__ == "__main__":
    main()
