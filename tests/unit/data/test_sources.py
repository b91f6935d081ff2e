"""Files as people write them: good, odd and broken."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from msft_lite.data.sources import Row, read_hub, read_jsonl
from msft_lite.errors import DataError

GOOD = b'{"prompt": "Q: 1+1\\nA: ", "answer": "#### 2"}'
CHAT = b'{"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}'


def rows_of(folder: Path, content: bytes) -> tuple[Row, ...]:
    path = folder / "add.jsonl"
    path.write_bytes(content)
    return read_jsonl(path)


def test_plain_and_chat_rows(tmp_path: Path) -> None:
    plain, chat = rows_of(tmp_path, GOOD + b"\n" + CHAT)
    assert plain == Row(f"{tmp_path}/add.jsonl, line 1", "Q: 1+1\nA: ", "#### 2")
    assert chat.messages == (("user", "1+1"), ("assistant", "2"))
    assert (chat.prompt, chat.answer) == ("1+1", "2")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (GOOD, [1]),
        (GOOD + b"\n", [1]),
        (b"\xef\xbb\xbf" + GOOD, [1]),
        (GOOD + b"\r\n" + GOOD + b"\r\n", [1, 2]),
        (b"\n  \n" + GOOD + b"\n\r\n" + GOOD + b"\n\n", [3, 5]),
        (b'  {"prompt": "a", "answer": "b", "id": 7, "x": NaN}  ', [1]),
        ('{"prompt": "a\u2028b\u0085c", "answer": "\u00e9\U0001f600"}'.encode(), [1]),
        (b'{"prompt": "\\ud83d\\ude00", "answer": "b"}', [1]),
        (b'{"prompt": "a", "answer": "b", "messages_": null}', [1]),
        (CHAT[:-1] + b', "prompt": "as some hub datasets have it"}', [1]),
    ],
)
def test_tolerated(tmp_path: Path, content: bytes, lines: list[int]) -> None:
    rows = rows_of(tmp_path, content)
    assert [row.where for row in rows] == [f"{tmp_path}/add.jsonl, line {n}" for n in lines]
    assert all("\r" not in row.answer for row in rows)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'{"prompt": "a", "answer": "b"', "bad JSON: Expecting ',' delimiter at column 30"),
        (b"{'prompt': 'a'}", "bad JSON"),
        (GOOD + GOOD, "bad JSON: Extra data"),
        (b'{"prompt": "a\x01", "answer": "b"}', "bad JSON: Invalid control character"),
        (b'{"prompt": "a", "answer": "b", "n": ' + b"9" * 5000 + b"}", "bad JSON: Exceeds"),
        (b"[" * 200_000, "bad JSON"),
        (b"17", "expected an object, found a number"),
        (b"null", "expected an object, found null"),
        (b"[" + GOOD + b"]", "found a list; is the file one JSON array"),
        (b"{}", r"key 'prompt' is missing \(keys: none\)"),
        (b'{"promt": "a", "answer": "b"}', "key 'prompt' is missing.*did you mean 'promt'"),
        (b'{"prompt": "a", "Answer": "b"}', "key 'answer' is missing.*did you mean 'Answer'"),
        (b'{"prompt": 5, "answer": "b"}', "'prompt' must be a string, found a number"),
        (b'{"prompt": "a", "answer": true}', "'answer' must be a string, found true or false"),
        (b'{"prompt": "a", "answer": null}', "'answer' must be a string, found null"),
        (b'{"prompt": "a", "answer": ["b"]}', "'answer' must be a string, found a list"),
        (b'{"prompt": "a", "answer": ""}', "'answer' is empty"),
        (b'{"prompt": "a", "answer": " \\n"}', "'answer' is empty"),
        (b'{"prompt": "", "answer": "b"}', "'prompt' is empty"),
        (
            b'{"prompt": "ab\\ud83d", "answer": "b"}',
            r"half a surrogate pair, '\\ud83d' at char.* 2",
        ),
        (b'{"prompt": "\xff", "answer": "b"}', "invalid UTF-8: byte 0xff at offset 58 of the file"),
        (b'{"messages": {}}', "'messages' must be a list, found an object"),
        (b'{"messages": []}', "a chat needs at least one message.*found 0"),
        (b'{"messages": [{"role": "assistant", "content": "2"}]}', "found 1"),
        (b'{"messages": [1]}', "message 1: expected an object"),
        (b'{"messages": [{"role": "user"}]}', "message 1: key 'content' is missing"),
        (b'{"messages": [{"role": "user", "content": [1]}]}', "message 1: 'content' must be a str"),
        (CHAT.replace(b"assistant", b"user"), "the last from 'user'"),
        (CHAT[:-1] + b', "prompt": "a", "answer": "b"}', "as well as messages"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, bad: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        rows_of(tmp_path, GOOD + b"\n" + bad + b"\n" + GOOD)
    assert str(caught.value).startswith(f"{tmp_path}/add.jsonl, line 2")
    str(caught.value).encode()  # can be printed


def test_offset_counts_the_byte_order_mark(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="byte 0xff at offset 3 "):
        rows_of(tmp_path, b"\xef\xbb\xbf\xff")


def test_utf16_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: the file is UTF-16"):
        rows_of(tmp_path, GOOD.decode().encode("utf-16"))


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_file_without_rows(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"add\.jsonl, line 1: the file ends before any row"):
        rows_of(tmp_path, content)


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / "add.control.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"no such file; did you mean 'add\.control\.jsonl'"):
        read_jsonl(tmp_path / "add.contrl.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_jsonl(tmp_path / "absent" / "add.jsonl")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_jsonl(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_jsonl(Path("a\0b"))


def test_mutated_files_give_rows_or_a_place(tmp_path: Path) -> None:
    seed_file = b"\n".join([GOOD, CHAT, '{"prompt": "é€", "answer": "\\u00e9"}'.encode()] * 3)
    tokens = [b'"', b"\\", b"\\u", b"{", b"}", b"[", b",", b"\n", b"\r", b"\0", b"\xff", b"\xc3"]
    tokens += [b"null", b"1e999", b"NaN", b"\\ud800", b'"answer"', b"\xef\xbb\xbf", b"\xe2\x80\xa8"]
    source, refused = random.Random(5), 0
    path = tmp_path / "fuzz.jsonl"
    for _ in range(300):
        content = bytearray(seed_file)
        for _ in range(source.randint(1, 4)):
            first = source.randrange(len(content) + 1)
            last = min(len(content), first + source.choice([0, 0, 1, 2, 9, 200]))
            content[first:last] = source.choice([*tokens, source.randbytes(2), b""])
        path.write_bytes(content)
        try:
            rows = read_jsonl(path)
        except DataError as error:
            refused += 1
            assert str(error).startswith(f"{path}, line ")
            str(error).encode()
        else:
            assert rows
            assert all((row.prompt + row.answer).encode() for row in rows)
    assert 50 < refused < 300


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder in the form of a hub dataset."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "addition"
    folder.mkdir()
    lines = [{"prompt": f"Q: {i}+1\nA: ", "answer": f"#### {i + 1}", "id": i} for i in range(5)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "test.jsonl").write_text(json.dumps({"prompt": "a", "answer": "", "id": 1}))
    return folder


@pytest.mark.filterwarnings("ignore")  # of datasets and its dependencies
def test_hub_rows(hub_folder: Path) -> None:
    rows = read_hub(str(hub_folder), "train[:3]")
    assert [row.answer for row in rows] == ["#### 1", "#### 2", "#### 3"]
    assert rows[2].where == f"dataset {hub_folder}, split train[:3], row 2"


@pytest.mark.filterwarnings("ignore")  # of datasets and its dependencies
def test_hub_errors(hub_folder: Path) -> None:
    with pytest.raises(DataError, match="split 'validation' cannot be loaded: ValueError"):
        read_hub(str(hub_folder), "validation")
    with pytest.raises(DataError, match="cannot be loaded.*a local JSON-lines file"):
        read_hub("./absent", "train")
    with pytest.raises(DataError, match="row 0: 'answer' is empty"):
        read_hub(str(hub_folder), "test")


def test_hub_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_arguments: object, **_keywords: object) -> None:
        raise ConnectionError("Couldn't reach the Hub\nmore") from OSError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        DataError, match=r"rows:main'.*: Couldn't reach the Hub \(no route\); check"
    ):
        read_hub("someone/rows:main", "train")
