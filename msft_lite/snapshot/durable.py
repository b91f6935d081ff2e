"""Changing files so that a power cut, a full disk or a kill leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msft_lite.errors import StorageError, resume_command
from msft_lite.ledger import sync_folder

PARTIAL = ".partial"  # suffix of a file that is still being written

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


def write_durably(path: Path, data: bytes, *, run_folder: Path | None = None) -> None:
    """Replaces the file at ``path`` by ``data``; when this returns it survives a power cut.

    Args:
        path: the file; its folder exists.
        data: the whole new content.
        run_folder: the run that the user goes on with after an error; the file's folder by default.

    Raises:
        StorageError: the disk is full, read-only or gone; the file is as it was before.
    """
    with replacing(path, bytes_needed=len(data), run_folder=run_folder) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(
    path: Path, *, bytes_needed: int, run_folder: Path | None = None
) -> Iterator[BinaryIO]:
    """Opens a new file beside ``path`` that takes its place, durably, when the context ends.

    After any exception within the context the file at ``path`` is as it was before and nothing
    half-written stays.

    Args:
        path: the file to create or replace; its folder exists.
        bytes_needed: length of the new file, for the message.
        run_folder: as for `write_durably`.

    Raises:
        StorageError: an OSError while writing, translated.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        # Never written through: a link of that name would lead to someone else's file.
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(
                error, path, bytes_needed=bytes_needed, run_folder=run_folder
            ) from error
        raise


def remove_durably(path: Path) -> None:
    """Removes the file at ``path``, if there is one; when this returns, a power cut leaves it so.

    Raises:
        StorageError: its folder is read-only or gone.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path, bytes_needed=0) from error


def storage_error(
    error: OSError, path: Path, *, bytes_needed: int, run_folder: Path | None = None
) -> StorageError:
    """Returns the message for a failed write: what, where, room needed and free, what to do."""
    run = path.parent if run_folder is None else run_folder
    return StorageError(
        f"{path}: cannot write: {error.strerror or error} "
        f"({bytes_needed:,} bytes needed, {_free(path.parent)} free in {path.parent}); "
        f"{_advice(error.errno)} and go on with: {resume_command(run)}"
    )


def _advice(code: int | None) -> str:
    if code in _NO_ROOM:
        return "free some room"
    if code in _NO_RIGHT:
        return "make the folder writable"
    if code in _GONE:
        return "bring the folder back"
    if code == errno.EFBIG:
        return "lift the limit on the size of a file (ulimit -f)"
    return "check the disk"


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        return "an unknown number"
