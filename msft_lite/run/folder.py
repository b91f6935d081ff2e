"""The run folder: who may use it, and what is where in it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msft_lite.errors import OutputFolderError, StorageError

Mode = Literal["new", "resume", "overwrite"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run. Only what is named here is ever removed."""

    path: Path

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def crash_copy(self) -> Path:
        return self.path / "crash.safetensors"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def examples(self) -> Path:
        return self.path / "examples.json"

    @property
    def engine_log(self) -> Path:
        return self.path / "engine.log"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @contextmanager
    def opened(self, mode: Mode) -> Iterator[None]:
        """Makes the folder ready for a run in ``mode`` and keeps every other process out of it.

        Raises:
            OutputFolderError: a new run would mix with what is there, nothing is there to resume,
                or another process runs here.
            StorageError: the folder cannot be made or emptied.
        """
        self._check(mode)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot make the output folder: {error}") from None
        try:
            self._take(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def kept_still(self) -> Iterator[None]:
        """Keeps runs out of the folder while it is read; nothing in it is changed.

        Raises:
            OutputFolderError: no run is there, or one is going on.
            StorageError: the folder cannot be read.
        """
        self._check("resume")
        try:
            descriptor = os.open(self.lock, os.O_RDONLY)
        except FileNotFoundError:  # copied without it
            yield
            return
        except OSError as error:
            raise StorageError(f"{self.lock}: cannot read: {error.strerror}") from None
        try:
            self._take(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Removes what a run writes, and nothing else.

        The ledger goes last, so that a folder that was left half-empty is still known for a run's;
        the recipe goes first, so that nobody goes on with it.

        Raises:
            StorageError: the folder is read-only or gone.
        """
        files = (self.crash_copy, self.examples, self.engine_log)
        made = ("summary.json", "report.md", "report.html")
        try:
            self.recipe.unlink(missing_ok=True)
            for name in ("best", "best.tmp", "best.old", "figures", "snapshots"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            for file in (*files, *(self.path / name for name in made), self.ledger):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot remove the run there: {error}") from None

    def _check(self, mode: Mode) -> None:
        if mode == "resume":
            if not self.ledger.exists():
                raise OutputFolderError(
                    f"{self.path} holds no run to resume: no {self.ledger.name}"
                )
        elif self.ledger.exists() and mode == "new":
            raise OutputFolderError(
                f"{self.path} is in use: go on with the run there by --resume, replace it by "
                "--overwrite, or name another folder by output_dir=FOLDER"
            )
        elif not self.ledger.exists() and (foreign := self._foreign()):
            raise OutputFolderError(
                f"{self.path} is in use by what is no run of msft-lite ({foreign} is there): name "
                "another folder by output_dir=FOLDER"
            )

    def _foreign(self) -> str:
        """Returns the name of something here that a run killed at its start does not leave."""
        if not self.path.exists():
            return ""
        if not self.path.is_dir():
            return "a file"
        own = (self.lock, self.snapshots, self.recipe, self.engine_log)
        names = {path.name for path in own} | {f"{self.recipe.name}.partial"}
        return next((entry.name for entry in self.path.iterdir() if entry.name not in names), "")

    def _take(self, descriptor: int, kind: int) -> None:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputFolderError(
                f"{self.path} is in use by another process; wait for it or stop it"
            ) from None
        except OSError as error:
            raise OutputFolderError(
                f"{self.lock}: cannot be locked: {error.strerror}; locks keep two runs apart, so "
                "name a folder on a file system that has them (flock) by output_dir=FOLDER"
            ) from None
