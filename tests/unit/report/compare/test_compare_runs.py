"""Which run folders are seeds of one system, and what systems are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msft_lite.errors import LedgerError
from msft_lite.recipe import dump_toml, load
from msft_lite.report.compare import read_systems

Place = Callable[..., Path]
RECIPE = """
seed = {seed}
[model]
name_or_path = "owner/model"
[method]
name = "{method}"
[train]
learning_rate = {rate}
[[tasks]]
name = "a"
path = "a.jsonl"
"""


@pytest.fixture
def place(
    tmp_path: Path,
    rows: Callable[..., list[dict[str, Any]]],
    write: Callable[[Any, Path], Path],
) -> Place:
    """Writes a run folder: a ledger and the resolved recipe beside it."""

    def make(
        name: str, *, method: str = "sft", seed: int = 20, rate: str = "1e-3", **start: Any
    ) -> Path:
        folder = write(rows({"a": "0011"}, method=method, seed=seed, **start), tmp_path / name)
        source = folder / "source.toml"
        source.write_text(RECIPE.format(seed=seed, method=method, rate=rate))
        text = dump_toml(load(source, [f"output_dir={folder}"]))
        (folder / "recipe.toml").write_text(text)
        source.unlink()
        return folder

    return make


def test_runs_that_differ_in_their_seed_alone_are_one_system(place: Place) -> None:
    folders = [place("x", seed=2), place("m", method="msft"), place("y", seed=1)]
    found = read_systems(folders)
    assert found.folders == {"sft": (folders[0], folders[2]), "msft": (folders[1],)}
    assert [story.setting.seed for story in found.stories["sft"]] == [2, 1]
    assert found.notes == ()


def test_other_settings_are_another_system_called_by_its_folder(place: Place) -> None:
    faster = [place("fast", seed=2, rate="1e-2"), place("fast2", seed=3, rate="1e-2")]
    folders = [place("slow", seed=1), *faster]
    found = read_systems(folders)
    assert list(found.folders.values()) == [(folders[0],), (folders[1], folders[2])]
    assert list(found.stories) == ["sft (slow)", "sft (fast)"]


def test_folders_of_one_name_are_told_apart_by_those_above(place: Place) -> None:
    folders = [place("one/run"), place("two/run", rate="1e-2"), place("m", method="msft")]
    assert list(read_systems(folders).stories) == ["sft (one/run)", "sft (two/run)", "msft"]


def test_the_same_seed_twice_is_not_two_seeds(place: Place) -> None:
    found = read_systems([place("here"), place("there"), place("other", seed=21)])
    assert list(found.stories) == ["sft (here)", "sft (there)", "sft (other)"]


def test_without_the_runs_recipe_a_run_stands_apart_and_it_is_said(place: Place) -> None:
    folders = [place("x", seed=1), place("y", seed=2), place("z", seed=3)]
    (folders[1] / "recipe.toml").unlink()
    recipe = folders[2] / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("seed = 3", "seed = 4"))
    found = read_systems(folders)
    assert list(found.stories) == ["sft (x)", "sft (y)", "sft (z)"]
    assert [note.split(":")[0] for note in found.notes] == [str(folders[1]), str(folders[2])]
    assert "its recipe.toml cannot be read or is not the run's" in found.notes[0]


def test_a_run_named_twice_is_taken_once(place: Place) -> None:
    folder = place("x")
    found = read_systems([folder, place("m", method="msft"), folder / ".." / "x"])
    assert list(found.stories) == ["sft", "msft"]
    assert found.notes == ("A run that was named twice is taken once.",)


def test_unfinished_runs_are_named_and_left_out(place: Place) -> None:
    folders = [place("x"), place("m", method="msft"), place("late", seed=3)]
    ledger = folders[2] / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))
    found = read_systems(folders)
    assert list(found.stories) == ["sft", "msft"]
    assert found.notes == (
        f"{folders[2]} is not finished and left out; go on with it: msft-lite resume {folders[2]}",
    )
    with pytest.raises(LedgerError, match=r"needs two finished runs and was given 1; .*late is"):
        read_systems([folders[0], folders[2]])


def test_what_cannot_be_compared_is_named_by_its_folder(place: Place) -> None:
    folders = [place("x"), place("m", method="msft", base="f00d")]
    with pytest.raises(LedgerError, match=rf"^{folders[0]} and {folders[1]} cannot be compared: b"):
        read_systems(folders)


def test_a_folder_without_a_ledger_is_named(place: Place, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"nothing/ledger\.jsonl: cannot read the ledger"):
        read_systems([place("x"), tmp_path / "nothing"])
