"""The cache of tokens: what hits, what is never believed, and disks that take nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import load, save

from msft_lite.data.token_cache import TokenCache, Tokens, key_of, tokenizer_digest

KEY = "a" * 64
PLAIN = [Tokens((1, 2, 3)), Tokens(()), Tokens((255,))]
PLACED = [Tokens((1, 2), ((0, 1), (1, 4))), Tokens(()), Tokens((7,), ((0, 2),))]
EMPTY: list[Tokens] = []


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


def file_of(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("tokens", [PLAIN, PLACED, EMPTY, [Tokens(())]])
def test_what_was_written_is_read(tmp_path: Path, tokens: list[Tokens]) -> None:
    cache = TokenCache(tmp_path / "new" / "folder")
    assert cache.read(KEY, vocabulary=256) is None
    cache.write(KEY, tokens)
    assert TokenCache(tmp_path / "new" / "folder").read(KEY, vocabulary=256) == tokens
    assert file_of(tmp_path / "new" / "folder").name == f"{KEY}.safetensors"
    assert cache.problem == ""


def arrays_changed(**changes: Any) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        return save({**load(content), **changes})

    return change


def flipped(place: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[place] ^= 1
        return bytes(damaged)

    return change


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "header": flipped(0),
    "last byte": flipped(-1),
    "another file": lambda content: save({"ids": numpy.zeros(3, numpy.int32)}),
    "an id": arrays_changed(ids=numpy.array([1, 2, 3, 4], numpy.int32)),
    "bounds": arrays_changed(bounds=numpy.array([0, 2, 3, 4], numpy.int64)),
    "type": arrays_changed(ids=numpy.array([1, 2, 3, 255], numpy.int64)),
    "seal": arrays_changed(seal=numpy.zeros(32, numpy.uint8)),
    "more": arrays_changed(other=numpy.zeros(1, numpy.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_removed(tmp_path: Path, damage: str) -> None:
    cache = TokenCache(tmp_path)
    cache.write(KEY, PLAIN)
    path = file_of(tmp_path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert cache.read(KEY, vocabulary=256) is None
    assert list(tmp_path.iterdir()) == []
    cache.write(KEY, PLAIN)
    assert cache.read(KEY, vocabulary=256) == PLAIN


def test_a_file_under_another_name_is_not_believed(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    cache.write(KEY, PLAIN)
    other = "b" * 64
    shutil.copy(file_of(tmp_path), tmp_path / f"{other}.safetensors")
    assert cache.read(other, vocabulary=256) is None
    assert cache.read(KEY, vocabulary=256) == PLAIN


@pytest.mark.parametrize(
    ("tokens", "vocabulary"), [(PLAIN, 255), ([Tokens((-1,))], 256), ([Tokens((1,))], 1)]
)
def test_ids_outside_the_vocabulary_are_not_believed(
    tmp_path: Path, tokens: list[Tokens], vocabulary: int
) -> None:
    cache = TokenCache(tmp_path)
    cache.write(KEY, tokens)
    assert cache.read(KEY, vocabulary=vocabulary) is None


@pytest.mark.parametrize("bounds", [[], [0], [1, 4], [0, 5], [0, 3, 2, 4], [-1, 4]])
def test_sealed_bounds_are_checked_all_the_same(tmp_path: Path, bounds: list[int]) -> None:
    """A file that this format allows but that no version of the code should have written."""
    from msft_lite.data.token_cache import seal

    arrays = {
        "ids": numpy.array([1, 2, 3, 4], numpy.int32),
        "bounds": numpy.array(bounds, numpy.int64),
        "places": numpy.zeros((0, 2), numpy.int32),
    }
    path = tmp_path / f"{KEY}.safetensors"
    path.write_bytes(save({**arrays, "seal": seal(arrays, KEY)}))
    assert TokenCache(tmp_path).read(KEY, vocabulary=256) is None


def test_a_folder_that_cannot_be_written_is_noted_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = TokenCache(tmp_path / "file")
    cache.write(KEY, PLAIN)
    assert cache.problem.startswith(f"the cache of tokens {tmp_path / 'file'} cannot be written: ")
    assert cache.problem.endswith("the run goes on without it")
    cache.write(KEY, PLAIN)
    assert cache.read(KEY, vocabulary=256) is None


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    import resource

    cache = TokenCache(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # every file ends at its 100th byte
    try:
        cache.write(KEY, [Tokens(tuple(range(200)))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in cache.problem
    assert list(tmp_path.iterdir()) == []


def test_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    rows = [Tokens(tuple(range(1000)))] * 50

    def write_and_read(_: int) -> bool:
        cache = TokenCache(tmp_path)
        cache.write(KEY, rows)
        return cache.read(KEY, vocabulary=1000) == rows and not cache.problem

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_read, range(24)))
    assert file_of(tmp_path).name == f"{KEY}.safetensors"


def test_keys_differ_where_anything_differs() -> None:
    texts = ["ab", "c"]
    keys = [
        key_of("t", texts, special=False, places=False),
        key_of("u", texts, special=False, places=False),
        key_of("t", texts, special=True, places=False),
        key_of("t", texts, special=False, places=True),
        key_of("t", ["a", "bc"], special=False, places=False),
        key_of("t", ["abc"], special=False, places=False),
        key_of("t", ["c", "ab"], special=False, places=False),
        key_of("t", ["ab", "c", ""], special=False, places=False),
        key_of("t", [], special=False, places=False),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == key_of("t", tuple(texts), special=False, places=False)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_the_digest_follows_the_tokenizer(tokenizer: Any) -> None:
    first = tokenizer_digest(tokenizer)
    tokenizer(["a", "bb"], padding=True, truncation=True, max_length=1)
    assert tokenizer_digest(tokenizer) == first  # traces of a call are none of the tokenizer's
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizer_digest(tokenizer) == first  # its effect is in the texts
    digests = [first]
    tokenizer.eos_token = "a"
    digests.append(tokenizer_digest(tokenizer))
    tokenizer.add_tokens(["word"])
    digests.append(tokenizer_digest(tokenizer))
    tokenizer.add_special_tokens({"bos_token": "<|start|>"})
    digests.append(tokenizer_digest(tokenizer))
    tokenizer.split_special_tokens = True
    digests.append(tokenizer_digest(tokenizer))
    assert len(set(digests)) == 5
