from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from msft_lite.report.page.examples import Answer, read_examples


def row(**changes: object) -> dict[str, Any]:
    return {
        "row": 3, "prompt": "1 + 1 =", "gold": "2",
        "base": {"output": "3", "worth": 0}, "best": {"output": "2", "worth": 1_000_000},
        **changes,
    }  # fmt: skip


def write(folder: Path, content: object) -> Path:
    (folder / "examples.json").write_text(json.dumps(content))
    return folder


def test_examples_are_read_as_written(tmp_path: Path) -> None:
    read = read_examples(write(tmp_path, {"format": 1, "tasks": {"sums": [row(), row(row=4)]}}))
    assert read.note == ""
    (group,) = read.tasks
    assert (group.task, group.left_out) == ("sums", 0)
    assert [example.row for example in group.examples] == [3, 4]
    assert group.examples[0].best == Answer("2", 1_000_000)
    assert group.tally == "of 2 shown: base 0 right, returned 2 right"


def test_of_many_rows_the_first_are_shown(tmp_path: Path) -> None:
    (group,) = read_examples(write(tmp_path, {"format": 1, "tasks": {"a": [row()] * 40}})).tasks
    assert (len(group.examples), group.left_out) == (12, 28)


def test_without_the_file_there_is_nothing_to_say(tmp_path: Path) -> None:
    read = read_examples(tmp_path)
    assert (read.tasks, read.note) == ((), "")


@pytest.mark.parametrize(
    ("worth", "verdict", "css"),
    [
        (1_000_000, "right", "right"),
        (0, "wrong", "wrong"),
        (-1_500_000, "wrong", "wrong"),
        (630_000, "worth 0.63", "partly"),
    ],
)
def test_a_worth_has_a_verdict(worth: int, verdict: str, css: str) -> None:
    answer = Answer("x", worth)
    assert (answer.verdict, answer.css) == (verdict, css)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "the file is not an object"),
        ({"format": 2, "tasks": {}}, "format is 2 where 1 is read"),
        ({"format": 1}, "tasks is not an object"),
        ({"format": 1, "tasks": {"a": {}}}, "tasks.a is not a list"),
        ({"format": 1, "tasks": {"a": [3]}}, "tasks.a[0] is not an object"),
        ({"format": 1, "tasks": {"a": [row(), row(gold=2)]}}, "tasks.a[1].gold is not a text"),
        ({"format": 1, "tasks": {"a": [row(row="3")]}}, "tasks.a[0].row is not a whole number"),
        ({"format": 1, "tasks": {"a": [row(base=None)]}}, "tasks.a[0].base is not an object"),
        (
            {"format": 1, "tasks": {"a": [row(best={"output": "x", "worth": True})]}},
            "tasks.a[0].best.worth is not a whole number",
        ),
    ],
)
def test_a_damaged_file_gives_a_note(tmp_path: Path, content: object, says: str) -> None:
    read = read_examples(write(tmp_path, content))
    assert read.tasks == ()
    assert read.note == f"examples.json is damaged: {says}."


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000])
def test_what_is_no_json_gives_a_note(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "examples.json").write_bytes(content)
    assert read_examples(tmp_path).note == "examples.json is damaged: it is not JSON."


def test_a_folder_of_that_name_gives_a_note(tmp_path: Path) -> None:
    (tmp_path / "examples.json").mkdir()
    assert read_examples(tmp_path).note == "examples.json cannot be read: Is a directory."


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "examples.json").open("wb") as file:
        file.truncate(65 * 2**20)
    assert read_examples(tmp_path).note == "examples.json is larger than 64 MiB and was not read."
