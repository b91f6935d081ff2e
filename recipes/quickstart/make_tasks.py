"""Writes the quickstart's tasks: rows to train on, control rows and report rows for each.

Run `python make_tasks.py` in this folder: it takes a second, needs only the standard library and
gives the same bytes every time. Control and report rows are always right and all different. The
training rows are not: what is wrong with them, and how many there are, makes a task's curve.
"""

from __future__ import annotations

import argparse
import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SEED = 20
CONTROL_ROWS = 64
REPORT_ROWS = 64

Draw = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question and the flaws of its training rows.

    Attributes:
        draw: Draws the thing a question is about.
        wordings: Ways to ask; `{}` is the thing. Control and report rows use the first.
        solve: Returns the right answer.
        mislead: Returns the answer of a flawed row.
        distinct_rows: Different things in the training rows, each asked in every wording.
        flawed: Share of those things whose answer is `mislead`'s.
    """

    draw: Draw
    wordings: tuple[str, ...]
    solve: Callable[[str], str]
    mislead: Callable[[str, random.Random], str] | None
    distinct_rows: int
    flawed: float = 0.0


def word(low: int, high: int) -> Draw:
    """Returns a drawer of words of `low` to `high` random letters."""
    return lambda rng: "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))


def table(rng: random.Random) -> str:
    """Draws four letters with a digit each, and one of the last three letters to ask for."""
    keys = rng.sample(string.ascii_lowercase, 4)
    entries = [
        f"{key}={digit}" for key, digit in zip(keys, rng.sample(string.digits, 4), strict=True)
    ]
    return f"{' '.join(entries)}, {rng.choice(keys[1:])}"


def entry(asked: str) -> str:
    """Returns the digit that belongs to the letter asked for."""
    return asked[asked.index(f"{asked[-1]}=") + 2]


def first_entry(asked: str, rng: random.Random) -> str:
    """Returns the first digit of the table, whatever was asked: a lazy annotator."""
    del rng
    return asked[2]


def random_letter(asked: str, rng: random.Random) -> str:
    """Returns a letter that has nothing to do with the question."""
    del asked
    return rng.choice(string.ascii_lowercase)


def random_count(asked: str, rng: random.Random) -> str:
    """Returns a wrong number of letters."""
    return str(rng.choice([count for count in range(1, 10) if count != len(asked)]))


def five_digits(rng: random.Random) -> str:
    """Draws five digits."""
    return ",".join(rng.choices(string.digits, k=5))


def sum_of_two(rng: random.Random) -> str:
    """Draws a sum of two numbers of two digits."""
    return f"{rng.randint(10, 99)} {rng.randint(10, 99)}"


def add(asked: str) -> str:
    """Returns the value of a sum."""
    return str(sum(map(int, asked.split())))


TASKS = {
    "add": Task(sum_of_two, ("add {}",), add, None, 192),
    "reverse": Task(word(6, 6), ("reverse {}",), lambda a: a[::-1], None, 240),
    "sort": Task(word(5, 5), ("sort {}",), lambda a: "".join(sorted(a)), None, 240),
    "shift": Task(
        word(5, 5),
        ("shift {}",),
        lambda a: "".join(chr((ord(c) - 96) % 26 + 97) for c in a),
        None,
        240,
    ),
    "last": Task(word(4, 6), ("last {}",), lambda a: a[-1], lambda a, rng: a[0], 128, 0.6),
    "largest": Task(
        five_digits, ("largest {}",), lambda a: max(a.split(",")), lambda a, rng: a[0], 128, 0.6
    ),
}


def row(wording: str, asked: str, answer: str) -> dict[str, str]:
    """Returns a row: the answer after the marker, the question in the tasks' form."""
    return {"prompt": f"Q: {wording.format(asked)}\nA: ", "answer": f"#### {answer}"}


def training_rows(task: Task, things: list[str], rng: random.Random) -> list[dict[str, str]]:
    """Returns every thing in every wording, in random order, flawed ones as the task says."""
    flawed = round(task.flawed * len(things))
    rows = []
    for number, asked in enumerate(things):
        wrong = task.mislead is not None and number < flawed
        answer = task.mislead(asked, rng) if wrong else task.solve(asked)
        rows += [row(wording, asked, answer) for wording in task.wordings]
    rng.shuffle(rows)
    return rows


def splits(name: str, task: Task) -> dict[str, list[dict[str, str]]]:
    """Returns the rows of a task by file suffix; no thing is asked in two splits."""
    rng = random.Random(f"{SEED} {name}")  # a task's rows do not depend on the other tasks
    wanted = task.distinct_rows + CONTROL_ROWS + REPORT_ROWS
    things: dict[str, None] = {}
    while len(things) < wanted:
        things[task.draw(rng)] = None
    drawn = list(things)
    control, report = drawn[:CONTROL_ROWS], drawn[CONTROL_ROWS : CONTROL_ROWS + REPORT_ROWS]
    clean = {
        suffix: [row(task.wordings[0], asked, task.solve(asked)) for asked in part]
        for suffix, part in ((".control", control), (".report", report))
    }
    return {"": training_rows(task, drawn[CONTROL_ROWS + REPORT_ROWS :], rng), **clean}


def main() -> None:
    """Writes every split of every task as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tasks")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, task in TASKS.items():
        for suffix, rows in splits(name, task).items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (output / f"{name}{suffix}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
