"""Files and figures of studies."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from msft_lite.errors import OutputFolderError, StorageError
from msft_lite.report.story import Story
from msft_lite.report.studies import TELLERS, print_study, write_study
from msft_lite.report.telling import tell

HOSTILE = ("$x_{1}$", "_hidden", "=1+1", "<b>|a\x1b[31m", "words " * 12)
PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


@pytest.fixture
def hostile(build: Callable[..., Any]) -> Callable[[str], Mapping[str, Story]]:
    """Makes the runs of a study on tasks whose names are markup, formulas and escapes."""
    names = list(HOSTILE)
    flat, fallen = [1, 2, 3, 4, 5], [3, 9, 4, 3, 2]

    def single(method: str) -> Story:
        run = build(names, method=method).rollout(dict.fromkeys(names, flat))
        return tell(run.finish(1, 4, [1] * 5, [5] * 5).rows)

    def dropping(method: str) -> Story:
        run = build(names, method=method)
        run.rollout({task: fallen if task == names[0] else flat for task in names})
        rest, later = names[1:], {task: [2, 3, 4, 5] for task in names}
        if method == "shift":
            run.rollout(later, start="s1.1").drop(names[0], 0)
        else:
            run.drop(names[0], 1)
        run.rollout(later, start="s1.1", tasks=rest)
        n = len(run.snapshots)
        return tell(run.finish(n, 3, [1] * 5, [5] * 5).rows)

    def make(name: str) -> Mapping[str, Story]:
        labels = {
            "heterogeneity": ["sft"], "shift": ["shift"],
            "budget": ["sft", "msft-budget-1", "msft-budget-3"],
            "scale": ["5-tasks-200-rows/sft", "5-tasks-200-rows/msft"],
            "granularity": ["sft", "ies", "msft"],
        }.get(name, ["sft", "msft"])  # fmt: skip
        methods = {label: label.split("/")[-1].split("-")[0] for label in labels}
        return {
            label: dropping(method) if method in ("msft", "shift") else single(method)
            for label, method in methods.items()
        }

    return make


@pytest.mark.parametrize("name", TELLERS)
def test_hostile_names_stay_names(
    name: str, hostile: Callable[[str], Mapping[str, Story]], tmp_path: Path
) -> None:
    study = TELLERS[name](hostile(name))
    written = write_study(study, tmp_path / name)
    text = written.read_text(encoding="utf-8")
    assert text.startswith(f"# Study {name}: ")
    assert "\x1b" not in text
    assert "<b>" not in text.replace("\\<b\\>", "")
    for picture in study.pictures:
        at = tmp_path / name / "figures" / f"{picture.name}.png"
        assert at.read_bytes().startswith(PNG)
        assert at.with_suffix(".svg").read_bytes().startswith(SVG)
        assert f"![{picture.name}](figures/{picture.name}.png)" in text
    with (written.parent / "study.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(study.lines) > 0
    assert not any(cell.startswith(("=", "@", "+")) for row in rows for cell in row.values())
    content = json.loads((written.parent / "study.json").read_text(encoding="utf-8"))
    assert (content["kind"], content["study"]) == ("msft-lite study", name)
    assert len(content["numbers"]) == len(study.lines)
    console = Console(file=StringIO(), width=80)
    print_study(study, console)
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_same_study_gives_the_same_files(sft: Story, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in (*folders, folders[1]):
        write_study(TELLERS["heterogeneity"]({"sft": sft}), folder)
    first, second = (
        {p.relative_to(at): p.read_bytes() for p in at.rglob("*") if p.is_file()} for at in folders
    )
    assert first == second
    assert len(first) == 7  # three texts, two figures as PNG and SVG


def test_numbers_of_the_csv_are_those_of_the_table(sft: Story, tmp_path: Path) -> None:
    write_study(TELLERS["heterogeneity"]({"sft": sft}), tmp_path)
    lines = (tmp_path / "study.csv").read_text().splitlines()
    assert lines[0] == "run,task,measure,at,value,low,high"
    assert "sft,b,peak_epoch,,1.0,," in lines
    assert "sft,c,score,0.5,0.65," in "\n".join(lines)


@pytest.mark.parametrize("name", ["study.md", "study.json", "figures", "ledger.jsonl"])
def test_what_is_of_no_study_is_not_replaced(name: str, sft: Story, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputFolderError, match="--output-dir"):
        write_study(TELLERS["heterogeneity"]({"sft": sft}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_cannot_be_written_is_named(sft: Story, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    (folder / "figures" / "peaks.png").mkdir(parents=True)
    (folder / "study.json").write_text('{"kind": "msft-lite study"}')
    with pytest.raises(StorageError, match="cannot write the study"):
        write_study(TELLERS["heterogeneity"]({"sft": sft}), folder)
