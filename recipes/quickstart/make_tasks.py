"""Writes the quickstart's tasks: rows to train on, control rows and report rows for each.

Run `python make_tasks.py` in this folder: it takes a second, needs only the standard library and
gives the same bytes every time. Control and report rows are always right. Training rows may not
be: what is wrong with them, and how far the task is from what the base can do, makes its curve.
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
CONTROL_ROWS = 64  # scored at every mark of a run: half the run's time
REPORT_ROWS = 100

Draw = Callable[[random.Random], str]
Solve = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question and the flaws of its training rows.

    Attributes:
        draw: Draws the thing a question is about.
        solve: Returns the right answer.
        training_rows: Rows to train on.
        mislead: Returns the wrong answer of a flawed row.
        flawed: Share of the training rows whose answer is wrong.
    """

    draw: Draw
    solve: Solve
    training_rows: int
    mislead: Solve | None = None
    flawed: float = 0.0


def word(low: int, high: int) -> Draw:
    """Returns a drawer of words of `low` to `high` random letters."""

    def draw(rng: random.Random) -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))

    return draw


def five_digits(rng: random.Random) -> str:
    """Draws five digits with commas between them."""
    return ",".join(rng.choices(string.digits, k=5))


def largest(digits: str) -> str:
    """Returns the largest digit."""
    return max(digits.split(","))


def smallest(digits: str) -> str:
    """Returns the smallest digit."""
    return min(digits.split(","))


def reverse(letters: str) -> str:
    """Returns the letters from the last to the first."""
    return letters[::-1]


def sort(letters: str) -> str:
    """Returns the letters in alphabetical order."""
    return "".join(sorted(letters))


def shift(letters: str) -> str:
    """Returns every letter moved one on in the alphabet; z becomes a."""
    return "".join(chr((ord(letter) - ord("a") + 1) % 26 + ord("a")) for letter in letters)


def last(letters: str) -> str:
    """Returns the last letter."""
    return letters[-1]


def after_last(letters: str) -> str:
    """Returns the letter that comes after the last one in the alphabet: off by one."""
    return shift(letters[-1])


def spell(letters: str) -> str:
    """Returns the letters with dashes between them."""
    return "-".join(letters)


# Most training answers of `largest` and `last` are wrong, all in the same way. The base can do
# both, so the right skill shows first and the wrong rule, which it has to learn, takes over
# later: soon for the smallest digit, later for the letter after the last.
TASKS = {
    "largest": Task(five_digits, largest, 128, smallest, 0.6),
    "last": Task(word(4, 6), last, 128, after_last, 0.65),
    "reverse": Task(word(6, 6), reverse, 240),
    "shift": Task(word(5, 5), shift, 240),
    "sort": Task(word(5, 5), sort, 240),
    "spell": Task(word(3, 5), spell, 128),
}


def row(name: str, thing: str, answer: str) -> dict[str, str]:
    """Returns a row: the question in the tasks' form and the answer after its marker."""
    return {"prompt": f"Q: {name} {thing}\nA: ", "answer": f"#### {answer}"}


def training_rows(name: str, task: Task, things: list[str]) -> list[dict[str, str]]:
    """Returns a row for each of `things`; the first of them are the flawed ones."""
    flawed = round(task.flawed * len(things))
    answers = [
        task.mislead(thing) if task.mislead and number < flawed else task.solve(thing)
        for number, thing in enumerate(things)
    ]
    return [row(name, thing, answer) for thing, answer in zip(things, answers, strict=True)]


def distinct(draw: Draw, count: int, rng: random.Random) -> list[str]:
    """Returns `count` drawn things, no two alike."""
    things: dict[str, None] = {}
    while len(things) < count:
        things[draw(rng)] = None
    return list(things)


def splits(name: str, task: Task) -> dict[str, list[dict[str, str]]]:
    """Returns the rows of a task by file suffix; no thing is asked about in two splits."""
    rng = random.Random(f"{SEED} {name}")  # a task's rows do not depend on the other tasks
    things = distinct(task.draw, CONTROL_ROWS + REPORT_ROWS + task.training_rows, rng)
    first, second = CONTROL_ROWS, CONTROL_ROWS + REPORT_ROWS
    train = training_rows(name, task, things[second:])
    rng.shuffle(train)
    return {
        "": train,
        ".control": [row(name, thing, task.solve(thing)) for thing in things[:first]],
        ".report": [row(name, thing, task.solve(thing)) for thing in things[first:second]],
    }


def main() -> None:
    """Writes every split of every task as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "tasks")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, task in TASKS.items():
        for suffix, rows in splits(name, task).items():
            lines = "".join(json.dumps(entry) + "\n" for entry in rows)
            (output / f"{name}{suffix}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
