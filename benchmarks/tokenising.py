"""Measures how fast rows become token ids, first and from the cache, beside `datasets.map`.

    python benchmarks/tokenising.py [--rows 20000] [--repeats 3]

The rows are made up, in the form of a preset: a question with options, and the letter as answer.
They are tokenised by the quickstart's tokenizer, whose tokens are characters, and by a byte-level
BPE of 8,000 tokens that is trained on the rows first. Every way starts with texts and ends with the
ids of every prompt and answer as Python sequences, and all ways must give the same ids. Printed is
a Markdown table with the median of the repeats.

Exit code 0: all ways gave the same ids; 1: they did not.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from msft_lite.data.prompts import Encoder, encode_rows
from msft_lite.data.rows import Row
from msft_lite.data.token_cache import TokenCache

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart" / "base"
SEED = 20
WORDS = 20_000
VOCABULARY = 8_000
END = "<eos>"

Encoded = list[tuple[tuple[int, ...], tuple[int, ...]]]  # prompt and answer of every row


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    tokenizer: str
    way: str
    rows_per_second: float
    tokens_per_second: float


def main() -> int:
    """Measures every way with both tokenizers and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    rows = made_up_rows(arguments.rows)
    load = os.getloadavg()[0]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, tokenizer in tokenizers(rows).items():
            ways = ways_of(rows, tokenizer, Path(folder) / name.split()[0])
            results = [measured(way, arguments.repeats) for way in ways.values()]
            if any(encoded != results[0][1] for _, encoded in results):
                print(f"{name}: the ways give different ids", file=sys.stderr)
                return 1
            tokens = sum(len(prompt) + len(answer) for prompt, answer in results[0][1])
            figures += [
                Figure(name, way, len(rows) / seconds, tokens / seconds)
                for way, (seconds, _) in zip(ways, results, strict=True)
            ]
    print(table(figures, arguments.rows, arguments.repeats, load))
    return 0


def made_up_rows(number: int) -> list[Row]:
    """Returns questions of 20 to 60 words, some words far more frequent than others."""
    rng = random.Random(SEED)
    syllables = [a + b for a in "bcdfghlmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(WORDS)]
    weights = [1 / (rank + 1) for rank in range(WORDS)]  # Zipf's law

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(words, weights, k=rng.randint(least, most)))

    rows: list[Row] = []
    for line in range(number):
        options = ", ".join(f"{letter}. {text(1, 5)}" for letter in "ABCDE")
        prompt = f"Q: {text(20, 60)}? options: {options}\nA: "
        rows.append(Row(f"made up, row {line}", prompt, f"#### {rng.choice('ABCDE')}"))
    return rows


def tokenizers(rows: Sequence[Row]) -> dict[str, PreTrainedTokenizerBase]:
    """Returns the quickstart's tokenizer, and one with merges that is trained on ``rows``."""
    merging = Tokenizer(models.BPE())
    merging.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merging.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    merging.train_from_iterator((row.prompt + row.answer for row in rows), trainer)
    return {
        "characters (quickstart)": AutoTokenizer.from_pretrained(QUICKSTART),
        f"BPE ({merging.get_vocab_size():,} tokens)": PreTrainedTokenizerFast(
            tokenizer_object=merging, eos_token=END
        ),
    }


def ways_of(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, folder: Path
) -> dict[str, Callable[[], Encoded]]:
    """Returns what turns ``rows`` into ids, by name; files go into ``folder``."""
    table = datasets.Dataset.from_list([{"prompt": r.prompt, "answer": r.answer} for r in rows])
    fresh = (folder / str(number) for number in count())
    kept = folder / "kept"
    ours(rows, tokenizer, kept)
    mapped(table, tokenizer, kept / "batched.arrow", batched=True)

    def own(cache: Path | Iterator[Path]) -> Callable[[], Encoded]:
        return lambda: ours(rows, tokenizer, cache if isinstance(cache, Path) else next(cache))

    def arrow(*, batched: bool, cache: Path | None = None) -> Callable[[], Encoded]:
        return lambda: mapped(
            table, tokenizer, cache or next(fresh).with_suffix(".arrow"), batched=batched
        )

    return {
        "msft-lite, first time": own(fresh),
        "msft-lite, from its cache": own(kept),
        "datasets.map, a row at a time": arrow(batched=False),
        "datasets.map, batched": arrow(batched=True),
        "datasets.map, batched, from its cache": arrow(batched=True, cache=kept / "batched.arrow"),
    }


def ours(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, cache: Path) -> Encoded:
    """Returns the ids as a run gets them."""
    pairs, _ = encode_rows(rows, Encoder(tokenizer, TokenCache(cache)))
    return [(pair.prompt, pair.answer) for pair in pairs]


def mapped(
    table: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, cache: Path, *, batched: bool
) -> Encoded:
    """Returns the ids as many training scripts get them, read out of the table."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    result = table.map(
        (lambda rows: of_batch(rows, tokenizer)) if batched else lambda row: of_row(row, tokenizer),
        batched=batched,
        cache_file_name=str(cache),
        remove_columns=table.column_names,
    )
    columns = zip(result["prompt_ids"], result["answer_ids"], strict=True)
    return [(tuple(prompt), tuple(answer)) for prompt, answer in columns]


def of_row(row: dict[str, str], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns the ids of one row."""
    prompt = tokenizer(row["prompt"], verbose=False)["input_ids"]
    answer = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
    return {"prompt_ids": prompt, "answer_ids": [*answer, tokenizer.eos_token_id]}


def of_batch(rows: dict[str, list[str]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Returns the ids of many rows."""
    prompts = tokenizer(rows["prompt"], verbose=False)["input_ids"]
    answers = tokenizer(rows["answer"], add_special_tokens=False)["input_ids"]
    ends = [[*answer, tokenizer.eos_token_id] for answer in answers]
    return {"prompt_ids": prompts, "answer_ids": ends}


def measured(way: Callable[[], Encoded], repeats: int) -> tuple[float, Encoded]:
    """Returns the median of the seconds that ``way`` takes, and what it gives."""
    seconds: list[float] = []
    encoded: Encoded = []
    for _ in range(repeats):
        start = time.perf_counter()
        encoded = way()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), encoded


def table(figures: Sequence[Figure], rows: int, repeats: int, load: float) -> str:
    """Returns the Markdown table, with what is needed to measure it again."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "transformers"))
    head = [
        f"`python benchmarks/tokenising.py --rows {rows} --repeats {repeats}`; {device()}, load "
        f"{load:.1f} at the start; Python {platform.python_version()}, {packages}, datasets "
        f"{version('datasets')}",
        "",
        "| tokenizer | way | rows a second | tokens a second |",
        "|---|---|---:|---:|",
    ]
    lines = [
        f"| {f.tokenizer} | {f.way} | {f.rows_per_second:,.0f} | {f.tokens_per_second:,.0f} |"
        for f in figures
    ]
    return "\n".join(head + lines)


def device() -> str:
    """Returns the processor's name and the number of its cores that may be used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


if __name__ == "__main__":
    sys.exit(main())
