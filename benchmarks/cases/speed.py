"""Measures training against TRL's SFTTrainer in the same run: tokens a second, and peak memory.

    python benchmarks/cases/speed.py [--tuning lora full] [--checkpointing off on] [--steps 8]
        [--trl FOLDER] [--device cpu] [--model NAME] [--dtype float32] [--longest 400] [--json FILE]

A model of random weights (`shapes.py`; 10 million parameters unless another is named) is trained on
rows of 20 to 400 made-up tokens, of which the last fifth carries loss: 32 rows a step in passes of
8, AdamW, one thread. Every side runs in a process of its own, on the same rows in the same order.
The first two steps warm up. Only real tokens are counted, not padding. TRL also runs with rows
grouped by length, which changes the order, and with Liger's kernels on a GPU where they are
installed. Tokens are divided by the clock's seconds and, as other jobs on the machine take from
those, by the process's own CPU seconds, by which sides are compared on a CPU.

TRL is no dependency: `pip install --no-deps --target FOLDER trl accelerate`. Without it, only our
side is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from record import load_at_start, markdown, record, table, versions, write
from shapes import SMALL, configs, write_model
from side import Setup

SIDES = ("msft-lite", "trl", "trl, grouped by length")
LIGER = "trl, liger"
RATES = {"cpu": "tokens_per_cpu_second", "cuda": "tokens_per_second"}


def main() -> None:
    """Measures every side, prints the table and stores the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--checkpointing", nargs="+", choices=("off", "on"), default=["off"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=list(configs()), default=SMALL)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--longest", type=int, default=400, help="tokens of a row, from 20 on")
    parser.add_argument("--steps", type=int, default=8, help="measured, after two to warm up")
    parser.add_argument("--trl", type=Path, help="folder that trl is installed in")
    parser.add_argument("--sides", nargs="+", choices=(*SIDES, LIGER), help="not all that can be")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    conditions = f"one thread, {load_at_start()}"
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), given.model, getattr(torch, given.dtype))
        plain = Setup(folder, given.device, given.dtype, longest=given.longest, steps=given.steps)
        for tuning, checkpointing in product(given.tuning, given.checkpointing):
            setup = replace(plain, tuning=tuning, gradient_checkpointing=checkpointing == "on")
            for side in given.sides or sides(given.trl, given.device):
                figures = in_a_process(side, setup, given.trl)
                found.append({"side": side, "setup": setup, **figures})
                result = record(
                    {"sides": compared(found, RATES[given.device])},
                    device=given.device,
                    conditions=conditions,
                )
                result["versions"] |= trl_versions(given.trl)
                write(given.json, result)
    print(markdown(result["tables"]["sides"]))


def sides(trl: Path | None, device: str) -> tuple[str, ...]:
    """Returns what can be measured here."""
    if not trl_versions(trl):
        return SIDES[:1]
    return (*SIDES, LIGER) if device == "cuda" and find_spec("liger_kernel") else SIDES


def in_a_process(side: str, setup: Setup, trl: Path | None, seconds: float | None = None) -> Any:
    """Measures one side in a process of its own and returns its figures.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``seconds``.
        RuntimeError: it failed; with the end of what it wrote.
    """
    paths = [os.environ.get("PYTHONPATH"), str(trl) if trl and side != "msft-lite" else None]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("side.py"), side, json.dumps(asdict(setup))],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        },
    )
    if done.returncode:
        raise RuntimeError(f"{side}, {setup}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def trl_versions(folder: Path | None) -> dict[str, str]:
    """Returns TRL's version, from ``folder`` if it is given; nothing where it is not there."""
    if folder is None:
        return versions(["trl"])
    found = [file.stem.split("-")[1] for file in folder.glob("trl-*.dist-info")]
    return {"trl": found[0]} if found else {}


def compared(found: list[dict[str, Any]], rate: str) -> dict[str, Any]:
    """Returns the figures as a table, each setup against TRL as it comes by ``rate``."""
    columns = {
        "tuning": "",
        "checkpointing": "",
        "side": "",
        "real tokens a CPU second": ",.0f",
        "of trl": ".2f",
        "by the clock": ",.0f",
        "peak, GiB": ".2f",
        "of trl's": ".2f",
    }
    rows = []
    for one in found:
        trl = [o for o in found if (o["setup"], o["side"]) == (one["setup"], "trl")]
        rows.append(
            [
                one["setup"].tuning,
                "on" if one["setup"].gradient_checkpointing else "off",
                one["side"],
                one["tokens_per_cpu_second"],
                one[rate] / trl[0][rate] if trl else None,
                one["tokens_per_second"],
                one["peak_bytes"] / 2**30,
                one["peak_bytes"] / trl[0]["peak_bytes"] if trl else None,
            ]
        )
    return table(columns, rows)


if __name__ == "__main__":
    main()
