"""Measures what padding costs a forward and backward pass, and what the loss needs in memory.

    python benchmarks/cases/padding.py [--tuning full] [--steps 5] [--tokens 4096] [--json FILE]

A Qwen2 of 10 million random parameters computes losses and gradients of rows of 20 to 400 made-up
tokens, 32 a step in passes of 8, in three ways: padded in the order given, padded from long to
short, and one after another without padding. The ways take turns, step by step, and the median
counts. Only real tokens are counted, against seconds of CPU time, since other jobs may share the
machine. Losses of the three ways must agree.

The loss part is measured in processes of their own: cross-entropy of `--tokens` hidden states of
width 256 over 32,000 token ids, forward and backward, from all logits at once and chunk by chunk.
FILE gets the record.

Exit code 0: the ways agree; 1: they do not.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from record import load_at_start, markdown, peak_rss_bytes, record, table, write
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config

from msft_lite.data.task import Example
from msft_lite.model.batch import as_given, collate_examples, in_batches
from msft_lite.model.cross_entropy import CHUNK_BYTES, token_losses
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss import base_model, row_losses
from msft_lite.model.varlen import keep_rows_apart

SEED = 20
ROWS, PASS_ROWS = 32, 8
SHORTEST, LONGEST = 20, 400
VOCABULARY, LOSS_VOCABULARY, WIDTH = 8_000, 32_000, 256
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
Batches = Sequence[Sequence[int]]


def main() -> int:
    """Measures, prints the tables and stores the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuning", choices=["lora", "full"], default="full")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--loss", choices=["plain", "chunked"], help="measure the loss alone")
    parser.add_argument("--json", type=Path, help="file for the record")
    arguments = parser.parse_args()
    if arguments.loss:
        print(json.dumps(loss_part(arguments.loss, arguments.tokens, arguments.tuning)))
        return 0
    conditions = f"one thread, chunks of {CHUNK_BYTES >> 20} MiB, {load_at_start()}"
    torch.set_num_threads(1)
    passes, agree = measured_passes(arguments.tuning, arguments.steps)
    losses = {
        way: in_a_process("--loss", way, "--tuning", arguments.tuning, "--tokens", arguments.tokens)
        for way in ("plain", "chunked")
    }
    tables = {"passes": passes_table(passes), "loss": loss_table(losses)}
    write(arguments.json, record(tables, device="cpu", conditions=conditions))
    print("\n\n".join(map(markdown, tables.values())))
    return 0 if agree else 1


def measured_passes(tuning: str, steps: int) -> tuple[dict[str, dict[str, float]], bool]:
    """Returns figures of every way, and whether their losses agree."""
    model, rows = made_up_model(tuning), made_up_rows()
    given = [list(range(n, n + PASS_ROWS)) for n in range(0, ROWS, PASS_ROWS)]
    sorted_rows = in_batches([(row.prompt, row.answer) for row in rows], PASS_ROWS)
    ways = {
        "padded, order given": (given, False),
        "padded, longest first": (sorted_rows, False),
        "one after another, longest first": (sorted_rows, True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {}
    for step in range(steps + 1):
        for way, (batches, packed) in ways.items():
            keep_rows_apart(base_model(model), on=packed)
            began = time.process_time()
            losses[way] = one_step(model, rows, batches, packed=packed)
            if step:  # the first one warms up
                seconds[way].append(time.process_time() - began)
    first = torch.tensor(losses["padded, order given"])
    agree = all(torch.allclose(first, torch.tensor(found), rtol=1e-4) for found in losses.values())
    real = sum(lengths(rows))
    return {
        way: {
            "real_tokens_per_cpu_second": real / statistics.median(seconds[way]),
            "computed_tokens": real if packed else padded_tokens(rows, batches),
            "real_tokens": real,
        }
        for way, (batches, packed) in ways.items()
    }, agree


def one_step(
    model: torch.nn.Module, rows: Sequence[Example], batches: Batches, *, packed: bool
) -> list[float]:
    """Returns the rows' losses after a forward and a backward pass over all of them."""
    model.zero_grad(set_to_none=True)
    sums: list[float] = []
    for places in batches:
        batch = collate_examples(
            [rows[place] for place in places], pad_id=0, device="cpu", packed=packed
        )
        found = row_losses(model, batch)
        found.sum().backward()
        sums += found.tolist()
    return as_given(sums, batches)


def made_up_model(tuning: str) -> torch.nn.Module:
    """Returns the model in training mode."""
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(Qwen2Config.from_dict(SHAPE)).save_pretrained(folder)
        settings = ModelSettings(folder, tuning="lora" if tuning == "lora" else "full")
        return load_model(settings, seed=SEED).train()


def made_up_rows() -> list[Example]:
    """Returns rows of any length between the bounds; the last fifth of each is its answer."""
    rng = random.Random(SEED)
    rows: list[Example] = []
    for number in range(ROWS):
        ids = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(SHORTEST, LONGEST)))
        answer = len(ids) // 5
        rows.append(Example("made up", number, ids[:-answer], ids[-answer:]))
    return rows


def lengths(rows: Sequence[Example]) -> list[int]:
    """Returns the tokens of each row."""
    return [len(row.prompt) + len(row.answer) for row in rows]


def padded_tokens(rows: Sequence[Example], batches: Batches) -> int:
    """Returns how many tokens are computed when every row is as long as its batch's longest."""
    tokens = lengths(rows)
    return sum(len(places) * max(tokens[place] for place in places) for places in batches)


def loss_part(way: str, tokens: int, tuning: str) -> dict[str, float]:
    """Returns seconds of CPU time, and how far the most memory of this process rose."""
    torch.manual_seed(SEED)
    head = torch.nn.Linear(WIDTH, LOSS_VOCABULARY, bias=False).requires_grad_(tuning == "full")
    hidden = torch.randn(tokens, WIDTH, requires_grad=True)
    targets = torch.randint(LOSS_VOCABULARY, (tokens,))

    def plain() -> torch.Tensor:
        return functional.cross_entropy(head(hidden).float(), targets, reduction="none")

    def chunked() -> torch.Tensor:
        return token_losses(head, hidden, targets)

    ways: dict[str, Callable[[], torch.Tensor]] = {"plain": plain, "chunked": chunked}
    before, began = peak_rss_bytes(), time.process_time()
    ways[way]().sum().backward()
    return {"cpu_seconds": time.process_time() - began, "rise_bytes": peak_rss_bytes() - before}


def in_a_process(*arguments: object) -> dict[str, float]:
    """Returns what this script prints as JSON when it is called with ``arguments``."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def passes_table(passes: dict[str, dict[str, float]]) -> dict:
    """Returns the ways to lay rows out, each against the slowest."""
    slowest = min(way["real_tokens_per_cpu_second"] for way in passes.values())
    return table(
        {"rows": "", "real tokens a CPU second": ",.0f", "ratio": ".2f", "tokens computed": ">"},
        [
            [
                name,
                way["real_tokens_per_cpu_second"],
                way["real_tokens_per_cpu_second"] / slowest,
                f"{way['computed_tokens']:,} for {way['real_tokens']:,}",
            ]
            for name, way in passes.items()
        ],
    )


def loss_table(losses: dict[str, dict[str, float]]) -> dict:
    """Returns what the loss alone takes."""
    return table(
        {"loss": "", "most memory above the start, MB": ",.0f", "CPU seconds": ".2f"},
        [[name, way["rise_bytes"] / 1e6, way["cpu_seconds"]] for name, way in losses.items()],
    )


if __name__ == "__main__":
    sys.exit(main())
