"""Reading and writing safetensors files piece by piece, believing nothing that a file says.

The safetensors library reads what is written here and the other way round. It is not used because
a snapshot is hashed while it streams, its bytes must be the same every time (the library orders
metadata at random), and a full disk must stay recognisable as such.

Layout: eight bytes with the header's length (little endian), the header (JSON, padded with spaces
to a multiple of eight bytes), the tensors' bytes without gaps. Tensors are ordered by falling
element size, then by name, so that each is aligned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, NoReturn, cast

import torch

from msft_lite.errors import SnapshotError

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
MAX_HEADER_BYTES = 16 * 2**20  # about 100,000 tensors; a damaged length must not fill the memory
PIECE_BYTES = 16 * 2**20

_METADATA = "__metadata__"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_DIMENSIONS = 16
_MAX_ELEMENTS = 2**60  # torch multiplies sizes in 64 bits, zeros counted as ones

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor stands; offsets are in bytes, from the end of the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The checked header of a file.

    Attributes:
        entries: tensors in the order of their bytes, which follow each other without gaps.
        metadata: the writer's own strings.
        raw: the header as it stands in the file, the eight bytes of its length included.
    """

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    raw: bytes


def raw_header(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], *, least_bytes: int = 0
) -> bytes:
    """Returns the first bytes of the file that holds ``tensors``; equal arguments, equal bytes.

    Args:
        tensors: of which only dtype and shape are looked at: those of the meta device will do.
        metadata: the writer's own strings.
        least_bytes: a shorter header is padded with spaces to this multiple of 8.

    Raises:
        SnapshotError: a tensor's dtype or name cannot be stored, or the header would be too long.
    """
    described: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))}
    end = 0
    for name in _order(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        described[name] = {
            "dtype": dtype_name(name, tensor),
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * max(-len(text) % 8, least_bytes - 8 - len(text))
    if len(text) > MAX_HEADER_BYTES:
        raise SnapshotError(f"a header of {len(text):,} bytes; {MAX_HEADER_BYTES:,} is the most")
    return len(text).to_bytes(8, "little") + text


def data_pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[Piece]:
    """Yields the bytes that follow the header, at most `PIECE_BYTES` at once.

    Tensors may be on any device and of any stride; one at a time is copied where it has to be.
    """
    for name in _order(tensors):
        yield from tensor_pieces(tensors[name])


def tensor_pieces(tensor: torch.Tensor) -> Iterator[Piece]:
    """Yields the bytes of one tensor, at most `PIECE_BYTES` at once."""
    content = _bytes_of(tensor.detach().cpu().contiguous())
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def data_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Returns how many bytes follow the header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def read_header(file: BufferedIOBase, *, size_bytes: int, where: str) -> Header:
    """Reads and checks the header; nothing of the tensors is read.

    Args:
        file: stands at its first byte.
        size_bytes: length of the whole file.
        where: begins every message.

    Raises:
        SnapshotError: the file is truncated, damaged or not of this layout.
    """
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size_bytes - 8:
        _refuse(where, f"truncated or not a safetensors file ({size_bytes:,} bytes)")
    if length > MAX_HEADER_BYTES:
        _refuse(where, f"its header claims {length:,} bytes; {MAX_HEADER_BYTES:,} is the most")
    text = file.read(length)
    if len(text) < length:
        _refuse(where, "truncated within its header")
    fields = json_object(text, where)
    metadata = _checked_metadata(fields.pop(_METADATA, {}), where)
    entries = [_checked_entry(name, value, where) for name, value in fields.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_gapless(entries, size_bytes - 8 - length, where)
    return Header(tuple(entries), metadata, prefix + text)


def read_data(
    file: BufferedIOBase, header: Header, *, where: str, on_piece: Callable[[Piece], object]
) -> dict[str, torch.Tensor]:
    """Reads the tensors that follow ``header``, each into memory of its own.

    Args:
        file: stands at the first byte after the header.
        header: from `read_header`.
        where: begins every message.
        on_piece: is shown every byte read, in order; for a checksum.

    Raises:
        SnapshotError: the file ends early, or a tensor does not fit into memory.
    """
    return {entry.name: _tensor(file, entry, where, on_piece) for entry in header.entries}


def read_tensor(file: BufferedIOBase, header: Header, entry: Entry, *, where: str) -> torch.Tensor:
    """Reads one of the tensors that follow ``header``, wherever ``file`` stands.

    Raises:
        SnapshotError: as of `read_data`.
    """
    file.seek(len(header.raw) + entry.start)
    return _tensor(file, entry, where, lambda _: None)


def _tensor(
    file: BufferedIOBase, entry: Entry, where: str, on_piece: Callable[[Piece], object]
) -> torch.Tensor:
    try:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
    except (RuntimeError, MemoryError):
        _refuse(where, f"no memory for {entry.name!a} of {entry.end - entry.start:,} bytes")
    content = _bytes_of(tensor)
    for start in range(0, len(content), PIECE_BYTES):
        piece = content[start : start + PIECE_BYTES]
        try:
            is_filled = _filled(file, piece)
        except OSError as error:  # a bad sector, a network file system that is gone
            _refuse(where, f"tensor {entry.name!a}: cannot read: {error.strerror or error}")
        if not is_filled:
            _refuse(where, f"truncated within tensor {entry.name!a}")
        on_piece(piece)
    return tensor


def _order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Returns the memory of a contiguous tensor on the host, writable, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def dtype_name(name: str, tensor: torch.Tensor) -> str:
    """Returns how a file calls the dtype of the tensor of that name.

    Raises:
        SnapshotError: dtype or name cannot be stored.
    """
    if name == _METADATA or not _is_text(name):
        raise SnapshotError(f"a tensor cannot be stored under the name {name!a}")
    if tensor.dtype not in _NAMES:
        raise SnapshotError(f"tensor {name!a}: dtype {tensor.dtype} cannot be stored")
    return _NAMES[tensor.dtype]


def _filled(file: BufferedIOBase, piece: memoryview) -> bool:
    """Fills ``piece`` from ``file``; returns whether the file was long enough."""
    done = 0
    while done < len(piece):
        count = file.readinto(piece[done:])
        if not count:
            return False
        done += count
    return True


def _refuse(where: str, problem: str) -> NoReturn:
    raise SnapshotError(f"{where}: {problem}")


def json_object(text: bytes | str, where: str) -> dict[str, Any]:
    """Returns the JSON object that ``text`` is.

    Raises:
        SnapshotError: it is none, or says a key twice.
    """

    def without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                _refuse(where, f"its header says {key!a} twice")
            found[key] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):  # bytes that are not UTF-8 and endless digits included
        _refuse(where, "its header is not JSON")
    if not isinstance(value, dict):
        _refuse(where, "its header is not a JSON object")
    return cast(dict[str, Any], value)


def _checked_metadata(value: Any, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _refuse(where, "its metadata is not a table of strings")
    return cast(dict[str, str], value)


def _checked_entry(name: str, value: Any, where: str) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(where, f"tensor {name!a}: dtype, shape and data_offsets are expected")
    if not _is_text(name):
        _refuse(where, f"tensor {name!a}: its name is not text")
    dtype, shape = checked_form(name, value["dtype"], value["shape"], where)
    offsets = value["data_offsets"]
    if not _are_counts(offsets) or len(offsets) != 2:
        _refuse(where, f"tensor {name!a}: data_offsets are not two byte counts")
    entry = Entry(name, dtype, shape, offsets[0], offsets[1])
    if entry.end - entry.start != math.prod(shape) * entry.dtype.itemsize:
        _refuse(where, f"tensor {name!a}: its shape and its number of bytes differ")
    return entry


def checked_form(
    name: str, dtype: Any, shape: Any, where: str
) -> tuple[torch.dtype, tuple[int, ...]]:
    """Returns dtype and shape of a tensor as a file says them.

    Raises:
        SnapshotError: they are no such things, or of a size that no tensor has.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _refuse(where, f"tensor {name!a}: unknown dtype {str(dtype)[:20]!a}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        _refuse(where, f"tensor {name!a}: its shape is not a short list of sizes")
    if math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        _refuse(where, f"tensor {name!a}: its shape is too large")
    return DTYPES[dtype], tuple(shape)


def _is_text(name: str) -> bool:
    """Returns whether ``name`` has a form in UTF-8: half a surrogate pair has none."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_counts(value: Any) -> bool:
    # bool is an int to Python, but True is no size
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _check_gapless(entries: Iterable[Entry], data_size_bytes: int, where: str) -> None:
    end = 0
    for entry in entries:
        if entry.start != end:
            _refuse(where, f"tensor {entry.name!a} overlaps its neighbour or leaves a gap")
        end = entry.end
    if end != data_size_bytes:
        _refuse(where, f"truncated or too long: {data_size_bytes:,} bytes of {end:,} expected")
