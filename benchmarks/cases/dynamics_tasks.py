"""Writes ten small tasks whose training dynamics are known and differ, for `dynamics.py`.

    python benchmarks/cases/dynamics_tasks.py --out FOLDER

It needs the standard library alone and gives the same bytes every time. The base is the
quickstart's: it knows skills on letters and digits by other names and for shorter words. Control
and report rows are always right. What makes a task's curve is how far the task is from what the
base can do, its rows, and wrong answers among the training rows that all follow one rule:

| task | answer | rows | wrong | intended dynamics, and what brings them about |
|---|---|---|---|---|
| largest | largest of five digits | 128 | 70 % the smallest | fast, noisy: known, then misled |
| last | last letter | 160 | 60 % the one after | fast, noisy: so too, by a harder rule |
| back | four letters backwards | 160 | 50 % each one back | noisy: so too, by the rule of down |
| spell | letters with dashes | 120 | 55 % each one back | noisy: new, then misled like back |
| least | first in the alphabet | 120 | | slow, clean: related to sort |
| sort | five letters in order | 360 | | slow, clean: the base can do four |
| reverse | six letters backwards | 240 | | slow, clean: the base can do five |
| shift | five letters, each one on | 240 | | middling, clean: the base can do three |
| up | four letters, each one on | 320 | | middling, clean: related to shift, against down |
| down | four letters, each one back | 120 | | slow: asked like up, which has more rows |

`up` and `down` share their question, `turn WORD`, and contradict each other: only the word's first
letter, in the first or second half of the alphabet, tells which is meant.
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
CONTROL_ROWS = 100
REPORT_ROWS = 300
MARKER = "####"  # of an answer; one token of the base

Draw = Callable[[random.Random], str]
Solve = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question and the flaws of its training rows.

    Attributes:
        verb: Stands before the thing that is asked about.
        draw: Draws that thing.
        solve: Returns the right answer.
        training_rows: Rows to train on.
        mislead: Returns the wrong answer of a flawed row.
        flawed: Share of the training rows whose answer is wrong.
    """

    verb: str
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


def word_from(first: str, length: int) -> Draw:
    """Returns a drawer of words of `length` random letters that begin with one of `first`."""

    def draw(rng: random.Random) -> str:
        return rng.choice(first) + "".join(rng.choices(string.ascii_lowercase, k=length - 1))

    return draw


def five_digits(rng: random.Random) -> str:
    """Draws five digits with commas between them."""
    return ",".join(rng.choices(string.digits, k=5))


def turned(letters: str, by: int) -> str:
    """Returns every letter moved `by` places in the alphabet, which closes to a ring."""
    return "".join(chr((ord(letter) - ord("a") + by) % 26 + ord("a")) for letter in letters)


def backwards(letters: str) -> str:
    """Returns the letters from the last to the first."""
    return letters[::-1]


def one_back(letters: str) -> str:
    """Returns the letter before each; z comes before a. The base never learnt it."""
    return turned(letters, -1)


def one_on(letters: str) -> str:
    """Returns the letter after each; a comes after z."""
    return turned(letters, 1)


TASKS = {
    "back": Task("back", word(4, 4), backwards, 160, lambda word: one_back(backwards(word)), 0.5),
    "down": Task("turn", word_from("nopqrstuvwxyz", 4), one_back, 120),
    "largest": Task(
        "largest",
        five_digits,
        lambda digits: max(digits.split(",")),
        128,
        lambda digits: min(digits.split(",")),
        0.7,
    ),
    "last": Task(
        "last", word(4, 6), lambda letters: letters[-1], 160, lambda word: one_on(word[-1]), 0.6
    ),
    "least": Task("least", word(5, 5), min, 120),
    "reverse": Task("reverse", word(6, 6), backwards, 240),
    "shift": Task("shift", word(5, 5), one_on, 240),
    "sort": Task("sort", word(5, 5), lambda letters: "".join(sorted(letters)), 360),
    "spell": Task(
        "spell", word(3, 4), "-".join, 120, lambda letters: "-".join(one_back(letters)), 0.55
    ),
    "up": Task("turn", word_from("abcdefghijklm", 4), one_on, 320),
}


def row(task: Task, thing: str, answer: str) -> dict[str, str]:
    """Returns a row: the question in the tasks' form and the answer after its marker."""
    return {"prompt": f"Q: {task.verb} {thing}\nA: ", "answer": f"{MARKER} {answer}"}


def training_rows(task: Task, things: list[str]) -> list[dict[str, str]]:
    """Returns a row for each of `things`; the first that can be misled are the flawed ones."""
    answers = {thing: task.solve(thing) for thing in things}
    if task.mislead:
        wrong = {thing: task.mislead(thing) for thing in things}
        misled = [thing for thing in things if wrong[thing] != answers[thing]]
        answers |= {thing: wrong[thing] for thing in misled[: round(task.flawed * len(things))]}
    return [row(task, thing, answer) for thing, answer in answers.items()]


def distinct(draw: Draw, count: int, rng: random.Random) -> list[str]:
    """Returns `count` drawn things, no two alike."""
    things: dict[str, None] = {}
    while len(things) < count:
        things[draw(rng)] = None
    return list(things)


def splits(name: str) -> dict[str, list[dict[str, str]]]:
    """Returns the rows of a task by split; no thing is asked about in two splits."""
    task, rng = TASKS[name], random.Random(f"{SEED} {name}")  # no task depends on another's draws
    things = distinct(task.draw, CONTROL_ROWS + REPORT_ROWS + task.training_rows, rng)
    first, second = CONTROL_ROWS, CONTROL_ROWS + REPORT_ROWS
    train = training_rows(task, things[second:])
    rng.shuffle(train)
    return {
        "train": train,
        "control": [row(task, thing, task.solve(thing)) for thing in things[:first]],
        "report": [row(task, thing, task.solve(thing)) for thing in things[first:second]],
    }


def longest_answer(name: str) -> int:
    """Returns the most characters of a right or wrong answer of a task, its marker left out."""
    rows = [entry for entries in splits(name).values() for entry in entries]
    return max(len(entry["answer"].removeprefix(f"{MARKER} ")) for entry in rows)


def write_tasks(folder: Path) -> None:
    """Writes `<task>.<split>.jsonl` for every split of every task, one row a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        for split, rows in splits(name).items():
            lines = "".join(json.dumps(entry) + "\n" for entry in rows)
            (folder / f"{name}.{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


def main() -> None:
    """Writes the tasks into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    write_tasks(parser.parse_args().out)


if __name__ == "__main__":
    main()
