"""Rows of datasets on the Hugging Face hub, and of local folders laid out like them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from msft_lite.data.files import table_records
from msft_lite.data.rows import Record
from msft_lite.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

PROBE_SECONDS = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


def read_hub(
    dataset: str, split: str, *, configuration: str = "", revision: str | None = None
) -> tuple[Record, ...]:
    """Returns the rows of a split of a dataset on the hub, or in a local folder, in order.

    Code from the hub is never run. Where the hub cannot be reached, the copy that an earlier
    download left is read; without one this fails at once.

    Args:
        dataset: ``owner/name``, ``owner/name:configuration``, or a folder.
        split: ``train``, or a slice such as ``train[:1000]``.
        configuration: in place of the one in ``dataset``; empty if the dataset has only one.
        revision: commit, branch or tag of the dataset; None is its main branch.

    Raises:
        DataError: the dataset cannot be had, or it holds no rows.
    """
    name, _, named = dataset.partition(":")
    configuration = configuration or named
    where = f"dataset {name}{':' * bool(configuration)}{configuration}, split {split}"
    try:
        table = _loaded(name, split, configuration=configuration, revision=revision)
        rows = table.with_format("arrow")[:]
    # The library raises whatever its file systems, HTTP and builders raise.
    except Exception as error:
        reason = _reason(error)
        close = _close(reason, split=split, configuration=configuration)
        raise DataError(
            f"{where}: cannot be loaded: {reason}{close}; check the network, the split and the "
            "name (owner/name or owner/name:configuration), or give local rows with path"
        ) from error
    _check_revision(table, revision, where)
    return table_records(rows, where)


def _loaded(name: str, split: str, *, configuration: str, revision: str | None) -> Dataset:
    from datasets import config, load_dataset  # takes seconds: only where it is used

    offline = config.HF_HUB_OFFLINE
    # Downloads are tried six times, in 23 seconds, and no argument makes that fewer.
    config.HF_HUB_OFFLINE = offline or not (Path(name).is_dir() or _hub_answers())
    try:
        return load_dataset(name, configuration or None, split=split, revision=revision)
    finally:
        config.HF_HUB_OFFLINE = offline


def _hub_answers() -> bool:
    """Returns whether the hub sends an answer of any kind."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception:  # of the HTTP library in use, which is the hub client's choice
        return False
    return True


def _check_revision(table: Dataset, revision: str | None, where: str) -> None:
    """Raises if a commit was asked for and the rows are those of another one.

    Without the hub the library reads its latest copy, whatever the revision. Copies are kept in
    folders named by commit; those of local folders are not.
    """
    folders = {Path(file["filename"]).parent.name for file in table.cache_files}
    commits = {folder for folder in folders if _COMMIT.fullmatch(folder)}
    if revision and _COMMIT.fullmatch(revision) and commits - {revision}:
        raise DataError(
            f"{where}: the hub cannot be reached, and the copy at hand is of commit "
            f"{min(commits)}, not of {revision}; connect once, or give local rows with path"
        )


def _close(reason: str, *, split: str, configuration: str) -> str:
    """Returns a suggestion from the names that the library lists at the end of its message."""
    names = re.findall(r"'([^']*)'", reason.rpartition("[")[2])
    wanted = configuration if "Config" in reason else split.partition("[")[0]
    return did_you_mean(wanted, names)


def _reason(error: BaseException) -> str:
    """Returns the kind and start of ``error``, and of its cause, which often tells more."""
    own = f"{type(error).__name__}: {_start(error)}"
    if "OfflineModeIsEnabled" in own:  # which is what `_loaded` makes of a hub without an answer
        return "the hub does not answer, and there is no copy of an earlier download"
    return own if error.__cause__ is None else f"{own} ({_start(error.__cause__)})"


def _start(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300] or "no message"
    return text.encode(errors="backslashreplace").decode()
