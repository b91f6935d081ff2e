"""Rows of files as people have them: JSON, CSV, Parquet, and folders saved by datasets."""

from __future__ import annotations

import csv
import io
import json
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msft_lite.data.rows import Record
from msft_lite.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pyarrow

READABLE = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon"}


def read_records(path: Path) -> tuple[Record, ...]:
    """Returns the rows of a file, or of a folder that ``Dataset.save_to_disk`` wrote, in order.

    The suffix decides: ``.jsonl`` holds an object a line, ``.json`` an array of objects (or an
    object with one array in it, ``{"data": [..]}``), ``.csv`` and ``.tsv`` a header and rows,
    ``.parquet`` a table. Texts are UTF-8; a byte-order mark, CRLF and blank lines are fine. Every
    cell of CSV and TSV is a text. Lines count from 1, items of an array and rows of a table from 0.

    Raises:
        DataError: the file or a row in it cannot be used; the message names file and place.
    """
    suffix = path.suffix.lower()
    if _is_folder(path):
        records = _saved_records(path)
    elif suffix == ".jsonl":
        records = _jsonl_records(path)
    elif suffix == ".json":
        records = _json_records(path)
    elif suffix in (".csv", ".tsv"):
        records = _csv_records(path, delimiter="," if suffix == ".csv" else "\t")
    elif suffix == ".parquet":
        records = _parquet_records(path)
    else:
        raise DataError(
            f"{path}: the suffix {path.suffix!r} does not tell what the file holds; readable are "
            f"{', '.join(READABLE)} and folders saved by datasets"
        )
    if not records:
        raise DataError(f"{path}, line 1: the file ends before any row; it needs at least one")
    return records


def table_records(table: pyarrow.Table, source: str) -> tuple[Record, ...]:
    """Returns the rows of an Arrow table as plain Python values; dates and decimals become texts.

    Args:
        table: as it was read; that it is well formed is checked here.
        source: what messages call it.

    Raises:
        DataError: the table is damaged or empty, or a column of it cannot be converted.
    """
    names = [str(name) for name in table.column_names]
    if not names or not table.num_rows:
        raise DataError(f"{source}: holds no rows; it needs at least one")
    _check_names(names, source)
    columns = [
        _cells(column, f"{source}, column {name!r}")
        for name, column in zip(names, table.columns, strict=True)
    ]
    return tuple(
        Record(f"{source}, row {number}", dict(zip(names, values, strict=True)))
        for number, values in enumerate(zip(*columns, strict=True))
    )


def kind(value: object) -> str:
    """Returns what messages call a value: ``a list``, ``null``."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, in characters that can be printed."""
    line = (str(error).strip() or "no message").splitlines()[0]
    return line.encode(errors="backslashreplace").decode()


def _cells(column: pyarrow.ChunkedArray, where: str) -> list[object]:
    import pyarrow

    try:
        column.validate(full=True)  # offsets of a damaged file may point anywhere in memory
        if pyarrow.types.is_temporal(column.type) or pyarrow.types.is_decimal(column.type):
            column = column.cast(pyarrow.string())
        return column.to_pylist()
    # Arrow raises errors of its own as well as OverflowError, ValueError and MemoryError.
    except Exception as error:
        raise DataError(
            f"{where}: cannot be read: {first_line(error)}; write the file again, or without it"
        ) from error


def _jsonl_records(path: Path) -> tuple[Record, ...]:
    records: list[Record] = []
    # Only a line feed ends a line: str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(_text_of(path).split("\n"), start=1):
        if line.strip(" \t\r"):
            value = _parsed(line, path, number)
            if isinstance(value, list):
                raise DataError(
                    f"{path}, line {number}: expected an object, found a list; is the file one "
                    "JSON array? then name it .json, or write one object a line"
                )
            records.append(_record(value, f"{path}, line {number}"))
    return tuple(records)


def _json_records(path: Path) -> tuple[Record, ...]:
    text = _text_of(path)
    if not text.strip():
        return ()
    items = _items(_parsed(text, path), path)
    return tuple(_record(item, f"{path}, item {number}") for number, item in enumerate(items))


def _items(value: object, path: Path) -> list[object]:
    """Returns the elements of an array, or of the one array in an object."""
    if isinstance(value, list):
        return value
    found = kind(value)
    if isinstance(value, dict):
        arrays = {key: entry for key, entry in value.items() if isinstance(entry, list)}
        if len(arrays) == 1:
            return next(iter(arrays.values()))
        names = ", ".join(repr(key) for key in list(arrays)[:8])
        found += f" with {len(arrays)} arrays ({names})" if arrays else " without an array"
    raise DataError(
        f"{path}, line 1: expected an array of objects, or an object with one array of them, "
        f"found {found}; write [{{..}}, {{..}}]"
    )


def _record(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, found {kind(value)}")
    return Record(where, value)


def _parsed(text: str, path: Path, line: int | None = None) -> object:
    """Returns the JSON value that is ``text``: a file, or the line of that number in it."""
    where = str(path) if line is None else f"{path}, line {line}"
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        hint = ""
        if error.msg == "Extra data" and path.suffix.lower() == ".json":
            hint = "; one object a line? then name the file .jsonl"
        raise DataError(
            f"{path}, line {line or error.lineno}: bad JSON: {error.msg} at column "
            f"{error.colno}{hint}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: bad JSON: nested too deeply") from error
    except ValueError as error:  # a key twice; a number of over 4,300 digits
        raise DataError(f"{where}: bad JSON: {first_line(error)}") from error


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns the object; the parser's own way with a key that is there twice is the last value."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = _repeated([key for key, _ in pairs])
        beside = ", ".join(repr(key) for key in list(values)[:8])
        raise ValueError(f"an object holds the key {twice!r} twice (its keys: {beside})")
    return values


def _csv_records(path: Path, *, delimiter: str) -> tuple[Record, ...]:
    rows = _csv_rows(_text_of(path), path, delimiter)
    if not rows:
        return ()
    line, header = rows[0]
    _check_names(header, f"{path}, line {line}")
    _check_separator(header, f"{path}, line {line}", delimiter)
    for line, fields in rows[1:]:
        if len(fields) != len(header):
            raise DataError(
                f"{path}, line {line}: has {len(fields)} fields, the header has {len(header)}; "
                f"put a field that holds {_SEPARATORS[delimiter]} or a line break in double quotes"
            )
    return tuple(
        Record(f"{path}, line {line}", dict(zip(header, fields, strict=True)))
        for line, fields in rows[1:]
    )


def _csv_rows(text: str, path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Returns line and fields of every row that is not blank, the header included."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    limit = csv.field_size_limit(len(text) + 1)  # 128 KiB otherwise, and one for the whole process
    try:
        for fields in reader:
            if fields:
                rows.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: bad row: {first_line(error)}; is a double quote left open, or "
            'not doubled ("") inside a quoted field?'
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _check_separator(header: Sequence[str], where: str, delimiter: str) -> None:
    others = [other for other in _SEPARATORS if other != delimiter and other in header[0]]
    if len(header) == 1 and others:
        raise DataError(
            f"{where}: the header {header[0][:80]!r} is one column; its names seem to be parted by "
            f"{_SEPARATORS[others[0]]}: save the file with {_SEPARATORS[delimiter]} between columns"
        )


def _check_names(names: Sequence[str], where: str) -> None:
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(
                f"{where}: column {number} of {len(names)} has no name; name it or leave it out"
            )
    if twice := _repeated(names):
        raise DataError(f"{where}: two columns are called {twice!r}; rename one")


def _repeated(names: Sequence[str]) -> str | None:
    """Returns the first name that is there more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _parquet_records(path: Path) -> tuple[Record, ...]:
    import pyarrow.parquet

    content = _bytes_of(path)
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read()
    # Arrow raises errors of its own as well as OSError, ValueError and MemoryError.
    except Exception as error:
        raise DataError(
            f"{path}: no Parquet file, or a damaged one: {first_line(error)}; write it again"
        ) from error
    return table_records(table, str(path))


def _saved_records(folder: Path) -> tuple[Record, ...]:
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(entry.parent.name for entry in folder.glob("*/state.json"))
        raise DataError(
            f"{folder}: holds the splits {', '.join(splits) or 'of a dataset'}; give one of them, "
            f"such as {folder / (splits or ['train'])[0]}"
        )
    if not (folder / "state.json").is_file():
        raise DataError(
            f"{folder}: cannot be read: it is a folder, but not one saved by datasets (there is no "
            f"state.json in it); give a file: {', '.join(READABLE)}"
        )
    import datasets  # takes seconds: only where it is used

    try:
        table = datasets.load_from_disk(str(folder)).with_format("arrow")[:]
    # The library raises whatever its file systems, JSON and Arrow raise.
    except Exception as error:
        raise DataError(
            f"{folder}: the saved dataset cannot be read: {type(error).__name__}: "
            f"{first_line(error)}; save it again"
        ) from error
    return table_records(table, str(folder))


def _is_folder(path: Path) -> bool:
    """Returns whether ``path`` is a folder; raises if it is no file either."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        close = did_you_mean(path.name, _names_beside(path))
        raise DataError(f"{path}: no such file{close}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _unreadable(path, error) from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise DataError(f"{path}: cannot be read: it is a pipe or a device; give a file")
    return stat.S_ISDIR(mode)


def _names_beside(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return []


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> DataError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return DataError(f"{path}: cannot be read: {reason}")


def _text_of(path: Path) -> str:
    """Returns the text of a UTF-8 file without its byte-order mark."""
    content = _bytes_of(path)
    if content.startswith(_UTF16_MARKS):
        raise DataError(f"{path}, line 1: the file is UTF-16; save it as UTF-8")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{_place(path, content, error.start)}: invalid UTF-8: byte "
            f"0x{content[error.start]:02x}; save the file as UTF-8"
        ) from error
    if b"\0" in content:
        raise DataError(
            f"{_place(path, content, content.index(0))}: a NUL byte: the file is UTF-16, binary "
            "or damaged; save it as UTF-8 text"
        )
    return text.removeprefix("\ufeff")


def _place(path: Path, content: bytes, offset: int) -> str:
    line = content.count(b"\n", 0, offset) + 1
    return f"{path}, line {line}, offset {offset} of the file"
