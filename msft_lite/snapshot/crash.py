"""The one crash copy: the optimizer's moments and the counters at the latest mark.

A run keeps moments nowhere else on disk. The file is replaced at every mark; a killed run goes on
from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import torch

from msft_lite.errors import DamagedCrashCopy, SnapshotError, resume_command
from msft_lite.snapshot.durable import PARTIAL, replacing
from msft_lite.snapshot.tensor_file import (
    Header,
    data_bytes,
    data_pieces,
    raw_header,
    read_data,
    read_header,
)

FORMAT = "msft-lite crash copy 1"

_DAMAGED = "the crash copy is damaged"
_BLANK = b"0" * 64  # stands for the checksum while the checksum is computed


def save_crash_copy(
    path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]
) -> None:
    """Replaces the crash copy at ``path``; when this returns it survives a power cut.

    Args:
        path: ``crash.safetensors`` in the run's folder.
        tensors: on any device; they are copied to the host one at a time.
        state: JSON values; comes back equal, but for tuples, which come back as lists.

    Raises:
        StorageError: the disk is full, read-only or gone; the crash copy before is intact.
        SnapshotError: a tensor's dtype cannot be stored, or the state is over 16 MiB of JSON.
    """
    text = json.dumps(state, allow_nan=False, separators=(",", ":"))
    metadata = {"format": FORMAT, "sha256": _BLANK.decode(), "state": text}
    header = raw_header(tensors, metadata)
    digest = hashlib.sha256(header)
    with replacing(path, bytes_needed=len(header) + data_bytes(tensors)) as file:
        file.write(header)
        for piece in data_pieces(tensors):
            digest.update(piece)
            file.write(piece)
        file.seek(header.index(_BLANK))
        file.write(digest.hexdigest().encode())


def crash_copy_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Returns the length of a crash copy of ``tensors``, but for its state."""
    metadata = {"format": FORMAT, "sha256": _BLANK.decode(), "state": ""}
    return len(raw_header(tensors, metadata)) + data_bytes(tensors)


def load_crash_copy(
    path: Path, *, reads_only: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Returns the tensors and the state saved last, or None if there is no crash copy.

    Also removes what a killed process had half-written beside it, unless it ``reads_only``.

    Raises:
        DamagedCrashCopy: it cannot be read, or a bit is not as it was written.
        SnapshotError: it is of another format.
    """
    if not reads_only:
        path.with_name(path.name + PARTIAL).unlink(missing_ok=True)
    try:
        with path.open("rb") as file:
            header = read_header(file, size_bytes=os.fstat(file.fileno()).st_size, where=_DAMAGED)
            found = header.metadata.get("format")
            if found == FORMAT:
                return _read(file, header)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedCrashCopy(f"{path}: cannot read: {error.strerror or error}") from error
    except SnapshotError as error:
        raise DamagedCrashCopy(f"{path}: {error}") from error
    raise SnapshotError(
        f"{path}: its format is {str(found)[:60]!a}, not {FORMAT!a}; go on with the version that "
        f"wrote it, or delete it and go on with: {resume_command(path.parent)} (what it holds is "
        "trained again)"
    )


def told_state(path: Path) -> dict[str, Any]:
    """Returns what the crash copy says of itself, unverified; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            return _state(read_header(file, size_bytes=size_bytes, where=path.name), path.name)
    except (OSError, SnapshotError):
        return {}


def _read(file: BufferedIOBase, header: Header) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    checksum = header.metadata.get("sha256", "")
    if len(checksum) != len(_BLANK) or not checksum.isascii():
        raise SnapshotError(f"{_DAMAGED}: it has no checksum")
    digest = hashlib.sha256(header.raw.replace(checksum.encode(), _BLANK, 1))
    tensors = read_data(file, header, where=_DAMAGED, on_piece=digest.update)
    if digest.hexdigest() != checksum:
        raise SnapshotError(f"{_DAMAGED}: its checksum does not fit its bytes")
    return tensors, _state(header, _DAMAGED)


def _state(header: Header, where: str) -> dict[str, Any]:
    try:
        state = json.loads(header.metadata.get("state", ""))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise SnapshotError(f"{where}: its state is not a JSON object")
    return cast(dict[str, Any], state)
