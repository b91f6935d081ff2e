"""Measures peak memory and speed of models of true shapes, tuning by tuning, against prediction.

    python benchmarks/cases/ladder.py [--device cuda] [--models NAME ...] [--minutes 60]
        [--trl FOLDER] [--json FILE]

Weights are random (`shapes.py`), rows are made up and of one length, and all of their tokens but
the first carry loss. A step is one pass of 2 rows of 4,096 tokens, laid one after another; bfloat16
on a GPU. Predicted are the step's tensors, as `msft-lite check` does it; measured is what torch's
allocator gave out at most on a GPU, and what was counted in a step on a CPU. Utilisation is the
model's operations (`docs/accounting.md`) over the peak of the GPU by its data sheet, where it is
listed here. TRL, and Liger's kernels in it, run beside ours where they are installed.

On a CPU, where other jobs may share the cores, no speed is told: `speed.py` counts CPU seconds.

Then every choice of `docs/memory.md` for a card of 8 to 24 GB is trained within that much memory,
where the GPU has more: one row of the stated length in a pass, gradients accumulated.

Each figure is in FILE as soon as it is there. What FILE holds already is not measured again, so a
call that ended early is gone on with by another.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import speed
import torch
from record import load_at_start, markdown, read, record, table, write
from shapes import SMALL, configs, write_model
from side import Setup
from speed import in_a_process, trl_versions

from msft_lite.errors import MsftError
from msft_lite.model.memory.live import LiveBytes
from msft_lite.model.memory.shadow import shadow_model
from msft_lite.model.memory.step import CONTEXT_BYTES, held_tensors, moments_bytes, predicted

OURS = speed.SIDES[0]
PREDICTED = Path(__file__).parents[1] / "baselines" / "predicted" / "memory.json"
SCREEN_BYTES = 500_000_000
TUNINGS: Mapping[str, Mapping[str, Any]] = {
    "full": {"tuning": "full", "gradient_checkpointing": True},
    "full, 8-bit": {"tuning": "full", "gradient_checkpointing": True, "optim": "adamw_8bit"},
    "lora": {"gradient_checkpointing": True},
    "lora, 4-bit base": {"gradient_checkpointing": True, "load_in_4bit": True},
}
RUNGS: Mapping[str, Mapping[str, Any]] = {
    "full, no checkpointing": {"tuning": "full"},
    "full": TUNINGS["full"],
    "full, 8-bit, in backward": {**TUNINGS["full, 8-bit"], "optimizer_in_backward": True},
    "lora": TUNINGS["lora"],
    "lora, 4-bit base": TUNINGS["lora, 4-bit base"],
}
# The order in which they are measured: the most telling first.
MODELS = (
    "Llama-3.2-3B", "Qwen2.5-7B", "Qwen3-8B", "Qwen2.5-1.5B", "Qwen2.5-3B", "OLMo-2-1B",
    "Qwen2.5-0.5B",
)  # fmt: skip
# Dense bfloat16 operations a second, by NVIDIA's data sheets; the first that a name begins with.
PEAK_FLOPS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA GeForce RTX 3090": 71e12,
}
COLUMNS = {
    "model": "",
    "tuning": "",
    "rows": ">",
    "side": "",
    "predicted, GB": ".3f",
    "measured, GB": ".3f",
    "difference, %": "+.2f",
    "reserved, GB": ".3f",
    "real tokens a second": ",.0f",
    "utilisation, %": ".1f",
    "outcome": "",
}
KEY = 4  # columns that say what was measured
EMPTY = [None] * 6
Job = tuple[list[str], Setup]


def main() -> None:
    """Measures what is not on record, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--models", nargs="+", choices=list(configs()))
    parser.add_argument("--tunings", nargs="+", choices=list(RUNGS), default=list(RUNGS))
    parser.add_argument("--length", type=int, help="tokens of a row; 4,096, on a CPU 512")
    parser.add_argument("--steps", type=int, default=3, help="measured, after two to warm up")
    parser.add_argument("--minutes", type=float, default=60, help="after which nothing is begun")
    parser.add_argument("--seconds", type=float, default=300, help="most that one side takes")
    parser.add_argument("--trl", type=Path, help="folder that trl is installed in")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no GPU here; --device cpu measures a small model")
    until = time.monotonic() + 60 * given.minutes
    rows = read(given.json)["tables"]["steps"]["rows"] if has_record(given.json) else []
    conditions = load_at_start()
    for model in given.models or (MODELS if given.device == "cuda" else [SMALL]):
        with tempfile.TemporaryDirectory() as folder:
            for key, setup in jobs(model, folder, given):
                if key in [row[:KEY] for row in rows] or time.monotonic() > until:
                    continue
                if not any(Path(folder).iterdir()):
                    write_model(Path(folder), model, getattr(torch, setup.dtype))
                rows.append([*key, *cells(key, setup, given)])
                found = record(
                    {"steps": table(COLUMNS, rows)}, device=given.device, conditions=conditions
                )
                found["versions"] |= trl_versions(given.trl)
                write(given.json, found)
                print(markdown(table(COLUMNS, rows[-1:])).splitlines()[-1], flush=True)


def has_record(file: Path | None) -> bool:
    """Returns whether an earlier call left figures."""
    return file is not None and file.exists()


def jobs(model: str, folder: str, given: argparse.Namespace) -> Iterator[Job]:
    """Yields what is measured of a model: what names it, and how it is trained."""
    gpu = given.device == "cuda"
    length = given.length or (4096 if gpu else 512)
    plain = Setup(
        folder, given.device, "bfloat16" if gpu else "float32",
        pass_rows=2, step_rows=2, shortest=length, longest=length, answer=1, steps=given.steps,
    )  # fmt: skip
    if model == "Qwen3-8B":  # the QLoRA that others publish
        short = replace(plain, shortest=2048, longest=2048, **TUNINGS["lora, 4-bit base"])
        yield from sides(model, "lora, 4-bit base", short, given)
    for name in reversed(given.tunings):  # what most GPUs can do comes first
        yield from sides(model, name, replace(plain, **RUNGS[name]), given)
    if gpu:
        yield from card_jobs(model, plain)


def sides(model: str, name: str, setup: Setup, given: argparse.Namespace) -> Iterator[Job]:
    """Yields a job for each side that can do it."""
    for side in speed.sides(given.trl, given.device):
        if side == OURS or not (setup.optimizer_in_backward or side.endswith("length")):
            yield [model, name, f"{setup.pass_rows} x {setup.longest:,}", side], setup


def card_jobs(model: str, plain: Setup) -> Iterator[Job]:
    """Yields what is predicted to fit cards that are smaller than this GPU."""
    choices = read(PREDICTED)["tables"]["cards"]
    if model not in choices["columns"]:
        return
    place = list(choices["columns"]).index(model)
    for row in choices["rows"]:
        card, choice = row[0], row[place]
        limit = int(card.split()[0]) * 2**30 - SCREEN_BYTES - CONTEXT_BYTES
        if choice == "-" or limit > torch.cuda.get_device_properties(0).total_memory:
            continue
        name, length = choice.rsplit(", ", 1)
        setup = replace(
            plain, pass_rows=1, shortest=int(length), longest=int(length),
            limit_bytes=limit, **TUNINGS[name],
        )  # fmt: skip
        yield [model, name, f"1 x {int(length):,} of 2", f"{OURS}, {card}"], setup


def cells(key: list[str], setup: Setup, given: argparse.Namespace) -> list[Any]:
    """Measures one side and returns its part of a row, at its end how that ended."""
    config, side = configs()[key[0]], OURS if key[3].startswith(OURS) else key[3]
    expected = None
    try:
        if given.device == "cuda" and held_bytes(config, setup) > total_bytes():
            return [*EMPTY, "not tried: weights and moments alone do not fit"]
        with ThreadPoolExecutor(1) as beside:
            running = beside.submit(in_a_process, side, setup, given.trl, given.seconds)
            if side == OURS:
                parts = predicted(config, setup.settings, setup.shape, optimizer=setup.optimizer)
                expected = parts.tensors / 1e9
            found = running.result()
    except TimeoutExpired:
        return [expected, *EMPTY[1:], f"over {given.seconds:.0f} s"]
    except (MsftError, RuntimeError) as error:
        return [expected, *EMPTY[1:], what_failed(str(error))]
    held, reserved = found.get("tensor_bytes"), found.get("reserved_bytes")
    return [
        expected,
        held and held / 1e9,
        100 * (held / 1e9 / expected - 1) if held and expected else None,
        reserved and reserved / 1e9,
        None if given.device == "cpu" else found["tokens_per_second"],
        utilisation(found, given.device),
        "trained",
    ]


def what_failed(text: str) -> str:
    """Returns why a side ended, in a few words."""
    last = text.strip().splitlines()[-1]
    return "out of memory" if "out of memory" in text.lower() else last[:120].replace("|", "/")


def utilisation(found: Mapping[str, Any], device: str) -> float | None:
    """Returns model operations in per cent of the device's peak, where both are known."""
    rate = found.get("model_flops_per_second")
    if device == "cpu" or rate is None:
        return None
    name = torch.cuda.get_device_name()
    peak = next((flops for start, flops in PEAK_FLOPS.items() if name.startswith(start)), None)
    return peak and 100 * rate / peak


def held_bytes(config: Any, setup: Setup) -> int:
    """Returns what a step holds from beginning to end: weights and moments."""
    live = LiveBytes()
    with shadow_model(config, setup.settings) as model:
        for part, tensor in held_tensors(model):
            live.watch([tensor], part)
        return sum(live.live.values()) + moments_bytes(model, setup.optimizer)


def total_bytes() -> int:
    """Returns the memory of the GPU."""
    return torch.cuda.get_device_properties(0).total_memory


if __name__ == "__main__":
    main()
