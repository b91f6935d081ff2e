"""A study for real: two short runs, then one of them again, then another study of the same runs."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from msft_lite.errors import OutputFolderError
from msft_lite.recipe.studies import StudyOptions
from msft_lite.report.live import Watcher
from msft_lite.report.plain import PlainWatcher
from msft_lite.report.studies.files import json_text
from msft_lite.run.study import Wanted, make_study


class Listener:
    """Makes watchers that all write into one text."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def __call__(self) -> Watcher:
        return PlainWatcher(Console(file=self.stream))


def test_only_what_is_missing_is_run(small_recipe: Path, tmp_path: Path) -> None:
    def wanted(name: str) -> Wanted:
        return Wanted(name, small_recipe, (), tmp_path / "out", StudyOptions(epochs=1))

    made = make_study(wanted("loss"), mode="new", watch=Listener())
    found, folder = made.study, made.folder
    assert folder == tmp_path / "out" / "loss"
    assert made.runs == (folder / "sft", folder / "msft")
    assert {line.run for line in found.lines} == {"sft", "msft"}
    with pytest.raises(OutputFolderError, match="is in use"):
        make_study(wanted("loss"), mode="new", watch=Listener())

    sft = (folder / "sft" / "ledger.jsonl").read_bytes()
    shutil.rmtree(folder / "msft")
    again = make_study(wanted("loss"), mode="resume", watch=Listener())
    assert json_text(again.study) == json_text(found)
    assert (folder / "sft" / "ledger.jsonl").read_bytes() == sft

    heard = Listener()
    peaks = make_study(wanted("heterogeneity"), mode="new", watch=heard)
    beside = peaks.folder
    assert heard.stream.getvalue().splitlines() == [
        f"run sft: taken from {folder / 'sft'}, which is of the same recipe"
    ]
    assert peaks.runs == (folder / "sft",)
    assert not beside.exists()
    assert {line.task for line in peaks.study.lines} == {"same", "noise", "letter", ""}

    heard = Listener()
    make_study(wanted("heterogeneity"), mode="overwrite", watch=heard)
    assert heard.stream.getvalue().startswith("run 1 of 1: sft\n")
    assert (beside / "sft" / "ledger.jsonl").exists()
