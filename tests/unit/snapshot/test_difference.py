"""The coding of one block of words; whole snapshots are in tests/property/test_delta_codec.py."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from msft_lite.errors import SnapshotError
from msft_lite.snapshot import difference
from msft_lite.snapshot.difference import decode_block, encode_block


@pytest.mark.parametrize("dtype", ["<i2", "<i4"])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 1000])
def test_a_block_gives_back_every_word(dtype: str, size: int) -> None:
    chance = np.random.default_rng(size)
    bounds = np.iinfo(dtype)
    before = chance.integers(bounds.min, bounds.max, size, dtype=dtype, endpoint=True)
    extremes = np.resize(np.array([bounds.min, bounds.max, 0, -1, 1], dtype=dtype), size)
    for words in (before, before + extremes, extremes, np.where(before % 3 == 0, ~before, before)):
        assert np.array_equal(decode_block(encode_block(words, before), before), words)
        assert np.array_equal(decode_block(encode_block(before, words), words), before)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_a_block_takes_little_more_than_its_entropy(share: float) -> None:
    """Words that move by one, up or down alike, with a chance of ``share``."""
    chance = np.random.default_rng(5)
    before = chance.integers(-(2**15), 2**15, 2**17, dtype="<i2")
    step = np.where(chance.random(2**17) < 0.5, 1, -1) * (chance.random(2**17) < share)
    words = difference._ordered(difference._ordered(before) + step.astype("<i2"))
    bits_a_word = share - share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert len(encode_block(words, before)) < 1.5 * bits_a_word * 2**17 / 8


# Hostile blocks


def block_of(*, changed: int, streams: tuple[bytes, bytes, bytes]) -> bytes:
    lengths = [changed, *map(len, streams)]
    return np.array(lengths, dtype="<u4").tobytes() + b"".join(streams)


def bomb() -> bytes:
    """A zstd frame of a few kB that claims, and gives, 256 MiB."""
    return pa.Codec("zstd").compress(bytes(2**28), asbytes=True)


BLOCKS = {
    "nothing": (b"", "it ends within a block"),
    "lengths beyond the end": (
        np.array([1, 2**32 - 1, 2**32 - 1, 2**32 - 1], dtype="<u4").tobytes(),
        "bytes where its blocks say",
    ),
    "more changed than words": (
        block_of(changed=1000, streams=(b"\xff" * 2, b"", b"")),
        "1,000 changed words of 16",
    ),
    "a mask of others": (
        block_of(changed=3, streams=(b"\xff\0", b"abc", b"abc")),
        "a mask of 8 changed words where 3 are said",
    ),
    "no zstd": (block_of(changed=3, streams=(b"\x07\0", b"ab", b"abc")), "not zstd of 3 bytes"),
    "too long": (block_of(changed=3, streams=(b"\x07\0", b"abcd", b"abc")), "of 4 bytes where 3"),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_a_hostile_block_is_refused(case: str) -> None:
    content, problem = BLOCKS[case]
    before = np.zeros(16, dtype="<i2")
    with pytest.raises(SnapshotError, match=problem):
        difference.block_ends(content, 16, 2)
        decode_block(content, before)


def test_a_frame_that_unpacks_to_more_than_is_needed_takes_no_memory() -> None:
    frame = bomb()
    before = np.zeros(2**20, dtype="<i2")
    mask = np.packbits(np.ones(2**20, dtype=bool)).tobytes()
    assert len(frame) < 2**20
    tracemalloc.start()
    with pytest.raises(SnapshotError, match="not zstd of 1,048,576 bytes"):
        decode_block(block_of(changed=2**20, streams=(mask, frame, frame)), before)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16 * 2**20
