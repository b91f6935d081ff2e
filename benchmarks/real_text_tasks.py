"""Writes public benchmarks as task files: prompts and answers in the paper's form.

    python benchmarks/real_text_tasks.py --source FOLDER --rows 400

FOLDER holds ``<benchmark>.<train|validation|test>.jsonl`` with one object a line: question,
choices (a list or null), answer (a letter where there are choices), rationale, context. For each
benchmark three files are written: ``.train.jsonl``, ``.control.jsonl`` (from validation) and
``.report.jsonl`` (from test).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BENCHMARKS = (
    "commonsenseqa",
    "openbookqa",
    "aqua",
    "gsm8k",
    "sciq",
    "arc_easy",
    "hellaswag",
    "winogrande",
    "boolq",
    "medmcqa",
)
SPLITS = {"train": "train", "validation": "control", "test": "report"}
DEFAULT_OUT = Path(__file__).parent.parent / "recipes" / "real_text"


def question_of(name: str, row: dict[str, Any]) -> str:
    """Returns the question with its passage and its options, on lines of their own."""
    if name == "boolq":
        return f"{row['context']}\n{row['question']} True or False?"
    if name == "sciq" or not row["choices"]:  # free text in the paper
        return row["question"]
    quoted = name == "hellaswag"
    question = f'"{row["question"]}"' if quoted else row["question"]
    texts = [f'"{text}"' if quoted else text for text in row["choices"]]
    options = ", ".join(
        f"{letter}. {text}" for letter, text in zip("ABCDEFGH", texts, strict=False)
    )
    return f"{question}\noptions: {options}"


def answer_of(name: str, row: dict[str, Any]) -> str:
    """Returns the answer after its mark; mathematical tasks reason before it."""
    if name == "boolq":
        return f"#### {'True' if row['answer'] == 'yes' else 'False'}"
    if name == "sciq":
        return f"#### {row['choices'][ord(row['answer']) - ord('A')]}"
    reasons = name in ("aqua", "gsm8k") and row["rationale"]
    return f"{row['rationale']} #### {row['answer']}" if reasons else f"#### {row['answer']}"


def lines_of(name: str, source: Path, limit: int) -> Iterator[str]:
    """Yields the first ``limit`` rows of a file as task rows."""
    with source.open(encoding="utf-8") as file:
        for _, line in zip(range(limit), file, strict=False):
            row = json.loads(line)
            prompt = f"Q: {question_of(name, row)}\nA: "
            yield json.dumps({"prompt": prompt, "answer": answer_of(name, row)}, ensure_ascii=False)


def write(name: str, source: Path, out: Path, *, rows: int, held_out: int) -> None:
    """Writes the three files of the benchmark ``name``."""
    for theirs, ours in SPLITS.items():
        limit = rows if theirs == "train" else held_out
        lines = lines_of(name, source / f"{name}.{theirs}.jsonl", limit)
        target = out / f"{name}.{ours}.jsonl"
        target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Reads the command line and writes every benchmark that ``--source`` holds."""
    parser = argparse.ArgumentParser(description="Write public benchmarks as task files.")
    parser.add_argument("--source", type=Path, required=True, help="folder with the benchmarks")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=1800, help="most training rows a task")
    parser.add_argument("--held-out", type=int, default=200, help="most rows of the other splits")
    options = parser.parse_args()
    found = [name for name in BENCHMARKS if (options.source / f"{name}.train.jsonl").is_file()]
    if not found:
        sys.exit(f"{options.source}: holds no <benchmark>.train.jsonl; known: {BENCHMARKS}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in found:
        write(name, options.source, options.out, rows=options.rows, held_out=options.held_out)
    print(f"wrote {len(found)} benchmarks to {options.out}: {', '.join(found)}")


if __name__ == "__main__":
    main()
