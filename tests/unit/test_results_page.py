"""The pages of figures: they are what the records give."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS / "cases")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("run")


def test_every_page_is_what_the_records_give(run: ModuleType) -> None:
    stale = [page.name for page, text in run.rendered().items() if page.read_text() != text]
    assert stale == [], "python benchmarks/run.py render"


def test_every_record_has_the_form_and_is_shown(run: ModuleType) -> None:
    pages = "\n".join(run.rendered().values())
    files = sorted((BENCHMARKS / "baselines").glob("*/*.json"))
    assert len(files) > 10
    for file in files:
        found = json.loads(file.read_text())
        assert list(found) == ["command", "device", "versions", "conditions", "tables"], file
        for name, table in found["tables"].items():
            shown = run.record.markdown(table) in pages
            assert shown == (name != "parts"), f"{file}: {name}"


def test_a_cell_has_its_columns_format_and_an_empty_column_is_left_out(run: ModuleType) -> None:
    table = run.record.table(
        {"case": "", "MB": ",.1f", "s": ".1f"}, [["a", 1234.5678, None], ["b", None, None]]
    )
    assert run.record.markdown(table) == "\n".join(
        ["| case | MB |", "|---|---:|", "| a | 1,234.6 |", "| b | |"]
    )
    assert '["a", 1234.57, null]' in run.record.as_json({"tables": {"x": table}})


def test_a_changed_figure_makes_a_page_stale(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", "check"])
    assert run.main() == 0
    monkeypatch.setattr(run.record, "markdown", lambda table: "another")
    assert run.main() == 1
    assert "benchmarks/RESULTS.md is stale" in capsys.readouterr().out
