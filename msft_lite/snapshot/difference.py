"""Words coded as differences from the words of another tensor, without loss, block by block.

The bits of a float, with all but the sign flipped where the sign is set, are integers in the order
of the floats. So a weight that moved little differs by a small integer, and the difference modulo
2**n gives every bit back, of a NaN too.

A block, of at most `BLOCK_WORDS` words: how many words changed (four bytes, little endian); the
stored length of every stream (four bytes each); the streams. These are a mask, a bit a word, the
first in the lowest bit, set where the word changed; and for each byte of a word, the lowest first,
that byte of every value. A value is the difference of a changed word, counted 0 for -1, 1 for 1, 2
for -2 and so on. Each stream is one zstd frame, or bare where zstd does not shorten it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from msft_lite.errors import SnapshotError

BLOCK_WORDS = 2**20  # two or four MiB: a block and what is made of it stay in the cache

_LEVEL = 1  # higher levels gain next to nothing

Words: TypeAlias = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
Unsigned: TypeAlias = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Buffer: TypeAlias = bytes | memoryview


def encode_block(words: Words, before: Words) -> bytes:
    """Returns ``words`` as differences from ``before``.

    Args:
        words: int16 or int32, (n,); n is at most `BLOCK_WORDS`.
        before: of the same dtype and shape.
    """
    differences = _ordered(words) - _ordered(before)
    is_changed = differences != 0
    # Chosen by index: choosing by a mask of random bits takes ten times as long.
    values = _counted(differences[np.flatnonzero(is_changed)])
    mask = np.packbits(is_changed, bitorder="little")
    codec = pa.Codec("zstd", compression_level=_LEVEL)
    streams = [_shorter(stream, codec) for stream in (mask, *_planes(values))]
    head = np.array([len(values), *map(len, streams)], dtype="<u4")
    return b"".join((head.tobytes(), *streams))


def decode_block(content: Buffer, before: Words) -> Words:
    """Returns the words that `encode_block` was given; memory stays within a few blocks.

    Raises:
        SnapshotError: ``content`` is not a block of so many words; the message has no place.
    """
    changed, *lengths = _head(content, before.itemsize)
    sizes = [(before.size + 7) // 8, *[changed] * before.itemsize]
    if changed > before.size:
        raise SnapshotError(f"{changed:,} changed words of {before.size:,}")
    codec = pa.Codec("zstd", compression_level=_LEVEL)
    streams, start = [], _head_bytes(before.itemsize)
    for length, size in zip(lengths, sizes, strict=True):
        streams.append(_plain(content[start : start + length], size, codec))
        start += length
    mask, *planes = streams
    is_changed = np.unpackbits(mask, count=before.size, bitorder="little").view(np.bool_)
    places = np.flatnonzero(is_changed)
    if len(places) != changed:
        raise SnapshotError(f"a mask of {len(places):,} changed words where {changed:,} are said")
    differences = np.zeros_like(before)
    differences[places] = _uncounted(_unplaned(planes, before.itemsize))
    return _ordered(_ordered(before) + differences)


def block_ends(content: Buffer, words: int, itemsize: int) -> list[int]:
    """Returns where each block of a tensor of so many words ends in ``content``.

    Raises:
        SnapshotError: ``content`` is not as long as its blocks say.
    """
    ends, end, head_bytes = [], 0, _head_bytes(itemsize)
    for _ in range(0, words, BLOCK_WORDS):
        _, *lengths = _head(content[end : end + head_bytes], itemsize)
        end += head_bytes + sum(lengths)
        ends.append(end)
    if end != len(content):
        raise SnapshotError(f"{len(content):,} bytes where its blocks say {end:,}")
    return ends


def _head_bytes(itemsize: int) -> int:
    return 4 * (2 + itemsize)


def _head(content: Buffer, itemsize: int) -> list[int]:
    size = _head_bytes(itemsize)
    if len(content) < size:
        raise SnapshotError("it ends within a block")
    return np.frombuffer(content, dtype="<u4", count=size // 4).tolist()


def _ordered(words: Words) -> Words:
    """Returns the words in the order of their floats; applied twice, the words again."""
    sign = words >> (8 * words.itemsize - 1)  # 0 or -1
    return words ^ (sign & np.iinfo(words.dtype).max)


def _counted(differences: Words) -> Unsigned:
    """Maps -1, 1, -2, 2, .. to 0, 1, 2, 3, ..; 0, which does not occur, to the largest value."""
    bits = 8 * differences.itemsize
    zigzag = (differences << 1) ^ (differences >> (bits - 1))
    return zigzag.view(f"u{differences.itemsize}") - 1


def _uncounted(values: Unsigned) -> Words:
    zigzag = values + 1
    signs = (zigzag & 1).view(f"i{values.itemsize}")
    return (zigzag >> 1).view(f"i{values.itemsize}") ^ -signs


def _planes(values: Unsigned) -> list[Bytes]:
    rows = values.view(np.uint8).reshape(-1, values.itemsize)
    return [np.ascontiguousarray(rows[:, byte]) for byte in range(values.itemsize)]


def _unplaned(planes: Sequence[Bytes], itemsize: int) -> Unsigned:
    return np.stack(planes, axis=1).reshape(-1).view(f"u{itemsize}")


def _shorter(stream: Bytes, codec: pa.Codec) -> Buffer:
    # As bytes: a memoryview of pyarrow's buffer is as long as what was reserved for it.
    compressed = codec.compress(stream.data, asbytes=True) if stream.size else b""
    return compressed if len(compressed) < stream.size else stream.data


def _plain(content: Buffer, size: int, codec: pa.Codec) -> Bytes:
    """Returns a stream's ``size`` bytes; no more is made, whatever the frame says."""
    if len(content) < size:
        try:
            content = codec.decompress(content, decompressed_size=size, asbytes=True)
        except OSError:
            raise SnapshotError(f"a stream is not zstd of {size:,} bytes") from None
    if len(content) != size:
        raise SnapshotError(f"a stream of {len(content):,} bytes where {size:,} are needed")
    return np.frombuffer(content, dtype=np.uint8)
