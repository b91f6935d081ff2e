"""What a comparison writes, where, and that nothing foreign is replaced."""

from __future__ import annotations

import csv
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from msft_lite.errors import OutputFolderError, StorageError
from msft_lite.report.compare import (
    COMPARISON,
    Comparison,
    compare,
    default_folder,
    write_comparison,
)
from msft_lite.report.compare.figures import side_by_side
from msft_lite.report.compare.grids import all_grids
from msft_lite.report.compare.latex import latex_document, latex_table, latex_text
from msft_lite.report.compare.numbers import content, csv_text
from msft_lite.report.story import Story
from msft_lite.report.tables import Grid

Make = Callable[..., Story]
NAMES = {"compare.json", "compare.md", "compare.csv", "compare.tex", "figures"}
HOSTILE = "=\\frac{1}{2}%_^~&#$|<i>\"'`--,;[x]\x1b\n試"


@pytest.fixture
def hostile(story: Make, costs: Any) -> Comparison:
    runs = {
        HOSTILE: [story({"*[t]": "10", "b": "01"})],
        "_y": [story({"*[t]": "11", "b": "01"}, method="msft")],
    }
    return compare(runs, costs=costs, notes=[f"note of {HOSTILE}"])


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_all_files_are_written(three: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "compare"
    assert write_comparison(three, folder) == folder / "compare.md"
    assert {path.name for path in folder.iterdir()} == NAMES
    text = (folder / "compare.md").read_text()
    assert text.startswith("# Comparison of 3 systems on 4 tasks (report split)\n")
    for grid in all_grids(three):
        assert f"## {grid.title}" in text.replace("\\", "")
    for name in ("means", "spent", "differences"):
        assert f"![{name}](figures/{name}.png)" in text
        head = (folder / "figures" / f"{name}.png").read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:24])
        assert width > 800 and height > 250
        assert ElementTree.parse(folder / "figures" / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_same_runs_give_the_same_bytes(three: Comparison, tmp_path: Path) -> None:
    def files() -> dict[str, bytes]:
        write_comparison(three, tmp_path)
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    before = files()
    assert len(before) == 10
    assert files() == before


def test_the_numbers_in_json(three: Comparison) -> None:
    found: Any = content(three)
    assert json.loads(json.dumps(found)) == found
    assert (found["kind"], found["format"]) == ("msft-lite comparison", 1)
    assert (found["reference"], found["resamples"], found["base_mean"]) == ("sft", 2000, 0.0)
    assert found["best"]["a"] == ["msft", "sro"]
    msft = found["systems"]["msft"]
    assert msft["mean"]["value"] == 0.625
    assert msft["tasks"]["c"]["difference"]["value"] == pytest.approx(0.2)
    assert msft["first_places"] == pytest.approx(11 / 6)
    assert msft["costs"]["training_flops"] == 4e15
    assert msft["costs"]["relative_copies"] == 2
    assert msft["costs"]["seconds"] == {"finish": 2, "generate": 8, "train": 60, "sum": 70}
    assert msft["by_seed"][0]["seed"] == 20
    assert msft["by_seed"][0]["tasks"]["d"]["value"] == 0.7


def test_the_numbers_in_csv(three: Comparison) -> None:
    rows = csv_rows(csv_text(three))
    assert list(rows[0]) == ["system", "seed", "task", "measure", "value", "low", "high"]

    def value(system: str, seed: str, task: str, measure: str) -> dict[str, str]:
        places = {"system": system, "seed": seed, "task": task, "measure": measure}
        (found,) = [row for row in rows if row.items() >= places.items()]
        return found

    assert float(value("msft", "20", "d", "score")["value"]) == 0.7
    mean = value("msft", "", "", "score")
    assert float(mean["low"]) < float(mean["value"]) == 0.625 < float(mean["high"])
    assert float(value("msft", "", "domain: words", "score")["value"]) == 0.7
    assert float(value("msft", "", "b", "difference to sft")["high"]) == 0
    assert float(value("sft", "", "", "sd_over_tasks")["value"]) == pytest.approx(0.1**0.5)
    assert float(value("sro", "", "", "first_places")["value"]) == pytest.approx(5 / 6)
    assert float(value("msft", "20", "", "training_flops")["value"]) == 4e15
    assert float(value("msft", "", "", "seconds: train")["value"]) == 60
    copies = value("msft", "", "", "relative_copies")
    assert (copies["value"], copies["low"], copies["high"]) == ("2.0", "", "")
    assert not any(r["system"] == "sft" and r["measure"].startswith("difference") for r in rows)


def test_hostile_names_stay_one_cell_of_csv_and_no_formula(hostile: Comparison) -> None:
    text = csv_text(hostile)
    rows = csv_rows(text)
    assert {row["system"] for row in rows} == {
        "'" + HOSTILE.replace("\x1b", "\\x1b").replace("\n", " "), "_y"
    }  # fmt: skip
    assert {len(row) for row in rows} == {7} and all(None not in row for row in rows)
    assert "\x1b" not in text
    assert {row["task"] for row in rows} == {"", "*[t]", "b"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b & c", r"a\_b \& c"),
        ("50 % of $x#", r"50 \% of \$x\#"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("^~", r"\textasciicircum{}\textasciitilde{}"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("[1]*", "{[}1{]}{*}"),
        ("é試", "U+00E9U+8A66"),
        ("a\nb\x1b", r"a b\textbackslash{}x1b"),
        ("<i>\"`|''", r"\textless{}i\textgreater{}\char34{}\char96{}\textbar{}'{}'"),
    ],
)
def test_latex_prints_names_as_they_are(text: str, shown: str) -> None:
    assert latex_text(text) == shown


def test_a_latex_table() -> None:
    grid = Grid(
        "50 %", ("Task ", "x_1"), (("a", "* 1.0 [-0.5, 2.0]"), ("-1", "-3.5"), ("[b", "-")),
        ("* marks the best.", "Rows: 3."), has_total=True,
    )  # fmt: skip
    lines = latex_table(grid, label="tab:x").splitlines()
    assert r"\caption{50 \%.}" in lines
    assert r"\begin{tabular}{lr}" in lines
    assert lines[lines.index(r"\toprule") + 1 :][:6] == [
        r"Task & x\_1 \\",
        r"\midrule",
        r"a & \textbf{1.0} {\scriptsize {[}$-$0.5, 2.0{]}} \\",
        r"-1 & $-$3.5 \\",
        r"\midrule",
        r"{[}b & -- \\",
    ]
    assert "Bold marks the best. Rows: 3." in lines[-2]


def test_a_latex_document_is_balanced_and_in_ascii(hostile: Comparison) -> None:
    text = latex_document(all_grids(hostile))
    assert text.isascii()
    plain = re.sub(r"\\[\\{}%&#$_]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    body = text.split(r"\begin{document}")[1]
    begun = re.findall(r"\\begin\{(\w+)\}", body)
    ended = re.findall(r"\\end\{(\w+)\}", body)
    assert sorted([*begun, "document"]) == sorted(ended)
    rules = re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\bottomrule", text, re.DOTALL)
    assert len(rules) == len(all_grids(hostile))
    for columns, body in rules:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}


def test_hostile_names_reach_every_file(hostile: Comparison, tmp_path: Path) -> None:
    write_comparison(hostile, tmp_path)
    assert HOSTILE in json.loads((tmp_path / "compare.json").read_text())["systems"]
    text = (tmp_path / "compare.md").read_text()
    assert "\x1b" not in text and "<i>" not in text
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)


def test_what_took_the_same_stands_side_by_side() -> None:
    # A mark is 1.6 % of the largest wide; 50 and 50.5 are closer, 40 and 100 alone.
    assert side_by_side([50.0, 100.0, 50.5, 40.0]) == pytest.approx([49.45, 100.0, 51.05, 40.0])
    assert side_by_side([7.0, 7.0, 7.0]) == pytest.approx([6.888, 7.0, 7.112])
    assert side_by_side([1.0, 2.0]) == [1.0, 2.0]
    assert side_by_side([0.0, 0.0]) == [0.0, 0.0]


def test_an_earlier_comparison_is_replaced_and_other_files_stay(
    three: Comparison, story: Make, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_comparison(three, tmp_path)
    write_comparison(compare({"x": [story({"a": "10"})]}), tmp_path)
    assert "1 system on 1 task" in (tmp_path / "compare.md").read_text()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["compare.md", "compare.csv", "compare.tex", "compare.json", "figures"]
)
def test_foreign_files_are_not_replaced(three: Comparison, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"kind": "mine"}')
    with pytest.raises(OutputFolderError, match=rf"{name} is there and is of no comparison"):
        write_comparison(three, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_a_run_folder_and_a_file_are_no_place_for_a_comparison(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text("")
    with pytest.raises(OutputFolderError, match="holds a run: name a folder of its own"):
        COMPARISON.check_folder(tmp_path)
    with pytest.raises(OutputFolderError, match=r"ledger\.jsonl is a file"):
        COMPARISON.check_folder(tmp_path / "ledger.jsonl")
    COMPARISON.check_folder(tmp_path / "new")


def test_a_folder_that_cannot_be_written_is_named(three: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/in: cannot write the comparison: Not a direct"):
        write_comparison(three, tmp_path / "file" / "in")


def test_the_default_folder_lies_beside_the_runs(tmp_path: Path) -> None:
    runs = [tmp_path / "runs" / name for name in ("sft", "msft")]
    assert default_folder(runs) == (tmp_path / "runs" / "compare").resolve()
    deeper = [tmp_path / "runs" / "one" / "sft", tmp_path / "runs" / "two" / "sft"]
    assert default_folder(deeper) == (tmp_path / "runs" / "compare").resolve()
    assert default_folder([Path("/x/sft"), Path("/y/sft")]) == Path("runs/compare")
