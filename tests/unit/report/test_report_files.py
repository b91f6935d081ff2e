from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from msft_lite.errors import LedgerError, StorageError
from msft_lite.report import print_report, write_report, write_reports
from msft_lite.report.summary import summary as summarise
from msft_lite.report.telling import tell

Builder = Any
Build = Callable[..., Builder]


def picture_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_a_finished_run_gets_all_files(three_tasks: Builder, tmp_path: Path) -> None:
    report = write_report(three_tasks.write(tmp_path))
    assert report == tmp_path / "report.md"
    text = report.read_text(encoding="utf-8")
    assert text.startswith(
        "# Report of a run with msft\n\nRun with msft, finished: returned roll-out 3, mark 4; "
        "report split: mean 66.7 %, base 16.7 %; stopped by the guard.\n"
    )
    for name in ("scores", "loss"):
        assert f"![{name}](figures/{name}.png)" in text
        width, height = picture_size(tmp_path / "figures" / f"{name}.png")
        assert width > 800 and height > 300
    assert "1. b: best at mark 2 with 14/20, at the last mark 4 11/20" in text
    assert "| versions.torch | 2.13.0 |" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "ledger.jsonl", "report.md", "report.html", "summary.json", "figures",
    }  # fmt: skip


def test_the_summary_holds_the_results(three_tasks: Builder) -> None:
    summary: Any = summarise(tell(three_tasks.rows))
    assert summary["finished"] is True
    assert summary["best"] == {
        "rollout": 3, "mark": 4, "snapshot": "s3.4", "steps": 35, "epochs": 1.75,
        "spent_steps": 60, "spent_epochs": 3.0,
    }  # fmt: skip
    task = summary["steering"]["tasks"]["b"]
    assert task["status"] == "dropped"
    assert task["dropped_at"] == {"rollout": 1, "mark": 2}
    assert (task["base"]["correct"], task["peak"]["correct"], task["best"]["correct"]) == (
        3,
        14,
        13,
    )
    assert summary["report"]["tasks"]["a"]["difference"]["value"] == 0.7
    assert summary["report"]["mean"]["difference"]["value"] == 0.5
    assert [r["rolled_back_to_mark"] for r in summary["rollouts"]] == [2, 1, None]
    assert [m["kept"] for m in summary["rollouts"][0]["marks"]] == [True, True, True, False, False]
    assert summary["totals"]["rolled_back_steps"] == 25


def test_timings_are_apart_from_results(three_tasks: Builder) -> None:
    first = summarise(tell(three_tasks.rows))
    for row in three_tasks.rows:
        if row["kind"] in ("mark", "finish"):
            row["seconds"] = {"train": 77.0}
        if row["kind"] == "mark":
            row["peak_bytes"] = 1
    second = summarise(tell(three_tasks.rows))
    assert first != second
    for summary in (first, second):
        del summary["seconds"], summary["peak_bytes"]
    assert first == second


def test_the_same_ledger_gives_the_same_bytes(build: Build, tmp_path: Path) -> None:
    run = build(["a"]).rollout({"a": [1, 5, 4]}).drop("a", 1).finish(1, 1, [1], [8])
    names = (
        "summary.json", "report.md", "report.html", "figures/scores.png", "figures/loss.png",
    )  # fmt: skip
    write_report(run.write(tmp_path))
    before = [(tmp_path / name).read_bytes() for name in names]
    write_report(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_an_unfinished_run_can_be_reported(three_tasks: Builder, tmp_path: Path) -> None:
    three_tasks.rows = three_tasks.rows[:12]
    text = write_report(three_tasks.write(tmp_path)).read_text(encoding="utf-8")
    assert "not finished; recorded up to roll-out 2, mark 2" in text
    assert summary_of(tmp_path)["report"] is None
    assert summary_of(tmp_path)["finished"] is False
    assert picture_size(tmp_path / "figures" / "scores.png")[0] > 800


def test_only_reports_older_than_their_ledger_are_written(build: Build, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("none", "old", "current")]
    for folder in folders:
        folder.mkdir()
        build(["a"], method="sft").rollout({"a": [1, 9]}).finish(1, 1, [1], [8]).write(folder)
    for folder, age in zip(folders[1:], (-5, 5), strict=True):
        (folder / "report.html").write_text("stale")
        written = (folder / "ledger.jsonl").stat().st_mtime + age
        os.utime(folder / "report.html", (written, written))
    write_reports(folders)
    assert [(folder / "report.md").exists() for folder in folders] == [True, True, False]
    assert [(f / "report.html").read_text() == "stale" for f in folders] == [False, False, True]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_run_that_has_only_begun_can_be_reported(
    three_tasks: Builder, tmp_path: Path, count: int
) -> None:
    three_tasks.rows = three_tasks.rows[:count]
    write_report(three_tasks.write(tmp_path))
    assert (tmp_path / "figures" / "scores.png").exists() == (count == 3)
    assert not (tmp_path / "figures" / "loss.png").exists()
    assert summary_of(tmp_path)["totals"]["evaluations"] == max(0, count - 2)


def test_sft_of_one_task_has_one_panel_and_no_drops(build: Build, tmp_path: Path) -> None:
    run = build(["a"], method="sft").rollout({"a": [1, 9, 3]}).finish(1, 1, [1], [8])
    text = write_report(run.write(tmp_path)).read_text(encoding="utf-8")
    assert "Why tasks were dropped" not in text
    assert "active to the end" in text
    assert summary_of(tmp_path)["steering"]["tasks"]["a"]["dropped_at"] is None


def test_hostile_names_reach_every_file_unharmed(build: Build, tmp_path: Path) -> None:
    name = "$\\frac{$ [red]|<script>\x1b[31m 試験 ../../x"
    run = build([name, "b"]).rollout({name: [5, 3], "b": [1, 2]}).drop(name, 0, reason="[/x] <i>")
    run.finish(1, 0, [1, 1], [2, 2])
    text = write_report(run.write(tmp_path)).read_text(encoding="utf-8")
    assert "<script>" not in text and "<i>" not in text and "\x1b" not in text
    assert set(summary_of(tmp_path)["steering"]["tasks"]) == {name, "b"}
    assert picture_size(tmp_path / "figures" / "scores.png")[0] > 800


def test_print_report_prints_every_table(three_tasks: Builder, tmp_path: Path) -> None:
    stream = StringIO()
    print_report(three_tasks.write(tmp_path), Console(file=stream, width=120))
    text = stream.getvalue()
    assert text.startswith("Run with msft, finished: returned roll-out 3, mark 4")
    assert text.count("finished:") == 1
    titles = ["Report split:", "Control split:", "Roll-outs", "Where the time went"]
    assert [title for title in titles if title in text] == titles
    assert "\x1b" not in text


def test_a_damaged_ledger_is_named_with_its_line(three_tasks: Builder, tmp_path: Path) -> None:
    three_tasks.rows[4]["k"] = 7
    with pytest.raises(LedgerError, match=r"ledger\.jsonl, line 5: mark 7 of roll-out 1"):
        write_report(three_tasks.write(tmp_path))
    assert not (tmp_path / "report.md").exists()


def test_a_folder_that_cannot_be_written_is_named(three_tasks: Builder, tmp_path: Path) -> None:
    folder = three_tasks.write(tmp_path)
    (folder / "figures").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="figures: cannot write the report: File exists"):
        write_report(folder)


def test_importing_the_report_imports_nothing_heavy() -> None:
    code = (
        "import sys, msft_lite.report, msft_lite.report.live\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'transformers', 'datasets', 'vllm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
