"""A snapshot's file that holds what differs from its parent; see docs/format.md.

A safetensors file whose entries are the coded tensors. What is written comes back bit by bit; that
it has is the store's to verify, by the id.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, BinaryIO, Literal, NoReturn, TypeAlias, TypeVar, cast

import numpy as np
import torch

from msft_lite.core import ROOT
from msft_lite.errors import SnapshotError
from msft_lite.model.weights import Kind, Weights
from msft_lite.snapshot.difference import (
    BLOCK_WORDS,
    Words,
    block_ends,
    decode_block,
    encode_block,
)
from msft_lite.snapshot.tensor_file import (
    DTYPES,
    Entry,
    Header,
    Piece,
    checked_form,
    dtype_name,
    json_object,
    raw_header,
    read_tensor,
    tensor_pieces,
)

FORMAT = "msft-lite snapshot 2"

_KEYS = {"dtype", "shape", "coding", "sha256"}
_CODED_SIZES = (2, 4)  # bytes of a word; all that is trained is made of these
_WORDS = {2: torch.int16, 4: torch.int32}
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

T = TypeVar("T")
Coding: TypeAlias = Literal["same", "delta", "full"]


@dataclass(frozen=True, slots=True)
class Form:
    """What is known of a tensor before its values are."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def fits(self, tensor: torch.Tensor) -> bool:
        """Returns whether ``tensor`` has this dtype and shape."""
        return tensor.dtype == self.dtype and tuple(tensor.shape) == self.shape


# Gives the tensor of that name, dtype and shape, contiguous, on the host; None: it has none.
Source: TypeAlias = Callable[[Form], torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class _Part:
    """A tensor as the file describes it."""

    form: Form
    coding: Coding
    sha256: str


def write_delta(file: BinaryIO, weights: Weights, *, parent: str, source: Source) -> None:
    """Writes ``weights`` as what differs from ``parent``.

    Beside the weights, memory holds one tensor of the parent and at most as much again.

    Args:
        file: empty.
        weights: what `read_delta` gives back.
        parent: id of the snapshot that ``source`` reads, or ``root``.
        source: gives the parent's tensors one by one.

    Raises:
        SnapshotError: a tensor's dtype or name cannot be stored.
        OSError: of ``file``.
    """
    tensors = weights.tensors
    most = [_Part(_form(name, tensors[name]), "delta", "0" * 64) for name in sorted(tensors)]
    # The header comes first and its length is known last: no part is longer than its tensor.
    room = len(_header(weights.kind, parent, most, [part.form.size_bytes for part in most]))
    file.write(bytes(room))
    parts, lengths = [], []
    with ThreadPoolExecutor(1) as aside:
        for form in (part.form for part in most):
            tensor = tensors[form.name].detach().cpu().contiguous()
            digest = aside.submit(_sha256, tensor)
            coding, pieces = _coded(tensor, source(form))
            lengths.append(sum(file.write(piece) for piece in pieces))
            parts.append(_Part(form, coding, digest.result()))
    file.seek(0)
    file.write(_header(weights.kind, parent, parts, lengths, least_bytes=room))


def parent_of(header: Header, *, where: str) -> str:
    """Returns the id of the snapshot that a file of this format is stored against, or ``root``.

    Raises:
        SnapshotError: the header names none.
    """
    parent = header.metadata.get("parent", "")
    if parent != ROOT and not _SHA256.fullmatch(parent):
        _refuse(where, f"its parent is {parent[:80]!a}, not the id of a snapshot")
    return parent


def read_delta(
    file: BufferedIOBase, header: Header, *, source: Source, where: str
) -> tuple[Weights, Mapping[str, str]]:
    """Returns the weights in ``file`` and the sha256 that it claims of every tensor.

    Args:
        file: of which ``header`` was read.
        header: of this format.
        source: gives the tensors of the parent.
        where: begins every message.

    Raises:
        SnapshotError: the file is not of this format, or does not fit its parent.
    """
    kind = header.metadata.get("kind")
    if kind not in ("adapter", "full"):
        _refuse(where, f"its kind is {str(kind)[:60]!a}, not 'adapter' or 'full'")
    reader = DeltaFile(file, header, source=source, where=where)
    return Weights(cast(Kind, kind), reader.tensors()), reader.claims()


class DeltaFile:
    """An open file of this format, read tensor by tensor."""

    def __init__(self, file: BufferedIOBase, header: Header, *, source: Source, where: str) -> None:
        """Takes what `read_delta` takes, and checks what the header says of every tensor."""
        self._file, self._header, self._source, self._where = file, header, source, where
        described = json_object(header.metadata.get("tensors", ""), where)
        entries = {entry.name: entry for entry in header.entries}
        if described.keys() != entries.keys():
            _refuse(where, "its entries are not the tensors that it describes")
        parts = (_checked_part(name, value, where) for name, value in described.items())
        self._parts = {part.form.name: (part, entries[part.form.name]) for part in parts}
        for part, entry in self._parts.values():
            _check_length(part, entry, where)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns all tensors.

        Raises:
            SnapshotError: one cannot be decoded.
        """
        return {name: self._decoded(*found) for name, found in self._parts.items()}

    def claims(self) -> dict[str, str]:
        """Returns the sha256 that the file claims of every tensor."""
        return {name: part.sha256 for name, (part, _) in self._parts.items()}

    def __call__(self, form: Form) -> torch.Tensor | None:
        """Returns one tensor, for the file is a `Source` to its children."""
        part, entry = self._parts.get(form.name, (None, None))
        if part is None or entry is None or part.form != form:
            return None
        return self._decoded(part, entry)

    def _decoded(self, part: _Part, entry: Entry) -> torch.Tensor:
        where = f"{self._where}: tensor {entry.name!a}"
        content = read_tensor(self._file, self._header, entry, where=self._where)
        if part.coding == "full":
            return content.view(part.form.dtype).reshape(part.form.shape)
        before = self._source(part.form)
        if before is None:
            _refuse(where, "its parent has none of this name, dtype and shape")
        if part.coding == "same":
            return before.clone()
        try:
            return _added(before, content.numpy().data)
        except SnapshotError as error:
            _refuse(where, str(error))


def full_source(file: BufferedIOBase, header: Header, *, where: str) -> Source:
    """Returns the tensors of an open file that holds them as they are."""
    entries = {Form(e.name, e.dtype, e.shape): e for e in header.entries}

    def tensor(form: Form) -> torch.Tensor | None:
        entry = entries.get(form)
        return None if entry is None else read_tensor(file, header, entry, where=where)

    return tensor


def weights_source(weights: Weights) -> Source:
    """Returns the tensors of ``weights``."""

    def tensor(form: Form) -> torch.Tensor | None:
        found = weights.tensors.get(form.name)
        return found if found is not None and form.fits(found) else None

    return tensor


def first_changed(weights: Weights, claims: Mapping[str, str]) -> str:
    """Returns the name of the first tensor that is not what was claimed of it, or nothing."""
    wrong = (name for name, found in weights.tensors.items() if _sha256(found) != claims[name])
    return next(wrong, "")


def _header(
    kind: Kind, parent: str, parts: Iterable[_Part], lengths: Iterable[int], *, least_bytes: int = 0
) -> bytes:
    described = {
        part.form.name: {
            "dtype": _NAMES[part.form.dtype],
            "shape": list(part.form.shape),
            "coding": part.coding,
            "sha256": part.sha256,
        }
        for part in parts
    }
    entries = {
        name: torch.empty(length, dtype=torch.uint8, device="meta")
        for name, length in zip(described, lengths, strict=True)
    }
    metadata = {
        "format": FORMAT,
        "kind": kind,
        "parent": parent,
        "tensors": json.dumps(described, separators=(",", ":")),
    }
    return raw_header(entries, metadata, least_bytes=least_bytes)


def _form(name: str, tensor: torch.Tensor) -> Form:
    dtype_name(name, tensor)
    return Form(name, tensor.dtype, tuple(tensor.shape))


def _checked_part(name: str, value: Any, where: str) -> _Part:
    if not isinstance(value, dict) or value.keys() != _KEYS:
        _refuse(where, f"tensor {name!a}: {', '.join(sorted(_KEYS))} are expected")
    dtype, shape = checked_form(name, value["dtype"], value["shape"], where)
    coding, sha256 = value["coding"], value["sha256"]
    if coding not in ("same", "delta", "full"):
        _refuse(where, f"tensor {name!a}: unknown coding {str(coding)[:20]!a}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        _refuse(where, f"tensor {name!a}: it has no sha256")
    return _Part(Form(name, dtype, shape), coding, sha256)


def _check_length(part: _Part, entry: Entry, where: str) -> None:
    """Refuses a tensor whose coded bytes are none, or more than its coding makes."""
    length, size = entry.end - entry.start, part.form.size_bytes
    fits = {
        "same": length == 0,
        "delta": length < size and part.form.dtype.itemsize in _CODED_SIZES,
        "full": length == size,
    }
    if entry.dtype is not torch.uint8 or len(entry.shape) != 1 or not fits[part.coding]:
        _refuse(
            where,
            f"tensor {part.form.name!a}: an entry of {length:,} bytes is no {part.coding!r} of "
            f"{size:,}",
        )


def _coded(tensor: torch.Tensor, before: torch.Tensor | None) -> tuple[Coding, Iterable[Piece]]:
    if before is not None and _is_same(tensor, before):
        return "same", ()
    if before is not None and tensor.element_size() in _CODED_SIZES:
        blocks = _in_threads(encode_block, _blocks(_words(tensor)), _blocks(_words(before)))
        if sum(map(len, blocks)) < tensor.nbytes:
            return "delta", blocks
    return "full", tensor_pieces(tensor)


def _added(before: torch.Tensor, content: memoryview) -> torch.Tensor:
    """Returns the tensor that ``content`` makes of its parent's."""
    words = _words(before)
    tensor = torch.empty_like(before, memory_format=torch.contiguous_format)
    into = _words(tensor)
    ends = block_ends(content, words.size, words.itemsize)
    cut = [content[start:end] for start, end in itertools.pairwise([0, *ends])]

    def add(block: memoryview, parent: Words, target: Words) -> None:
        target[:] = decode_block(block, parent)

    _in_threads(add, cut, _blocks(words), _blocks(into))
    return tensor


def _is_same(tensor: torch.Tensor, before: torch.Tensor) -> bool:
    one, other = (t.reshape(-1).view(torch.uint8).numpy() for t in (tensor, before))
    return np.array_equal(one, other)


def _words(tensor: torch.Tensor) -> Words:
    """Returns the memory of a contiguous tensor as one row of signed integers."""
    return tensor.reshape(-1).view(_WORDS[tensor.element_size()]).numpy()


def _blocks(words: Words) -> list[Words]:
    return [words[start : start + BLOCK_WORDS] for start in range(0, words.size, BLOCK_WORDS)]


def _sha256(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for piece in tensor_pieces(tensor):
        digest.update(piece)
    return digest.hexdigest()


def _in_threads(work: Callable[..., T], *arguments: Sequence[Any]) -> list[T]:
    """Returns what ``work`` makes of the first of all arguments, of the second, and so on."""
    threads = min(len(arguments[0]), torch.get_num_threads())
    if threads < 2:
        return list(map(work, *arguments))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, *arguments))


def _refuse(where: str, problem: str) -> NoReturn:
    raise SnapshotError(f"{where}: {problem}")
