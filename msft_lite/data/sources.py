"""Rows from JSON-lines files and from the Hugging Face hub, each with the place it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msft_lite.errors import DataError, did_you_mean

Message = tuple[str, str]  # role and content
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as its author wrote it.

    Attributes:
        where: the place to name in messages, ``tasks/add.jsonl, line 17``.
        prompt: text before the answer; of a chat, the contents before the last message.
        answer: text to learn; of a chat, the content of the last message.
        messages: the whole chat, its last message from the assistant; empty for a plain row.
    """

    where: str
    prompt: str
    answer: str
    messages: tuple[Message, ...] = ()


def read_jsonl(path: Path) -> tuple[Row, ...]:
    """Returns the rows of a UTF-8 file with one JSON object a line.

    A row is ``{"prompt": str, "answer": str}`` or ``{"messages": [{"role": .., "content": ..}]}``;
    other keys are ignored. A byte-order mark, CRLF and blank lines are fine.

    Raises:
        DataError: the file or a row in it cannot be used; the message names file and line.
    """
    content = _bytes_of(path)
    rows: list[Row] = []
    offset = len(_BYTE_ORDER_MARK) if content.startswith(_BYTE_ORDER_MARK) else 0
    # Only a line feed ends a line: str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(content[offset:].split(b"\n"), start=1):
        where = f"{path}, line {number}"
        if line.strip():
            rows.append(row_of(_json_of(line, where, offset), where))
        offset += len(line) + 1
    if not rows:
        raise DataError(f"{path}, line 1: the file ends before any row; write one object a line")
    return tuple(rows)


def read_hub(dataset: str, split: str) -> tuple[Row, ...]:
    """Returns the rows of a split of a dataset on the Hugging Face hub, or in a local folder.

    Its columns are named as the keys of a JSON-lines row. Code from the hub is never run.

    Args:
        dataset: ``owner/name``, or ``owner/name:configuration``.
        split: ``train``, or a slice such as ``train[:1000]``.

    Raises:
        DataError: the dataset cannot be had, or a row in it cannot be used.
    """
    try:
        import datasets  # takes seconds: only where it is used
    except ImportError as error:
        raise DataError(
            f"dataset {dataset!r} needs the package 'datasets' (pip install datasets); "
            "or give a local file with path"
        ) from error
    name, _, configuration = dataset.partition(":")
    try:
        table = datasets.load_dataset(name, configuration or None, split=split)
    # The library raises whatever its file systems, HTTP and builders raise.
    except Exception as error:
        raise DataError(
            f"dataset {dataset!r}, split {split!r} cannot be loaded: "
            f"{_reason(error)}; check name, split and network, "
            "or give a local JSON-lines file with path"
        ) from error
    rows = tuple(
        row_of(value, f"dataset {dataset}, split {split}, row {number}")
        for number, value in enumerate(table)
    )
    if not rows:
        raise DataError(f"dataset {dataset!r}, split {split!r} holds no rows")
    return rows


def row_of(value: object, where: str) -> Row:
    """Returns the row that a parsed JSON value stands for.

    Raises:
        DataError: ``value`` is no such row; the message starts with ``where``.
    """
    if not isinstance(value, Mapping):
        hint = "; is the file one JSON array? write one object a line" * isinstance(value, list)
        raise DataError(f"{where}: expected an object, found {_kind(value)}{hint}")
    if "messages" not in value:
        return Row(where, _text(value, "prompt", where), _text(value, "answer", where))
    if "prompt" in value and "answer" in value:
        raise DataError(f"{where}: has prompt and answer as well as messages; keep one form")
    return _chat_row(value["messages"], where)


def _chat_row(value: object, where: str) -> Row:
    if not isinstance(value, list):
        raise DataError(f"{where}: 'messages' must be a list, found {_kind(value)}")
    messages = tuple(
        _message(entry, f"{where}, message {number}") for number, entry in enumerate(value, start=1)
    )
    if len(messages) < 2 or messages[-1][0] != "assistant":
        found = messages[-1][0] if messages else "none"
        raise DataError(
            f"{where}: a chat needs at least one message and then the assistant's as the last; "
            f"found {len(messages)}, the last from {found!r}"
        )
    prompt = "\n".join(content for _, content in messages[:-1])
    return Row(where, prompt, messages[-1][1], messages)


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected an object, found {_kind(value)}")
    return _text(value, "role", where), _text(value, "content", where)


def _text(value: Mapping[str, object], key: str, where: str) -> str:
    """Returns the text at ``key``, which holds more than blanks and can be written as UTF-8."""
    if key not in value:
        known = "keys: " + (", ".join(repr(str(name)) for name in list(value)[:8]) or "none")
        close = did_you_mean(key, [str(name) for name in value])
        raise DataError(f"{where}: key {key!r} is missing ({known}){close}")
    text = value[key]
    if not isinstance(text, str):
        raise DataError(f"{where}: {key!r} must be a string, found {_kind(text)}")
    if not text.strip():
        raise DataError(f"{where}: {key!r} is empty; give it a text or delete the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {key!r} holds half a surrogate pair, {text[error.start]!r} at character "
            f"{error.start}; write the whole character"
        ) from error
    return text


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        close = did_you_mean(path.name, _names_beside(path))
        raise DataError(f"{path}: no such file{close}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _names_beside(path: Path) -> Iterable[str]:
    try:
        return sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return ()


def _json_of(line: bytes, where: str, offset_bytes: int) -> object:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError as error:
        advice = "the file is UTF-16" if line.startswith(_UTF16_MARKS) else "invalid UTF-8"
        raise DataError(
            f"{where}: {advice}: byte 0x{line[error.start]:02x} at offset "
            f"{offset_bytes + error.start} of the file; save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: bad JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of over 4,300 digits; deep nesting
        raise DataError(f"{where}: bad JSON: {_first_line(error)}") from error


def _reason(error: BaseException) -> str:
    """Returns the kind and first line of ``error``, and of its cause, which often tells more."""
    own = f"{type(error).__name__}: {_first_line(error)}"
    return own if error.__cause__ is None else f"{own} ({_first_line(error.__cause__)})"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
