"""The snapshots of a run: sets of trainable weights, named by the hash of their bytes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from msft_lite.core import ROOT
from msft_lite.errors import LostSnapshot, SnapshotError, StorageError
from msft_lite.ledger import sync_folder
from msft_lite.model.weights import Weights
from msft_lite.snapshot import delta
from msft_lite.snapshot.codec import holds, pieces, read, size_bytes, snapshot_id
from msft_lite.snapshot.durable import PARTIAL, replacing, storage_error
from msft_lite.snapshot.ram import HostMemory, no_memory
from msft_lite.snapshot.tensor_file import Header, read_header

_SUFFIX = ".safetensors"
_PROBE = "probe" + _SUFFIX
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OURS = re.compile(rf"[0-9a-f]{{64}}{re.escape(_SUFFIX)}", re.ASCII)
_LEFTOVER = re.compile(
    rf"([0-9a-f]{{64}}|probe){re.escape(_SUFFIX + PARTIAL)}|{re.escape(_PROBE)}", re.ASCII
)
_WHOLE = ""  # parent of a snapshot that needs none


@dataclass(frozen=True, slots=True)
class Stored:
    """A snapshot's file.

    Attributes:
        parent: id of what it is stored against, ``root``, or empty where it is whole; None where
            the file is too damaged to tell.
    """

    size_bytes: int
    parent: str | None


class SnapshotStore:
    """The folder that holds a run's snapshots; one process at a time writes to it.

    A snapshot's id is the sha256 of its whole form, `codec.pieces`, however it is stored: so equal
    weights are stored once and every read is verified. The id ``root`` names the weights that the
    run began with, which are never stored. Files of other names in the folder are not touched.

    A snapshot that is stored as a delta needs its parent: root, or a snapshot that is whole or
    whose own parent is root.

    Attributes:
        written_bytes: of all snapshots written since the store was opened, those stored anew too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: Callable[[], Weights],
        base: delta.Source | None = None,
        deltas: bool = False,
        reads_only: bool = False,
        memory: HostMemory | None = None,
    ) -> None:
        """Creates the folder if need be and removes what a killed process had half-written.

        Args:
            folder: ``snapshots`` in the run's folder.
            root: returns the weights that the run began with.
            base: gives tensors of these weights one at a time, those that it has, and the same
                bits every time; None: those of ``root``, which then are in memory.
            deltas: whether snapshots are stored as what differs from others; both forms are read.
            reads_only: nothing is created or removed here, as another process may write.
            memory: holds snapshots until they are settled, as long as it has room; None: each is
                written as it is saved.

        Raises:
            StorageError: the folder cannot be created or written to.
        """
        self._folder = folder
        self._root = root
        self._base = base
        self._deltas = deltas
        self._memory = memory or no_memory()
        self.written_bytes = 0
        if reads_only:
            return
        with self._failures_told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()

    def save(self, weights: Weights, *, near: str = ROOT) -> str:
        """Returns the id of ``weights``; without ``memory``, they survive a power cut from here.

        Args:
            weights: what is saved; they are the store's from now on.
            near: id of a snapshot from which they differ little; of use for the size alone.

        Raises:
            StorageError: the disk is full, read-only or gone; earlier snapshots are intact.
            SnapshotError: a tensor's dtype cannot be stored.
        """
        identity = snapshot_id(weights)
        if not self._is_whole(identity) and not self._memory.takes(identity, weights):
            self._store(identity, weights, near)
        return identity

    def restore(self, identity: str, weights: Weights) -> None:
        """Saves ``weights``, whose id is ``identity``, whatever file may be there.

        They are the store's from now on.

        Raises:
            StorageError: the disk is full, read-only or gone.
        """
        if not self._memory.takes(identity, weights):
            self._store(identity, weights, ROOT)

    def load(self, identity: str) -> Weights:
        """Returns the weights saved under that id, those of a file verified bit by bit against it.

        They are not to be changed.

        Raises:
            LostSnapshot: its file is missing or damaged, or that of its parent.
            SnapshotError: there can be no such snapshot.
        """
        if identity == ROOT:
            return self._root()
        if not _ID.fullmatch(identity):
            raise SnapshotError(
                f"{identity[:80]!a} is not the id of a snapshot (64 hexadecimal digits or "
                f"{ROOT!r}); the ledger that names it is damaged"
            )
        if (held := self._memory.get(identity)) is not None:
            return held
        try:
            return self._verified(identity)
        except OSError as error:
            problem = f"{_called(identity)}: cannot read: {error.strerror or error}"
            raise self._lost(identity, problem) from error
        except SnapshotError as error:
            raise self._lost(identity, str(error)) from error

    def retain(self, identities: Iterable[str]) -> int:
        """Removes all snapshots but these and returns how many bytes less are on the disk.

        Of these, the ones whose parent goes are stored anew beforehand, against root.

        Raises:
            StorageError: the disk is full, the folder is gone or read-only.
            LostSnapshot: one that stays is damaged, as far as was looked; nothing is removed.
        """
        kept = set(identities)
        self._memory.retain(kept)
        before_bytes = self.alive_bytes()
        with self._failures_told(self._folder):
            self._remove_leftovers()
            stored = self._snapshots()
            for identity in sorted(kept & stored.keys()):
                if self._parent_of_kept(identity) not in (_WHOLE, ROOT, *kept):
                    self._store(identity, self.load(identity), ROOT)
            gone = stored.keys() - kept
            for identity in gone:
                Path(stored[identity].path).unlink()
            if gone:
                sync_folder(self._folder)
        return before_bytes - self.alive_bytes()

    def drop(self, identity: str) -> None:
        """Removes a snapshot, of use to no other.

        Raises:
            StorageError: the folder is gone or read-only.
        """
        with self._failures_told(self._folder):
            self._path(identity).unlink(missing_ok=True)
            sync_folder(self._folder)

    def settle(self, identities: Iterable[str] | None = None) -> None:
        """Writes those of ``identities``, or all snapshots, that are in memory alone.

        Raises:
            StorageError: the disk is full, read-only or gone.
        """
        for identity, weights in self._memory.given_back(identities):
            self._store(identity, weights, ROOT)

    def stored(self) -> dict[str, Stored]:
        """Returns what is there, by id; of a run in progress as it is at one moment or another."""
        found: dict[str, Stored] = {}
        with contextlib.suppress(FileNotFoundError):  # a run that has only begun
            for identity, file in sorted(self._snapshots().items()):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    length = file.stat(follow_symlinks=False).st_size
                    found[identity] = Stored(length, self._parent_if_told(identity))
        return found

    def size_bytes(self, identity: str) -> int:
        """Returns the bytes that a snapshot takes on the disk; the parent of a delta is apart.

        Raises:
            StorageError: it is not there.
        """
        path = self._path(identity)
        with self._failures_told(path):
            return path.stat(follow_symlinks=False).st_size

    def alive_bytes(self) -> int:
        """Returns the bytes of all stored snapshots together.

        Raises:
            StorageError: the folder is gone.
        """
        with self._failures_told(self._folder):
            files = self._snapshots().values()
            return sum(file.stat(follow_symlinks=False).st_size for file in files)

    def prove(self, weights: Weights) -> None:
        """Writes ``weights``, reads them back, compares them bit by bit and removes them.

        Done before the first step, it shows that the first mark, perhaps hours later, can be
        saved. That deltas take less is no reason to ask for less: `best/` is whole.

        Raises:
            StorageError: they cannot be written here, or come back changed.
        """
        path = self._folder / _PROBE
        needed = size_bytes(weights)
        try:
            with self._failures_told(path, needed):
                self._write(path, weights)
                came_back = holds(path, weights)
            if not came_back:
                raise StorageError(
                    f"{self._folder}: a file of {needed:,} bytes came back changed; check the "
                    "disk or choose another output_dir"
                )
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _store(self, identity: str, weights: Weights, near: str) -> None:
        if self._deltas:
            self._write_nearest(identity, weights, self._parent_at(near))
        else:
            self._write(self._path(identity), weights)
        self.written_bytes += self.size_bytes(identity)

    def _write_nearest(self, identity: str, weights: Weights, parent: str) -> None:
        try:
            self._write_delta(identity, weights, parent)
        except (OSError, SnapshotError):  # the parent may be damaged
            if parent == ROOT:
                raise
            self._write_delta(identity, weights, ROOT)

    def _write_delta(self, identity: str, weights: Weights, parent: str) -> None:
        with contextlib.ExitStack() as stack:
            source = self._source(parent, stack)
            path, run_folder = self._path(identity), self._folder.parent
            file = stack.enter_context(
                replacing(path, bytes_needed=size_bytes(weights), run_folder=run_folder)
            )
            delta.write_delta(file, weights, parent=parent, source=source)

    def _write(self, path: Path, weights: Weights) -> None:
        needed = size_bytes(weights)
        with replacing(path, bytes_needed=needed, run_folder=self._folder.parent) as file:
            for piece in pieces(weights):
                file.write(piece)

    def _verified(self, identity: str) -> Weights:
        where = _called(identity)
        with contextlib.ExitStack() as stack:
            file, header = self._opened(identity, stack)
            if not _is_delta(header):
                weights, found = read(file, header, where=where)
                claims = {}
            else:
                parent = delta.parent_of(header, where=where)
                source = self._source(parent, stack)
                weights, claims = delta.read_delta(file, header, source=source, where=where)
                found = snapshot_id(weights)
        if found != identity:
            name = delta.first_changed(weights, claims) if claims else ""
            tensor = f" (tensor {name!a} first)" if name else ""
            raise SnapshotError(f"{where}: damaged, its bytes have the sha256 {found[:12]}{tensor}")
        return weights

    def _parent_at(self, near: str) -> str:
        """Returns ``near``, or what it is stored against itself, or root if it cannot be read."""
        if not _ID.fullmatch(near) or not self._is_whole(near):
            return ROOT
        above = self._parent(near)
        return near if above in (_WHOLE, ROOT) else above

    def _parent(self, identity: str) -> str:
        """Returns the id of what a snapshot is stored against.

        Raises:
            OSError: it cannot be read.
            SnapshotError: it is damaged.
        """
        with contextlib.ExitStack() as stack:
            _, header = self._opened(identity, stack)
        return delta.parent_of(header, where=_called(identity)) if _is_delta(header) else _WHOLE

    def _parent_of_kept(self, identity: str) -> str:
        try:
            return self._parent(identity)
        except (OSError, SnapshotError) as error:
            raise self._lost(identity, str(error)) from error

    def _parent_if_told(self, identity: str) -> str | None:
        try:
            return self._parent(identity)
        except FileNotFoundError:
            raise
        except (OSError, SnapshotError):
            return None

    def _is_whole(self, identity: str) -> bool:
        """Returns whether a snapshot and what it needs are there, of the lengths they claim."""
        for _ in range(2):
            try:
                identity = self._parent(identity)
            except (OSError, SnapshotError):
                return False
            if identity in (_WHOLE, ROOT):
                return True
        return False

    def _source(self, parent: str, stack: contextlib.ExitStack) -> delta.Source:
        """Returns the tensors of ``parent``, whose file ``stack`` closes.

        Raises:
            OSError: the file cannot be read.
            SnapshotError: it is damaged, or its own parent is not root.
        """
        base = self._base or delta.weights_source(self._root())
        if parent == ROOT:
            return base
        where = _called(parent)
        file, header = self._opened(parent, stack)
        if not _is_delta(header):
            return delta.full_source(file, header, where=where)
        above = delta.parent_of(header, where=where)
        if above != ROOT:
            raise SnapshotError(f"{where}: a parent whose own parent is {above[:12]}, not root")
        return delta.DeltaFile(file, header, source=base, where=where)

    def _opened(self, identity: str, stack: contextlib.ExitStack) -> tuple[BufferedReader, Header]:
        file = stack.enter_context(self._path(identity).open("rb"))
        length = os.fstat(file.fileno()).st_size
        return file, read_header(file, size_bytes=length, where=_called(identity))

    def _path(self, identity: str) -> Path:
        return self._folder / (identity + _SUFFIX)

    def _snapshots(self) -> dict[str, os.DirEntry[str]]:
        with os.scandir(self._folder) as files:
            ours = [f for f in files if _OURS.fullmatch(f.name) and f.is_file()]
        return {file.name.removesuffix(_SUFFIX): file for file in ours}

    def _remove_leftovers(self) -> None:
        with os.scandir(self._folder) as files:
            leftovers = [file.path for file in files if _LEFTOVER.fullmatch(file.name)]
        for path in leftovers:
            Path(path).unlink(missing_ok=True)

    def _lost(self, identity: str, problem: str) -> LostSnapshot:
        return LostSnapshot(
            identity,
            problem,
            f"bring {self._path(identity)} back from a copy of the run, or start again with "
            "--overwrite",
        )

    @contextlib.contextmanager
    def _failures_told(self, path: Path, needed: int = 0) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            folder = self._folder.parent
            raise storage_error(error, path, bytes_needed=needed, run_folder=folder) from error


def _called(identity: str) -> str:
    return f"snapshot {identity[:12]}"


def _is_delta(header: Header) -> bool:
    return header.metadata.get("format") == delta.FORMAT
