"""What a run's snapshots are stored against and needed for, and whether they are whole."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from msft_lite.cli.snapshots_text import show_snapshots
from msft_lite.core import ROOT
from msft_lite.errors import ModelError, OutputFolderError
from msft_lite.ledger import read_rows
from msft_lite.run.inventory import holders, inventory, verified
from msft_lite.run.session import run
from tests.whole_runs import FULL, Watcher, changed, killed


@pytest.fixture
def stopped(small_recipe: Path, tmp_path: Path) -> Path:
    """The folder of a run with full tuning that was killed in its first stage."""
    recipe = changed(small_recipe, tmp_path / "stopped", *FULL)
    killed(recipe, "mark", 3)
    return recipe.output_dir


def shown(folder: Path, *, verifies: bool) -> tuple[bool, str]:
    output = StringIO()
    console = Console(file=output, width=160)
    return show_snapshots(folder, verifies=verifies, console=console), output.getvalue()


def test_all_that_is_needed_is_there_and_told(stopped: Path) -> None:
    rows = read_rows(stopped / "ledger.jsonl")
    found = inventory(stopped)
    held = {item.identity: item for item in found.items}
    needed = holders(rows)
    assert set(needed) - {ROOT} <= set(held)
    marks = [row for row in rows if row["kind"] == "mark"]
    assert "the latest mark" in held[marks[-1]["snapshot"]].held_by
    assert "the start of the stage" in needed[ROOT]
    peaks = {reason for reasons in needed.values() for reason in reasons if "peak" in reason}
    assert peaks == {"the peak of same", "the peak of noise", "the peak of letter"}
    assert {item.parent for item in found.items} == {ROOT}
    assert {item.place for item in found.items} <= {f"r1 m{k}" for k in range(1, 5)}
    files = [*(stopped / "snapshots").iterdir(), stopped / "crash.safetensors"]
    assert found.size_bytes == sum(file.stat().st_size for file in files)
    ok, text = shown(stopped, verifies=False)
    assert ok
    for fragment in ("against the base", "the latest mark", "crash copy"):
        assert fragment in text


def test_what_is_damaged_is_named(stopped: Path) -> None:
    assert set(verified(stopped).values()) == {""}
    assert shown(stopped, verifies=True)[0]
    file = max((stopped / "snapshots").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)
    crash = stopped / "crash.safetensors"
    crash.write_bytes(crash.read_bytes()[:-1])
    found = verified(stopped)
    assert {name for name, problem in found.items() if problem} == {file.stem, crash.name}
    ok, text = shown(stopped, verifies=True)
    assert not ok
    assert f"snapshot {file.stem[:12]}" in text
    assert f"{len(found) - 2} of {len(found)} whole" in text
    assert "trains what is damaged or missing again" in text
    assert "--overwrite" not in found[file.stem]
    file.unlink()
    assert "missing, the " in verified(stopped)[file.stem]
    file.write_bytes(b"x")
    assert {item.parent for item in inventory(stopped).items} == {None, ROOT}
    assert "damaged" in shown(stopped, verifies=False)[1]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("/nowhere/base", "does not exist"), ("some/base", "hf download some/base")],
)
def test_a_copied_run_is_read_with_its_base_on_any_device(
    stopped: Path, name: str, problem: str
) -> None:
    recipe = stopped / "recipe.toml"
    text = recipe.read_text().replace('device = "auto"', 'device = "cuda"')
    assert 'device = "cuda"' in text
    recipe.write_text(text)
    assert set(verified(stopped).values()) == {""}
    recipe.write_text(re.sub("name_or_path = .*", f'name_or_path = "{name}"', text))
    with pytest.raises(ModelError, match=f"{problem}.*; what the run stored is read together"):
        verified(stopped)


def test_a_finished_run_keeps_its_result(small_recipe: Path, tmp_path: Path) -> None:
    folder = run(changed(small_recipe, tmp_path / "run"), mode="new", watch=Watcher())
    finish = read_rows(folder / "ledger.jsonl")[-1]
    (item,) = inventory(folder).items
    assert (item.identity, item.parent) == (finish["snapshot"], "")
    assert item.held_by == ("the result",)
    assert inventory(folder).crash_copy_bytes == 0
    assert verified(folder) == {item.identity: ""}
    next((folder / "snapshots").iterdir()).unlink()
    ok, text = shown(folder, verifies=True)
    assert not ok
    assert f"its result is also in {folder / 'best'}" in text.replace("\n", "")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputFolderError, match=r"holds no run: no ledger\.jsonl"):
        inventory(tmp_path)
