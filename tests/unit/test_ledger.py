"""The ledger: replay, torn tails, damaged files and a full disk."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from msft_lite.core import Drop, Mixture, Rollout, Verdict
from msft_lite.errors import LedgerError, ReplayMismatch, StorageError, resume_command
from msft_lite.ledger import Ledger, read_rows

FIRST = Rollout("root", Mixture.of(["a", "b"]), (2, 4), fresh=True)
DROP = Drop("a", 1, "s1", "best at mark 1")
SECOND = Rollout("s1", Mixture.of(["b"]), (1, 2), True, (DROP,))


def mark_row(n: int, k: int) -> Mapping[str, Any]:
    outcomes = {"a": "01", "b": "11"}
    return {"kind": "mark", "n": n, "k": k, "snapshot": f"s{k}", "outcomes": outcomes}


def filled(path: Path) -> Ledger:
    """A ledger with one whole roll-out and a second one that was killed at mark 0."""
    ledger = Ledger(path)
    ledger.append({"kind": "start", "seed": 1})
    assert ledger.recall(FIRST) is None
    for k in range(3):
        ledger.append(mark_row(1, k))
    assert ledger.recall(SECOND) is None
    ledger.append(mark_row(2, 0))
    return ledger


def test_rows_are_json_objects_in_the_order_of_events(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    kinds = [(row["kind"], row.get("n"), row.get("k")) for row in rows]
    assert kinds == [
        ("start", None, None),
        ("rollout", 1, None),
        ("mark", 1, 0),
        ("mark", 1, 1),
        ("mark", 1, 2),
        ("drop", 1, None),
        ("rollout", 2, None),
        ("mark", 2, 0),
    ]
    assert rows[6] == {
        "kind": "rollout",
        "n": 2,
        "start": "s1",
        "tasks": ["b"],
        "share": {"b": "1"},
        "marks": [1, 2],
        "fresh": True,
        "score": True,
        "keep": "peaks",
        "audit": "none",
        "iid": False,
        "skip": {},
        "skip_digest": "",
    }


def test_replay_answers_whole_rollouts_and_gives_the_marks_of_the_last(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.jsonl")
    heard: list[str] = []
    ledger = Ledger(tmp_path / "ledger.jsonl", on_row=lambda row: heard.append(row["kind"]))
    ledger.expect({"kind": "start", "seed": 1})
    reply = ledger.recall(FIRST)
    assert reply is not None
    assert [(p.mark, p.snapshot, p.scores["b"].correct) for p in reply.points] == [
        (0, "s0", 2),
        (1, "s1", 2),
        (2, "s2", 2),
    ]
    assert ledger.recall(SECOND) is None
    assert (ledger.n, len(ledger.points), len(ledger.seen)) == (2, 1, 4)
    assert heard == ["start", "rollout", "mark", "mark", "mark", "drop", "rollout", "mark"]


@pytest.mark.parametrize("replayed", [0, 1])
def test_a_note_on_memory_takes_no_part_in_the_replay(tmp_path: Path, replayed: int) -> None:
    filled(tmp_path / "ledger.jsonl")
    heard: list[str] = []
    for _ in range(2):
        heard.clear()
        ledger = Ledger(tmp_path / "ledger.jsonl", on_row=lambda row: heard.append(row["kind"]))
        ledger.expect({"kind": "start", "seed": 1})
        if replayed:
            ledger.recall(FIRST)
        ledger.note({"kind": "memory", "per_device_train_batch_size": 2})
        if not replayed:
            ledger.recall(FIRST)
        assert ledger.recall(SECOND) is None
    ledger.append(mark_row(2, 1))
    ledger.append(mark_row(2, 2))
    assert [point.mark for point in ledger.points] == [0, 1, 2]
    assert heard == [row["kind"] for row in ledger.rows]
    assert heard[-5:] == ["mark", "memory", "memory", "mark", "mark"]


def test_another_question_is_refused_with_both_values(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.jsonl")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.expect({"kind": "start", "seed": 1})
    longer = Rollout("root", FIRST.mixture, (2, 4, 6), fresh=True)
    with pytest.raises(ReplayMismatch, match=r"line 2.*marks = \[2, 4\] where \[2, 4, 6\]"):
        ledger.recall(longer)


def test_another_decision_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.jsonl")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.expect({"kind": "start", "seed": 1})
    ledger.recall(FIRST)
    with pytest.raises(ReplayMismatch, match="'drop' where 'rollout'"):
        ledger.recall(Rollout("s1", SECOND.mixture, (1, 2), fresh=True))


def test_conclude_records_the_last_decisions_once(tmp_path: Path) -> None:
    filled(tmp_path / "ledger.jsonl")
    for _ in range(2):
        ledger = Ledger(tmp_path / "ledger.jsonl")
        ledger.expect({"kind": "start", "seed": 1})
        ledger.recall(FIRST)
        ledger.recall(SECOND)
        ledger.conclude(Verdict("s1", (Drop("b", 0, "s1", "why"),)))
    rows = read_rows(ledger.path)
    assert [row["task"] for row in rows if row["kind"] == "drop"] == ["a", "b"]
    drop = ledger.recorded("drop")
    assert drop is not None
    assert drop["rolled_back_to"] == "s1"
    assert ledger.recorded("finish") is None


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_torn_last_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger.jsonl"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert len(read_rows(path)) == 7
    ledger = Ledger(path)
    assert len(ledger.rows) == 7
    assert path.read_bytes() == whole[: whole.rfind(b"\n", 0, -1) + 1]


@pytest.mark.parametrize("line", [bytes(40) + b'"}\n', b"\n", b"[1]\n", b'{"k": 1}\n', b"{\n{"])
def test_a_last_line_that_is_no_row_is_cut_off(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole + line)
    assert len(read_rows(path)) == 8
    ledger = Ledger(path)
    assert len(ledger.rows) == 8
    assert ledger.torn_bytes == len(line)
    assert path.read_bytes() == whole
    assert Ledger(path).torn_bytes == 0


@pytest.mark.parametrize("line", [b"{broken\n", b"[1]\n", b'{"no": "kind"}\n', b"\xff\xfe\n"])
def test_a_damaged_row_is_named_by_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"kind": "start"}\n' + line + b'{"kind": "finish"}\n')
    with pytest.raises(LedgerError, match=r"line 2.*keep only the lines before this one"):
        Ledger(path)


def test_reading_a_missing_ledger_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="nowhere"):
        read_rows(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_ledger_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    before = ledger.path.read_bytes()
    write = os.write

    def half_then_full(descriptor: int, content: bytes) -> int:
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[: len(content) - 10])

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(StorageError, match=r"No space left.*msft-lite resume"):
        ledger.append(mark_row(2, 1))
    assert ledger.path.read_bytes() == before
    assert len(ledger.points) == 1


def test_a_folder_that_cannot_be_synced_takes_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    filled(tmp_path / "ledger.jsonl")
    assert read_rows(tmp_path / "ledger.jsonl")


def test_the_way_on_is_told_as_a_shell_takes_it() -> None:
    command = resume_command(Path("my runs/it's"), "a=b c")
    assert shlex.split(command) == ["msft-lite", "resume", "my runs/it's", "a=b c"]
