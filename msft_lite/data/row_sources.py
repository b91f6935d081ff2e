"""Reads the splits of a task from where its settings say they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msft_lite.data.files import read_records
from msft_lite.data.formats import row_of
from msft_lite.data.hub import read_hub
from msft_lite.data.rows import Record, Row
from msft_lite.data.settings import TaskSettings
from msft_lite.data.splits import Given, Rows
from msft_lite.data.tasks.items import preset_row
from msft_lite.data.tasks.preset import Preset
from msft_lite.errors import DataError, did_you_mean

# The names of splits in a preset's local files.
LOCAL_SPLITS = {"train": "train", "control": "validation", "report": "test"}

_Read = Callable[[str], Rows | None]  # from train, control or report to rows; None: there are none


def given_rows(settings: TaskSettings, known: Preset | None) -> Given:
    """Returns the rows of the splits that the source has; the others are to be carved.

    Where the report rows steer, control rows are not read.

    Raises:
        DataError: a source or a row cannot be used.
    """
    _check_source(settings)
    read = _reader(settings, known)
    given = Given(
        train=read("train") or (),
        control=read("control") if settings.steer_on == "control" else None,
        report=read("report"),
    )
    _check_one_form(settings.name, (*given.train, *(given.control or ()), *(given.report or ())))
    return given


def _check_source(settings: TaskSettings) -> None:
    sources = (settings.preset, settings.path, settings.dataset)
    found = sum(source is not None for source in sources)
    if found != 1:
        raise DataError(
            f"task {settings.name!r}: give one of preset, path and dataset; found {found}"
        )


def _reader(settings: TaskSettings, known: Preset | None) -> _Read:
    if known is None:
        return lambda split: _own(settings, split)
    folder = settings.directory
    if folder is None:
        return lambda split: _from_hub(settings, known, split)
    return lambda split: _from_folder(settings, known, folder, split)


def _own(settings: TaskSettings, name: str) -> Rows | None:
    path, split = {
        "train": (settings.path, settings.split),
        "control": (settings.control_path, settings.control_split),
        "report": (settings.report_path, settings.report_split),
    }[name]
    if path is not None:
        records = read_records(path)
    elif settings.dataset is not None and split is not None:
        dataset, _, configuration = settings.dataset.partition(":")
        records = read_hub(dataset, split, configuration=configuration)
    else:
        return None
    return tuple(
        row_of(record, columns=settings.columns, group_by=settings.split_by) for record in records
    )


def _from_hub(settings: TaskSettings, known: Preset, name: str) -> Rows | None:
    hub = known.hub
    split = {"train": hub.train, "control": hub.control, "report": hub.report}[name]
    if split is None:
        return None
    records = read_hub(hub.dataset, split, configuration=hub.configuration, revision=hub.revision)
    return _preset_rows(settings, known, records, local=False)


def _from_folder(settings: TaskSettings, known: Preset, folder: Path, name: str) -> Rows | None:
    path = folder / f"{known.file_stem or known.name}.{LOCAL_SPLITS[name]}.jsonl"
    if path.is_file():
        return _preset_rows(settings, known, read_records(path), local=True)
    if name != "train":
        return None
    beside = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    raise DataError(
        f"task {settings.name!r}: {path}: no such file{did_you_mean(path.name, beside)}; data.dir "
        f"must hold the rows of {known.name!r}, or be left out to take them from the hub"
    )


def _preset_rows(
    settings: TaskSettings, known: Preset, records: Sequence[Record], *, local: bool
) -> Rows:
    return tuple(
        preset_row(known, record, local=local, group_by=settings.split_by) for record in records
    )


def _check_one_form(name: str, rows: Sequence[Row]) -> None:
    plain = next((row for row in rows if not row.messages), None)
    chat = next((row for row in rows if row.messages), None)
    if plain and chat:
        raise DataError(
            f"task {name!r} mixes two forms of rows: {plain.where} has prompt and answer, "
            f"{chat.where} has messages; keep one"
        )
