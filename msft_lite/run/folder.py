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
            self._take(descriptor)
            if mode == "overwrite":
                self._clear()
            yield
        finally:
            os.close(descriptor)

    def _check(self, mode: Mode) -> None:
        if mode == "resume" and not self.ledger.exists():
            raise OutputFolderError(f"{self.path} holds no run to resume: no {self.ledger.name}")
        if mode == "new" and self._is_used():
            raise OutputFolderError(
                f"{self.path} is in use: go on with the run there by --resume, replace it by "
                "--overwrite, or name another folder by output_dir=FOLDER"
            )

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputFolderError(
                f"{self.path} is in use by another process; wait for it or stop it"
            ) from None

    def _is_used(self) -> bool:
        if not self.path.exists():
            return False
        return not self.path.is_dir() or any(entry != self.lock for entry in self.path.iterdir())

    def _clear(self) -> None:
        """Removes what a run writes, and nothing else."""
        for name in ("snapshots", "best", "best.tmp", "best.old", "figures"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        files = (self.ledger, self.recipe, self.crash_copy, self.engine_log)
        for file in (*files, self.path / "summary.json", self.path / "report.md"):
            file.unlink(missing_ok=True)
