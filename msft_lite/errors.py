"""Every error a user can meet. Each says what, where, the offending value and what to do."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path


class MsftError(Exception):
    """Base of all errors that the command line prints without a traceback."""


class RecipeError(MsftError):
    """A recipe or an override on the command line is wrong."""


class DataError(MsftError):
    """A data file, a row in it or a split cannot be used."""


class ModelError(MsftError):
    """A model folder or a tokenizer cannot be used, or a tuning does not apply to it."""


class TrainError(MsftError):
    """Training cannot go on: the loss is not finite or zero, or memory ran out."""


class OutOfMemory(TrainError):
    """Memory ran out."""


class SnapshotError(MsftError):
    """A snapshot is missing, damaged or of another model."""


class LostSnapshot(SnapshotError):
    """A stored snapshot is missing or damaged.

    Attributes:
        identity: its id.
        problem: what is wrong with it.
    """

    def __init__(self, identity: str, problem: str, advice: str) -> None:
        """Takes what is wrong and what can be done about it."""
        super().__init__(f"{problem}; {advice}")
        self.identity = identity
        self.problem = problem


class DamagedCrashCopy(SnapshotError):
    """The crash copy cannot be read; what it held can be trained again."""


class StorageError(MsftError):
    """The disk is full, read-only or gone."""


class EngineError(MsftError):
    """The evaluation engine did not start, died, hung or cannot be trusted."""


class EngineLostError(EngineError):
    """The engine's process died, hung or ran out of memory in a request; a new one may answer."""


class LedgerError(MsftError):
    """A ledger is damaged, or belongs to another recipe."""


class ReplayMismatch(LedgerError):
    """The method asks for something else than what the ledger recorded."""


class OutputFolderError(MsftError):
    """The output folder is in use or holds no run."""


class AddressError(MsftError):
    """The page of a run cannot be served at the wanted port."""


class Interrupted(MsftError):
    """The user stopped the run at a safe point."""


def resume_command(folder: Path, *changes: str) -> str:
    """Returns the command that goes on with the run in ``folder``, as a shell takes it."""
    return f"msft-lite resume {shlex.join([str(folder), *changes])}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
