"""Makes the data files of these recipes: a few toy skills in five of the forms that rows come in.

Draws everything from a fixed seed. Needs pyarrow, for the Parquet file only, whose bytes depend on
pyarrow's version; its rows do not.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import string
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet

SEED = 20
ROWS = 160
HALF = ROWS // 2

Row = dict[str, object]


def words(rng: random.Random, letters: int, count: int = ROWS) -> list[str]:
    """Draws words of random letters, no two alike."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn["".join(rng.choices(string.ascii_lowercase, k=letters))] = None
    return list(drawn)


def reverse(word: str) -> str:
    return word[::-1]


def sort(word: str) -> str:
    return "".join(sorted(word))


def spell(word: str) -> str:
    return "-".join(word)


def skill_rows(rng: random.Random) -> list[Row]:
    """Returns rows of two skills, mixed; `skill` says which it is."""
    skills: dict[str, Callable[[str], str]] = {"reverse": reverse, "sort": sort}
    rows: list[Row] = [
        {"skill": name, "text": f"{name} {word}", "result": solve(word)}
        for name, solve in skills.items()
        for word in words(rng, 4)
    ]
    rng.shuffle(rows)
    return rows


def choice_rows(rng: random.Random) -> list[Row]:
    """Returns questions for the first letter of a word; `answer` counts the choices from 0."""
    rows: list[Row] = []
    for word in words(rng, 4):
        others = [letter for letter in string.ascii_lowercase if letter not in word]
        choices = rng.sample([word[0], *rng.sample(others, 3)], 4)
        question = f"first of {word}?"
        rows.append({"question": question, "choices": choices, "answer": choices.index(word[0])})
    return rows


def instruction_rows(rng: random.Random) -> list[Row]:
    """Returns instructions, the word in `input` for one half of them, in the text for the other."""
    drawn = words(rng, 4)
    rows = [{"instruction": "Last letter?", "input": w, "output": w[-1]} for w in drawn[:HALF]]
    rows += [{"instruction": f"Last of {w}", "input": "", "output": w[-1]} for w in drawn[HALF:]]
    rng.shuffle(rows)
    return [dict(row) for row in rows]


def spoken(*turns: str, names: tuple[str, str], keys: tuple[str, str]) -> list[dict[str, str]]:
    """Returns messages by two speakers in turn."""
    return [{keys[0]: names[number % 2], keys[1]: turn} for number, turn in enumerate(turns)]


def sharegpt_rows(rng: random.Random) -> list[Row]:
    """Returns conversations of two questions each."""
    drawn = words(rng, 4, 2 * ROWS)
    pairs = zip(drawn[:ROWS], drawn[ROWS:], strict=True)
    return [
        {
            "conversations": spoken(
                *(f"sort {first}", sort(first), f"sort {second}", sort(second)),
                names=("human", "gpt"),
                keys=("from", "value"),
            )
        }
        for first, second in pairs
    ]


def openai_rows(rng: random.Random) -> list[Row]:
    """Returns chats of one question each, after a system message."""
    system = {"role": "system", "content": "Spell."}
    return [
        {
            "messages": [
                system,
                *spoken(word, spell(word), names=("user", "assistant"), keys=("role", "content")),
            ]
        }
        for word in words(rng, 4)
    ]


def csv_bytes(rows: list[Row]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def parquet_bytes(rows: list[Row]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def json_bytes(rows: list[Row]) -> bytes:
    """Returns an array with a row a line."""
    return ("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n").encode()


def json_lines_bytes(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FILES = {
    "skills.csv": (skill_rows, csv_bytes),
    "choices.parquet": (choice_rows, parquet_bytes),
    "alpaca.json": (instruction_rows, json_bytes),
    "sharegpt.json": (sharegpt_rows, json_bytes),
    "openai.jsonl": (openai_rows, json_lines_bytes),
}


def main() -> None:
    """Writes every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, (rows, to_bytes) in FILES.items():
        # A file's rows do not depend on the other files.
        (output / name).write_bytes(to_bytes(rows(random.Random(f"{SEED} {name}"))))


if __name__ == "__main__":
    main()
