"""Whatever a file holds, it gives rows or a `DataError` that names the file and the place."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from msft_lite.data.files import read_records
from msft_lite.data.formats import row_of
from msft_lite.errors import DataError

if TYPE_CHECKING:
    import pyarrow

Rows = list[dict[str, object]]

FORMS: dict[str, Callable[[int], dict[str, object]]] = {
    "prompt": lambda n: {"prompt": f"Q: {n}+1\nA: ", "answer": n + 1},
    "completion": lambda n: {"prompt": f"é{n}", "completion": f'"{n}", €'},
    "instruction": lambda n: {"instruction": "Add 1.", "input": f"{n}", "output": f"{n + 1}"},
    "messages": lambda n: {
        "messages": [
            {"role": "user", "content": f"{n}+1"},
            {"role": "assistant", "content": f"{n + 1}"},
        ]
    },
    "conversations": lambda n: {
        "conversations": [
            {"from": "human", "value": f"{n}+1"},
            {"from": "gpt", "value": f"{n + 1}"},
        ]
    },
    "chats": lambda n: {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": f"{n}"}]}],
        "completion": [{"role": "assistant", "content": f"{n + 1}"}],
    },
    "choices": lambda n: {
        "question": f"{n}+1?",
        "choices": {"text": ["x", f"{n + 1}"], "label": ["A", "B"]},
        "answer": "B",
    },
    "letters": lambda n: {"question": f"{n}+1?", "choices": ["x", "y", f"{n}"], "answer": n % 3},
    "free": lambda n: {"question": f"{n}+1?", "answer": n + 1, "rationale": "Count."},
}
ODD_VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 7.0, 0.5, 1e999, 10**30, float("nan"), "", " ", "A", "#### 2"),
    *([], {}, [None], [[]], ["x", "x"], [{"role": "user", "content": "?"}], {"text": ["a", "b"]}),
    *("\ud800", "a\0b", 'x,y\n"z', "\u2028", "\U0001f600", "9" * 5000),
)
ODD_NAMES = ("prompt", "answer", "completion", "messages", "choices", "answers", "", "tools", "a b")
# Reasons that have no line or row.
OF_A_WHOLE_FILE = (
    *("holds no rows", "has no name", "two columns are called"),
    *("bad JSON: nested too deeply", "bad JSON: an object holds the key", "bad JSON: Exceeds"),
    *("no Parquet file", "the saved dataset cannot be read", "not one saved by datasets"),
)
TOKENS = (
    *(b'"', b"\\", b"\\u", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b";", b"\t", b"\n"),
    *(b"\r", b"\r\n", b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"null", b"NaN"),
    *(b"1e999", b"-", b"9" * 5000, b'"answer"', b'"prompt": 1, ', b"[" * 3000, b'{"a":' * 3000),
)


def changed_values(rows: Rows, source: random.Random) -> None:
    """Changes a cell, a column or the number of rows, in place."""
    row = source.choice(rows)
    name = source.choice(list(row)) if row else "prompt"
    change = source.randrange(9)
    if change == 0:
        row[name] = source.choice(ODD_VALUES)
    elif change == 1:
        for other in rows:
            other[name] = source.choice(ODD_VALUES)
    elif change == 2:
        row.pop(name, None)
    elif change == 3:
        row[source.choice(ODD_NAMES)] = row.pop(name, None)
    elif change == 4:
        row[source.choice(ODD_NAMES)] = source.choice(ODD_VALUES)
    elif change == 5:
        rows.append(dict(row, id=1))
    elif change == 6 and source.random() < 0.1:
        row[name] = "x" * 1_000_000
    elif change == 7:
        row[name] = nested(row.get(name), source.choice([3, 60, 300]))
    else:
        row["id"] = 1


def nested(value: object, depth: int) -> object:
    for _ in range(depth):
        value = [value]
    return value


def changed_bytes(content: bytes, source: random.Random) -> bytes:
    """Returns the content cut, spliced, flipped or in another encoding."""
    change = source.randrange(10)
    if change == 0:
        return content[: source.randrange(len(content) + 1)]
    if change == 1:
        text = content.decode("utf-8", "replace")
        return text.encode(
            source.choice(["utf-16", "utf-16-be", "latin-1", "utf-8-sig"]), "replace"
        )
    if change == 2:
        return content.replace(b"\n", source.choice([b"\r\n", b"\r", b"\n\n"]))
    if change == 3:
        return source.choice([b"", b"\n", b"\xef\xbb\xbf", b"{}", b"[]", b"null", content * 2])
    mutable = bytearray(content)
    if change < 7:  # offsets stay right, so that a table's reader gets to its values
        for _ in range(source.randint(1, 8)):
            mutable[source.randrange(len(mutable))] ^= 1 << source.randrange(8)
        return bytes(mutable)
    for _ in range(source.randint(1, 4)):
        first = source.randrange(len(mutable) + 1)
        last = min(len(mutable), first + source.choice([0, 0, 1, 2, 9, 200]))
        mutable[first:last] = source.choice([*TOKENS, source.randbytes(2), b""])
    return bytes(mutable)


def json_lines(rows: Rows) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def json_array(rows: Rows) -> bytes:
    value = {"version": 1, "data": rows} if len(rows) % 2 else rows
    return json.dumps(value, indent=1 if len(rows) < 8 else None).encode()


def separated(rows: Rows, delimiter: str) -> bytes:
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, names, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode("utf-8", "replace")


def parquet(rows: Rows) -> bytes:
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    # Parquet has no objects without a key.
    rows = [{name: row[name] for name in row if row[name] != {}} for row in rows]
    pyarrow.parquet.write_table(arrow_table(rows), stream)
    return stream.getvalue()


def arrow_table(rows: Rows) -> pyarrow.Table:
    """Returns a table of the rows, their values as texts where they are of several types."""
    import pyarrow

    texts = [{name: repr(row[name])[:9000] for name in row} for row in rows]
    try:
        table = pyarrow.Table.from_pylist(rows)
    except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError):
        return pyarrow.Table.from_pylist(texts)
    # datasets cannot write types that are nested hundreds of levels deep.
    return table if len(str(table.schema)) < 5000 else pyarrow.Table.from_pylist(texts)


WRITERS: Mapping[str, Callable[[Rows], bytes]] = {
    "rows.jsonl": json_lines,
    "rows.json": json_array,
    "rows.csv": lambda rows: separated(rows, ","),
    "rows.tsv": lambda rows: separated(rows, "\t"),
    "rows.parquet": parquet,
}


def write_file(path: Path, rows: Rows, source: random.Random) -> None:
    content = WRITERS[path.name](rows)
    path.write_bytes(changed_bytes(content, source) if source.random() < 0.6 else content)


def write_saved(path: Path, rows: Rows, source: random.Random) -> None:
    import datasets

    for file in path.glob("*"):
        file.unlink()
    datasets.Dataset(arrow_table(rows)).save_to_disk(path)
    file = source.choice(sorted(path.iterdir()))
    if source.random() < 0.6:
        file.write_bytes(changed_bytes(file.read_bytes(), source))


def outcome(path: Path) -> bool:
    """Returns whether the file gives rows; asserts what is promised of them and of an error."""
    try:
        records = read_records(path)
        assert records
        for record in records:
            assert record.where.startswith(f"{path}, ")
            row = row_of(record)
            assert row.prompt.strip()
            assert row.answer.strip()
            assert (row.prompt + row.answer).encode()
    except DataError as error:
        message = str(error)
        message.encode()
        assert message.startswith(str(path))
        place = re.match(r", (line|item|row|column) ", message.removeprefix(str(path)))
        assert place or any(reason in message for reason in OF_A_WHOLE_FILE), message
        return False
    return True


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::UserWarning:datasets")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("rows.jsonl", 450),
        ("rows.json", 450),
        ("rows.csv", 350),
        ("rows.tsv", 200),
        ("rows.parquet", 350),
        ("saved", 200),
    ],
)
def test_a_changed_file_gives_rows_or_a_place(tmp_path: Path, name: str, count: int) -> None:
    import datasets

    datasets.disable_progress_bars()
    source = random.Random(f"20 {name}")
    outcomes = {True: 0, False: 0}
    for case in range(count):
        form = FORMS[sorted(FORMS)[case % len(FORMS)]]
        rows = [form(n) for n in range(source.randint(1, 12))]
        for _ in range(source.choice([0, 0, 1, 1, 2])):
            changed_values(rows, source)
        (write_saved if name == "saved" else write_file)(tmp_path / name, rows, source)
        outcomes[outcome(tmp_path / name)] += 1
    assert min(outcomes.values()) > count / 10, outcomes
