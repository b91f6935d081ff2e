"""A snapshot's bytes: a safetensors file that says what it is; see docs/format.md."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from msft_lite.errors import SnapshotError
from msft_lite.model.weights import Kind, Weights
from msft_lite.snapshot.tensor_file import (
    Header,
    Piece,
    data_bytes,
    data_pieces,
    raw_header,
    read_data,
    read_header,
)

FORMAT = "msft-lite snapshot 1"


def pieces(weights: Weights) -> Iterator[Piece]:
    """Yields the bytes of a snapshot; equal weights give equal bytes on every machine.

    Raises:
        SnapshotError: a tensor's dtype cannot be stored.
    """
    yield _raw_header(weights)
    yield from data_pieces(weights.tensors)


def snapshot_id(weights: Weights) -> str:
    """Returns the sha256 of a snapshot's bytes in hexadecimal, without a copy of them."""
    digest = hashlib.sha256()
    for piece in pieces(weights):
        digest.update(piece)
    return digest.hexdigest()


def size_bytes(weights: Weights) -> int:
    """Returns the length of a snapshot's file."""
    return len(_raw_header(weights)) + data_bytes(weights.tensors)


def holds(path: Path, weights: Weights) -> bool:
    """Returns whether the file is ``weights`` bit by bit; holds one piece of it at a time.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        same = all(file.read(len(piece)) == piece for piece in pieces(weights))
        return same and not file.read(1)


def encode(weights: Weights) -> bytes:
    """Returns the whole snapshot; `decode` gives back the same bits."""
    return b"".join(pieces(weights))


def decode(content: bytes, *, where: str = "snapshot") -> Weights:
    """Returns the weights that `encode` was given.

    Only the form is checked: that no bit has changed is the store's to verify, by the id.

    Args:
        content: a whole file.
        where: begins every message.

    Raises:
        SnapshotError: ``content`` is not a snapshot of this version.
    """
    file = io.BytesIO(content)
    weights, _ = read(file, read_header(file, size_bytes=len(content), where=where), where=where)
    return weights


def read(file: io.BufferedIOBase, header: Header, *, where: str) -> tuple[Weights, str]:
    """Returns the weights in ``file`` and the sha256 of all its bytes, in hexadecimal.

    Memory stays within the length of the file and a few times its header.

    Args:
        file: stands behind ``header``, which was read of it.
        header: as it was read.
        where: begins every message.

    Raises:
        SnapshotError: the file is not a snapshot of this version.
    """
    kind = _kind(header, where)
    digest = hashlib.sha256(header.raw)
    tensors = read_data(file, header, where=where, on_piece=digest.update)
    return Weights(kind, tensors), digest.hexdigest()


def _raw_header(weights: Weights) -> bytes:
    return raw_header(weights.tensors, {"format": FORMAT, "kind": weights.kind})


def _kind(header: Header, where: str) -> Kind:
    found = header.metadata.get("format")
    if found != FORMAT:
        raise SnapshotError(f"{where}: its format is {str(found)[:60]!a}, not {FORMAT!a}")
    kind = header.metadata.get("kind")
    if kind not in ("adapter", "full"):
        raise SnapshotError(f"{where}: its kind is {str(kind)[:60]!a}, not 'adapter' or 'full'")
    return cast(Kind, kind)
