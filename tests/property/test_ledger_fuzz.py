"""Whatever a ledger file holds, it is read, replayed as far as it goes, or refused in one line.

Of mutated files as many are read as `MSFT_LITE_FUZZED_LEDGERS` says.
"""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from msft_lite.core import ROOT, Clock, Point, Rollout, Score, Trace
from msft_lite.errors import LedgerError
from msft_lite.ledger import MEMORY, REPLAY, Ledger, Row, read_rows, score_columns
from msft_lite.methods import build_method
from msft_lite.report.story import Story
from msft_lite.report.telling import advance, read_story
from msft_lite.run.inventory import holders
from msft_lite.run.loop import drive
from msft_lite.run.resuming import recorded_memory
from msft_lite.snapshot.store import SnapshotStore

COUNT = int(os.environ.get("MSFT_LITE_FUZZED_LEDGERS", "300"))
CLOCK = Clock({"a": 8, "b": 12, "c": 9}, batch_rows=4, marks_per_epoch=2)
OPTIONS = {"budget": 1, "max_stages": 4}
START: Row = {
    "kind": "start",
    "format": 1,
    "method": "msft",
    "seed": 3,
    "tasks": list(CLOCK.tasks),
    "rows": {task: {"train": n, "control": 6, "report": 6} for task, n in CLOCK.sizes.items()},
    "marks_per_epoch": 2,
    "dropped_every": 1,
    "memory": {"per_device_train_batch_size": 4},
    "versions": {"torch": "2"},
}
ODD_TEXTS = (
    *("", "../../recipe", "/etc/passwd", "root", "live", "\0", "é\u2028", "0" * 64, "1/0", "7/3"),
    *("mark", "finish", MEMORY, "2" * 6, "9" * 5000),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**63, 10**300, 1e308, float("nan"), float("inf"), 0.5),
    *([], {}, [[]], {"a": []}, [None] * 9, {"a": {"a": {"a": 1}}}, *ODD_TEXTS),
)
BRACKETS = ("[" * 100_000, '{"kind":' * 50_000, "[" * 900 + "]" * 900)


class Executed(Exception):
    """The ledger was replayed to its end, and training would go on."""


def execute(_: Rollout) -> Trace:
    raise Executed


def mark_row(n: int, point: Point, step: int) -> Row:
    counts = ("trained_tokens", "prompt_tokens", "generated_tokens", "disk_bytes", "peak_bytes")
    return {
        "kind": "mark",
        "n": n,
        "k": point.mark,
        "step": step,
        "snapshot": point.snapshot,
        **score_columns(point.scores),
        "train_loss": {"a": 0.5} if point.mark else {},
        **dict.fromkeys(counts, 7),
        "seconds": {"train": 0.5, "swap": 0.25},
    }


def written(path: Path) -> list[str]:
    """Writes the ledger of a whole run with made-up scores and returns its lines."""
    chance, known = random.Random(5), dict[str, Mapping[str, Score]]()
    ledger = Ledger(path)
    ledger.expect(START)

    def train(request: Rollout) -> Trace:
        for k, step in enumerate((0, *request.marks)):
            name = sha256(f"{ledger.n} {k}".encode()).hexdigest() if k else request.start
            if name not in known:
                known[name] = {t: Score("".join(chance.choices("01", k=6))) for t in CLOCK.tasks}
            ledger.append(mark_row(ledger.n, Point(k, name, known[name]), step))
            if k == 1:
                ledger.note({"kind": MEMORY, "gradient_checkpointing": True})
                ledger.note({"kind": REPLAY, "n": 1, "k": 1, "seconds": {"replay": 1.0}})
        return ledger.trace()

    verdict = drive(build_method("msft", CLOCK, OPTIONS), train, ledger)
    row = next(row for row in ledger.rows if row.get("snapshot") == verdict.snapshot)
    columns = score_columns(known[verdict.snapshot])
    ledger.append(
        {
            "kind": "finish",
            **{key: row[key] for key in ("n", "k", "snapshot")},
            "note": verdict.note,
            "last": None,
            **{key: dict.fromkeys(("base", "best"), value) for key, value in columns.items()},
            "seconds": {"finish": 1.0},
        }
    )
    return path.read_text().splitlines()


def mutated(lines: list[str], chance: random.Random) -> bytes:
    """Returns the bytes of a ledger to which one to three things have happened."""
    lines = list(lines)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(lines))
        lines = chance.choice(LINE_MUTATIONS)(lines, at, chance)
        if not lines:
            break
    content = bytearray(("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))
    if chance.random() < 0.3:
        return bytes(content[: chance.randrange(len(content) + 1)])
    for _ in range(chance.choice((0, 0, 1, 8))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def without(lines: list[str], at: int, _: random.Random) -> list[str]:
    return lines[:at] + lines[at + 1 :]


def twice(lines: list[str], at: int, chance: random.Random) -> list[str]:
    other = chance.randrange(len(lines))
    return [*lines[:other], lines[at], *lines[other:]]


def swapped(lines: list[str], at: int, chance: random.Random) -> list[str]:
    other = chance.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]
    return lines


def nested(lines: list[str], at: int, chance: random.Random) -> list[str]:
    text, brackets = lines[at], chance.choice(BRACKETS)
    place = text.find(":", chance.randrange(max(1, len(text)))) + 1
    lines[at] = text[:place] + brackets + ("" if chance.random() < 0.5 else text[place:])
    return lines


def valued(lines: list[str], at: int, chance: random.Random) -> list[str]:
    """Puts an odd value, or an odd key, somewhere into a row."""
    try:
        row = json.loads(lines[at])
    except (ValueError, RecursionError):
        return lines
    place = row
    while isinstance(place, dict) and place:
        key = chance.choice(list(place))
        inner = place[key]
        if isinstance(inner, dict) and inner and chance.random() < 0.6:
            place = inner
            continue
        if chance.random() < 0.2:
            place[chance.choice(ODD_TEXTS)] = place.pop(key)
        elif chance.random() < 0.1:
            del place[key]
        else:
            place[key] = chance.choice(ODD_VALUES)
        break
    lines[at] = json.dumps(row, ensure_ascii=False)
    return lines


LINE_MUTATIONS: tuple[Callable[[list[str], int, random.Random], list[str]], ...] = (
    *(valued,) * 6,
    without,
    twice,
    swapped,
    nested,
)


def outcome_of(path: Path) -> str:
    """Reads a ledger in every way that a command does and returns what came of it."""
    try:
        read_story(path)
        held = holders(read_rows(path), source=str(path))
        store = SnapshotStore(path.parent / "none", root=no_root, reads_only=True)
        assert not held.keys() & store.stored().keys()
    except LedgerError as error:
        told = str(error)
        assert str(path) in told
        assert len(told) < 2000
        assert "\n" not in told
    return replayed(path)


def no_root() -> Any:
    raise AssertionError


def replayed(path: Path) -> str:
    story: Story | None = None
    line = 0

    def watch(row: Row) -> None:
        nonlocal story, line
        line += 1
        story = advance(story, row, where=f"{path}, line {line}")

    try:
        ledger = Ledger(path, on_row=watch)
        recorded_memory(ledger.rows)
        ledger.expect(START)
        drive(build_method("msft", CLOCK, OPTIONS), execute, ledger)
    except LedgerError as error:
        assert str(path) in str(error)
        return "refused"
    except Executed:
        return "goes on"
    return "whole"


def test_the_ledger_as_it_was_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lines = written(path)
    assert outcome_of(path) == "whole"
    assert read_story(path).finish is not None
    path.write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    assert outcome_of(path) == "goes on"
    assert ROOT in holders(read_rows(path))


def test_mutated_ledgers_are_read_or_refused(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    lines, chance = written(tmp_path / "whole.jsonl"), random.Random(11)
    path = tmp_path / "ledger.jsonl"
    found: dict[str, int] = {}
    longest = 0.0
    for number in range(COUNT):
        content = mutated(lines, chance)
        path.write_bytes(content)
        started = time.monotonic()
        try:
            outcome = outcome_of(path)
        except Exception as error:  # to keep the file that did it
            (tmp_path / "culprit.jsonl").write_bytes(content)
            raise AssertionError(f"file {number}: {error!r}") from error
        longest = max(longest, time.monotonic() - started)
        found[outcome] = found.get(outcome, 0) + 1
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    record_property("outcomes", found)
    print(f"{COUNT} ledgers: {found}; longest {longest:.2f} s, peak {peak_mib} MiB")
    assert found.keys() == {"refused", "goes on", "whole"}


@pytest.mark.parametrize("brackets", BRACKETS)
def test_deep_nesting_is_refused_in_one_line(tmp_path: Path, brackets: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(brackets + '\n{"kind": "start"}\n')
    with pytest.raises(LedgerError, match=r"line 1: not ") as error:
        read_rows(path)
    assert len(str(error.value)) < 400
