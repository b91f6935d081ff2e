"""Files as people write them: good, odd and broken."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from msft_lite.data.files import read_records
from msft_lite.data.rows import Record
from msft_lite.errors import DataError

GOOD = b'{"prompt": "Q: 1+1\\nA: ", "answer": "#### 2"}'
OTHER = b'{"prompt": "Q: 1+2\\nA: ", "answer": "#### 3"}'
VALUES = {"prompt": "Q: 1+1\nA: ", "answer": "#### 2"}


def read(folder: Path, name: str, content: bytes) -> tuple[Record, ...]:
    path = folder / name
    path.write_bytes(content)
    return read_records(path)


def refused(folder: Path, name: str, content: bytes) -> str:
    """Returns the message, without the folder, of a file that cannot be read."""
    with pytest.raises(DataError) as caught:
        read(folder, name, content)
    message = str(caught.value)
    message.encode()  # can be printed
    assert message.startswith(f"{folder}/{name}")
    return message.removeprefix(f"{folder}/")


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", GOOD, ["line 1"]),
        ("a.JSONL", GOOD + b"\n", ["line 1"]),
        ("a.jsonl", b"\xef\xbb\xbf" + GOOD, ["line 1"]),
        ("a.jsonl", GOOD + b"\r\n" + OTHER + b"\r\n", ["line 1", "line 2"]),
        ("a.jsonl", b"\n  \n" + GOOD + b"\n\r\n" + OTHER + b"\n\n", ["line 3", "line 5"]),
        ("a.json", b"[" + GOOD + b",\n" + OTHER + b"]\n", ["item 0", "item 1"]),
        ("a.json", b'\xef\xbb\xbf\r\n{"version": 1, "data": [' + GOOD + b"]}", ["item 0"]),
        ("a.csv", b'prompt,answer\n"Q: 1+1\nA: ",#### 2\n', ["line 2"]),
        ("a.csv", b'\xef\xbb\xbfprompt,answer\r\n\r\n"Q: 1+1\nA: ",#### 2\r\n', ["line 3"]),
        ("a.tsv", b'prompt\tanswer\n"Q: 1+1\nA: "\t#### 2', ["line 2"]),
        ("a.csv", b'prompt,answer\n"Q: 1+1\nA: ",#### 2\nx,y\n', ["line 2", "line 4"]),
    ],
)
def test_places_and_values(tmp_path: Path, name: str, content: bytes, places: list[str]) -> None:
    records = read(tmp_path, name, content)
    assert [record.where for record in records] == [f"{tmp_path}/{name}, {p}" for p in places]
    assert records[0].values == VALUES


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("a.jsonl", b'  {"b": 1, "a": [null, {"c": true}], "x": NaN}  ', ["b", "a", "x"]),
        ("a.jsonl", '{"a": "1\u20282\u00853"}'.encode(), ["a"]),
        ("a.json", b'[{"b": 1, "a": 2}]', ["b", "a"]),
        ("a.csv", b"b,a, c\n1,,x", ["b", "a", " c"]),
    ],
)
def test_columns_keep_their_order(
    tmp_path: Path, name: str, content: bytes, values: list[str]
) -> None:
    (record,) = read(tmp_path, name, content)
    assert list(record.values) == values


def test_csv_cells_are_texts(tmp_path: Path) -> None:
    content = b'a,b,c\n007,,"say ""1,5""\r\nthere"\n'
    (record,) = read(tmp_path, "a.csv", content)
    assert record.values == {"a": "007", "b": "", "c": 'say "1,5"\r\nthere'}


def test_a_large_cell_of_csv_is_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (record,) = read(tmp_path, "a.csv", b"a,b\n" + b"x" * 1_000_000 + b",y\n")
    assert len(str(record.values["a"])) == 1_000_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_file_without_rows(tmp_path: Path, name: str, content: bytes) -> None:
    expected = "line 1: the file ends before any row"
    if name in ("a.csv", "a.tsv") and b" " in content:
        expected = "line 2: column 1 of 1 has no name"
    if name == "a.parquet":
        expected = "no Parquet file"
    assert expected in refused(tmp_path, name, content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"\xff", "line 2, offset 5 of the file: invalid UTF-8: byte 0xff; save the file as UTF-8"),
        (b"\xc3", "line 2, offset 5 of the file: invalid UTF-8: byte 0xc3"),
        (b"\0", "line 2, offset 5 of the file: a NUL byte"),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, name: str, bad: bytes, says: str) -> None:
    assert f"{name}, {says}" in refused(tmp_path, name, b"abc\nd" + bad + b"\n")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf16_is_named(tmp_path: Path, encoding: str) -> None:
    assert "line 1" in refused(tmp_path, "a.jsonl", GOOD.decode().encode(encoding))
    assert "UTF-16" in refused(tmp_path, "a.csv", "a,b\n1,2".encode(encoding))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b'{"prompt": "a", "answer": "b"', "bad JSON: Expecting ',' delimiter at column 30"),
        (b"{'prompt': 'a'}", "bad JSON: Expecting property name"),
        (GOOD + GOOD, "bad JSON: Extra data"),
        (b'{"prompt": "a\x01", "answer": "b"}', "bad JSON: Invalid control character"),
        (b'{"n": ' + b"9" * 5000 + b"}", "bad JSON: Exceeds"),
        (b"[" * 200_000, "bad JSON: nested too deeply"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "an object holds the key 'c' twice (its keys: 'c')"),
        (b"17", "expected an object, found a number"),
        (b"null", "expected an object, found null"),
        (b"[" + GOOD + b"]", "found a list; is the file one JSON array? then name it .json"),
    ],
)
def test_bad_line_of_json_lines(tmp_path: Path, bad: bytes, says: str) -> None:
    message = refused(tmp_path, "a.jsonl", GOOD + b"\n" + bad + b"\n" + GOOD)
    assert message.startswith("a.jsonl, line 2: ")
    assert says in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'[{"a": 1},\n {"a": }]', "line 2: bad JSON: Expecting value at column 8"),
        (GOOD + b"\n" + GOOD, "line 2: bad JSON: Extra data at column 1; one object a line?"),
        (b'[{"a": 1}, 5]', "item 1: expected an object, found a number"),
        (b"17", "line 1: expected an array of objects, or an object with one array of them"),
        (b'{"a": 1}', "found an object without an array"),
        (b'{"a": [1], "b": [2]}', "found an object with 2 arrays ('a', 'b')"),
        (b'{"data": []}', "the file ends before any row"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'[{"a": 1, "a": 2}]', "an object holds the key 'a' twice"),
    ],
)
def test_bad_json(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refused(tmp_path, "a.json", content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b\n", "the file ends before any row"),
        (
            b"a,b\n1,2\n3\n",
            "line 3: has 1 fields, the header has 2; put a field that holds a comma",
        ),
        (b"a,b\n1,2,3\n", "line 2: has 3 fields, the header has 2"),
        (b"a,b,a\n1,2,3\n", "line 1: two columns are called 'a'"),
        (b",a\n0,1\n", "line 1: column 1 of 2 has no name"),
        (b"a;b\n1;2\n", "its names seem to be parted by a semicolon: save the file with a comma"),
        (b'a,b\n1,2\n"3,4\n5,6\n', "line 3: bad row: unexpected end of data; is a double quote"),
        (b'a,b\n1,"2"x\n', "line 2: bad row: ',' expected after '\"'"),
    ],
)
def test_bad_csv(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refused(tmp_path, "a.csv", content)


def test_suffix_that_says_nothing(tmp_path: Path) -> None:
    for name in ("rows", "rows.jsonl.gz", "rows.txt"):
        message = refused(tmp_path, name, GOOD)
        assert "readable are .jsonl, .json, .csv, .tsv, .parquet and folders" in message


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "add.control.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"no such file; did you mean 'add\.control\.jsonl'"):
        read_records(tmp_path / "add.contrl.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "absent" / "add.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "add.control.jsonl" / "add.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_records(Path("a\0b"))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="a pipe or a device"):
        read_records(tmp_path / "rows.jsonl")


def write_parquet(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), path)


def test_parquet_values_are_plain(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 2, 29, 12, 30)
    columns: dict[str, list[object]] = {
        "z": ["a", None],
        "list": [["x", "y"], []],
        "object": [{"text": ["p"], "label": ["A"]}, None],
        "number": [7, None],
        "when": [when, None],
        "price": [decimal.Decimal("7.50"), None],
    }
    write_parquet(tmp_path / "a.parquet", columns)
    first, second = read_records(tmp_path / "a.parquet")
    assert list(first.values) == list(columns)
    assert (first.where, second.where) == tuple(f"{tmp_path}/a.parquet, row {n}" for n in (0, 1))
    expected = {"when": "2024-02-29 12:30:00.000000", "price": "7.50"}
    assert first.values == {name: values[0] for name, values in columns.items()} | expected
    assert second.values == {name: values[1] for name, values in columns.items()}


def test_bad_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    write_parquet(tmp_path / "good.parquet", {"a": ["x"] * 1000})
    content = (tmp_path / "good.parquet").read_bytes()
    assert "no Parquet file, or a damaged one" in refused(tmp_path, "a.parquet", content[:-9])
    assert "no Parquet file, or a damaged one" in refused(tmp_path, "a.parquet", GOOD)
    write_parquet(tmp_path / "a.parquet", {"a": []})
    assert "a.parquet: holds no rows" in refused(
        tmp_path, "a.parquet", (tmp_path / "a.parquet").read_bytes()
    )
    twice = pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    assert "two columns are called 'a'" in refused(
        tmp_path, "a.parquet", (tmp_path / "a.parquet").read_bytes()
    )


def test_parquet_text_that_is_no_utf8(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"a": raw}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="a.parquet, column 'a': cannot be read"):
        read_records(tmp_path / "a.parquet")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that holds a saved dataset ``one`` and a saved group of splits ``two``."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{"prompt": f"{n}?", "answer": str(n)} for n in range(5)])
    rows.select([4, 0, 2]).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "two")
    return tmp_path


def test_saved_folder(saved: Path) -> None:
    records = read_records(saved / "one")
    assert [record.values["answer"] for record in records] == ["4", "0", "2"]
    assert records[1].where == f"{saved}/one, row 1"
    assert len(read_records(saved / "two" / "train")) == 5


def test_folder_that_cannot_be_read(saved: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_records(saved / "two")
    assert "holds the splits test, train; give one of them, such as" in str(caught.value)
    assert f"{saved}/two/test" in str(caught.value)
    with pytest.raises(DataError, match="not one saved by datasets"):
        read_records(saved)
    (saved / "one" / "state.json").write_text(json.dumps({"_data_files": 5}))
    with pytest.raises(DataError, match=f"{re.escape(str(saved))}/one: the saved dataset cannot"):
        read_records(saved / "one")
