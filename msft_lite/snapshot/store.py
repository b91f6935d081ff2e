"""The snapshots of a run: whole sets of trainable weights, named by the hash of their bytes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from msft_lite.core import ROOT
from msft_lite.errors import SnapshotError, StorageError
from msft_lite.model.weights import Weights
from msft_lite.snapshot.codec import pieces, read, size_bytes, snapshot_id
from msft_lite.snapshot.durable import PARTIAL, replacing, storage_error

_SUFFIX = ".safetensors"
_PROBE = "probe" + _SUFFIX
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OURS = re.compile(rf"[0-9a-f]{{64}}{re.escape(_SUFFIX)}", re.ASCII)
_LEFTOVER = re.compile(
    rf"([0-9a-f]{{64}}|probe){re.escape(_SUFFIX + PARTIAL)}|{re.escape(_PROBE)}", re.ASCII
)


class SnapshotStore:
    """The folder that holds a run's snapshots; one process at a time writes to it.

    A snapshot's id is the sha256 of its file, so that equal weights are stored once and every
    read is verified. The id ``root`` names the weights that the run began with, which are never
    stored. Files of other names in the folder are not touched.
    """

    def __init__(self, folder: Path, *, root: Callable[[], Weights]) -> None:
        """Creates the folder if need be and removes what a killed process had half-written.

        Args:
            folder: ``snapshots`` in the run's folder.
            root: returns the weights that the run began with.

        Raises:
            StorageError: the folder cannot be created or written to.
        """
        self._folder = folder
        self._root = root
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
        except OSError as error:
            raise self._storage_error(error, folder, 0) from error

    def save(self, weights: Weights) -> str:
        """Returns the id of ``weights``; when it returns they survive a power cut.

        Raises:
            StorageError: the disk is full, read-only or gone; earlier snapshots are intact.
            SnapshotError: a tensor's dtype cannot be stored.
        """
        identity = snapshot_id(weights)
        path = self._path(identity)
        if not _is_file_of(path, size_bytes(weights)):
            self._write(path, weights)
        return identity

    def load(self, identity: str) -> Weights:
        """Returns the weights saved under that id, verified bit by bit against it.

        Raises:
            SnapshotError: there is no such snapshot, or it is damaged.
        """
        if identity == ROOT:
            return self._root()
        if not _ID.fullmatch(identity):
            raise SnapshotError(
                f"{identity[:80]!a} is not the id of a snapshot (64 hexadecimal digits or "
                f"{ROOT!r}); the ledger that names it is damaged"
            )
        try:
            return self._verified(identity)
        except SnapshotError as error:
            raise SnapshotError(
                f"{error}; bring {self._path(identity)} back from a copy of the run, or start "
                "again with --overwrite"
            ) from error

    def retain(self, identities: Iterable[str]) -> int:
        """Removes all snapshots but these and returns the bytes freed.

        Raises:
            StorageError: the folder is gone or read-only.
        """
        kept = {identity + _SUFFIX for identity in identities}
        freed_bytes = 0
        try:
            self._remove_leftovers()
            for file in self._snapshots():
                if file.name not in kept:
                    freed_bytes += file.stat(follow_symlinks=False).st_size
                    Path(file.path).unlink()
        except OSError as error:
            raise self._storage_error(error, self._folder, 0) from error
        return freed_bytes

    def alive_bytes(self) -> int:
        """Returns the bytes of all stored snapshots together.

        Raises:
            StorageError: the folder is gone.
        """
        try:
            return sum(file.stat(follow_symlinks=False).st_size for file in self._snapshots())
        except OSError as error:
            raise self._storage_error(error, self._folder, 0) from error

    def prove(self, weights: Weights) -> None:
        """Writes ``weights``, reads them back, compares them bit by bit and removes them.

        Done before the first step, it shows that the first mark, perhaps hours later, can be
        saved.

        Raises:
            StorageError: they cannot be written here, or come back changed.
        """
        path = self._folder / _PROBE
        try:
            self._write(path, weights)
            if not _holds(path, weights):
                raise StorageError(
                    f"{self._folder}: a file of {size_bytes(weights):,} bytes came back changed; "
                    "check the disk or choose another output_dir"
                )
        except OSError as error:
            raise self._storage_error(error, path, size_bytes(weights)) from error
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _write(self, path: Path, weights: Weights) -> None:
        needed = size_bytes(weights)
        with replacing(path, bytes_needed=needed, run_folder=self._folder.parent) as file:
            for piece in pieces(weights):
                file.write(piece)

    def _verified(self, identity: str) -> Weights:
        path = self._path(identity)
        where = f"snapshot {identity[:12]}"
        try:
            with path.open("rb") as file:
                length = os.fstat(file.fileno()).st_size
                weights, found = read(file, size_bytes=length, where=where)
        except OSError as error:
            raise SnapshotError(f"{where}: cannot read: {error.strerror or error}") from error
        if found != identity:
            raise SnapshotError(f"{where}: damaged, its bytes have the sha256 {found[:12]}")
        return weights

    def _path(self, identity: str) -> Path:
        return self._folder / (identity + _SUFFIX)

    def _snapshots(self) -> list[os.DirEntry[str]]:
        with os.scandir(self._folder) as files:
            return [f for f in files if _OURS.fullmatch(f.name) and f.is_file()]

    def _remove_leftovers(self) -> None:
        with os.scandir(self._folder) as files:
            leftovers = [file.path for file in files if _LEFTOVER.fullmatch(file.name)]
        for path in leftovers:
            Path(path).unlink(missing_ok=True)

    def _storage_error(self, error: OSError, path: Path, bytes_needed: int) -> StorageError:
        run_folder = self._folder.parent
        return storage_error(error, path, bytes_needed=bytes_needed, run_folder=run_folder)


def _is_file_of(path: Path, length_bytes: int) -> bool:
    try:
        return path.stat(follow_symlinks=False).st_size == length_bytes
    except OSError:
        return False  # the attempt to write it will say what is wrong


def _holds(path: Path, weights: Weights) -> bool:
    """Returns whether the file is ``weights`` bit by bit; holds one piece of it at a time."""
    with path.open("rb") as file:
        same = all(file.read(len(piece)) == piece for piece in pieces(weights))
        return same and not file.read(1)
