"""Who may use a run folder, and that nobody's files but a run's own are ever removed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from msft_lite.errors import DataError, Interrupted, OutputFolderError, ReplayMismatch
from msft_lite.recipe import Recipe, load
from msft_lite.run import roller
from msft_lite.run.folder import RunFolder
from msft_lite.run.resuming import load_run
from msft_lite.run.session import run
from tests.outcomes import results, tensors
from tests.whole_runs import Killed, Watcher, killed


@pytest.fixture
def recipe(small_recipe: Path) -> Recipe:
    changes = [f"output_dir={small_recipe.parent / 'run'}", "method.max_stages=1"]
    return load(small_recipe, changes)


def test_a_used_folder_is_refused_and_named(recipe: Recipe) -> None:
    killed(recipe, "row", 3)
    with pytest.raises(OutputFolderError, match=r"run is in use.*--resume.*--overwrite"):
        run(recipe, mode="new", watch=Watcher())


def test_a_run_that_died_before_its_first_row_can_be_begun_again(recipe: Recipe) -> None:
    folder = RunFolder(recipe.output_dir)
    folder.snapshots.mkdir(parents=True)
    folder.lock.touch()
    folder.recipe.write_text("seed = 1\n")
    run(recipe, mode="new", watch=Watcher())
    assert folder.best.is_dir()


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_a_folder_of_other_things_is_never_touched(recipe: Recipe, mode: Any) -> None:
    mine = recipe.output_dir / "figures" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(OutputFolderError, match=r"no run of msft-lite \(figures is there\)"):
        run(recipe, mode=mode, watch=Watcher())
    assert mine.read_text() == "mine"


def test_a_mistake_does_not_cost_the_run_that_was_to_be_replaced(recipe: Recipe) -> None:
    killed(recipe, "row", 3)
    before = RunFolder(recipe.output_dir).ledger.read_bytes()
    path = recipe.tasks[0].path
    assert path is not None
    path.rename(path.with_suffix(".away"))
    with pytest.raises(DataError):
        run(recipe, mode="overwrite", watch=Watcher())
    assert RunFolder(recipe.output_dir).ledger.read_bytes() == before


def test_two_processes_do_not_share_a_folder(recipe: Recipe) -> None:
    folder = RunFolder(recipe.output_dir)
    with folder.opened("new"), pytest.raises(OutputFolderError, match="another process"):
        run(recipe, mode="new", watch=Watcher())


def test_a_refused_resume_leaves_recipe_and_ledger_as_they_were(recipe: Recipe) -> None:
    killed(recipe, "row", 3)
    folder = RunFolder(recipe.output_dir)
    before = folder.recipe.read_bytes(), folder.ledger.read_bytes()
    with pytest.raises(ReplayMismatch, match=r"another recipe: seed would change"):
        run(recipe.model_copy(update={"seed": 4}), mode="resume", watch=Watcher())
    assert (folder.recipe.read_bytes(), folder.ledger.read_bytes()) == before
    run(load_run(folder.path), mode="resume", watch=Watcher())
    assert folder.best.is_dir()


def test_a_resume_on_another_base_is_refused(small_recipe: Path, tmp_path: Path) -> None:
    recipe = load(small_recipe, [f"output_dir={tmp_path / 'run'}", "method.max_stages=1"])
    base = Path(shutil.copytree(recipe.model.name_or_path, tmp_path / "base"))
    moved = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"name_or_path": str(base)})}
    )
    killed(moved, "row", 3)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ReplayMismatch, match="began with base"):
        run(moved, mode="resume", watch=Watcher())


def test_a_resume_on_other_rows_is_refused(recipe: Recipe) -> None:
    killed(recipe, "row", 3)
    path = recipe.tasks[0].path
    assert path is not None
    path.write_text(path.read_text().replace("#### k", "#### j"))
    with pytest.raises(ReplayMismatch, match="began with data"):
        run(recipe, mode="resume", watch=Watcher())


@pytest.mark.parametrize("looks", [0, 2, 5, 9])
def test_an_asked_end_comes_at_the_next_safe_point_and_loses_nothing(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    whole = recipe.model_copy(update={"output_dir": recipe.output_dir.with_name("whole")})
    run(whole, mode="new", watch=Watcher())
    looked = count()
    leave = roller.Roller._leave_if_asked

    def asked(self: roller.Roller) -> None:
        if next(looked) == looks:
            self._stop.requested = True
        leave(self)

    with monkeypatch.context() as patched:
        patched.setattr(roller.Roller, "_leave_if_asked", asked)
        with pytest.raises(Interrupted, match="msft-lite resume"):
            run(recipe, mode="new", watch=Watcher())
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == results(whole.output_dir)
    assert tensors(recipe.output_dir) == tensors(whole.output_dir)


def test_what_a_report_made_goes_with_the_run_and_nothing_else(tmp_path: Path) -> None:
    made = ("ledger.jsonl", "summary.json", "report.md", "report.html", "examples.json")
    for name in (*made, "mine.html"):
        (tmp_path / name).write_text("x")
    RunFolder(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def test_reading_changes_nothing_and_keeps_runs_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.ledger.touch()
    before = contents(tmp_path)
    with folder.kept_still():
        assert contents(tmp_path) == before  # a copy without its lock, on a read-only disk
    folder.lock.touch()
    other = RunFolder(tmp_path)
    refused = pytest.raises(OutputFolderError, match="another process")
    with folder.kept_still(), other.kept_still(), refused, other.opened("resume"):
        pass
    with folder.opened("resume"), refused, other.kept_still():
        pass


def test_a_file_system_without_locks_is_named_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(_descriptor: int, _kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    told = pytest.raises(OutputFolderError, match=r"No locks available.*output_dir=FOLDER")
    with told, RunFolder(tmp_path).opened("new"):
        pass


def test_a_run_that_was_half_removed_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was the last thing removed before a kill."""
    files = ("recipe.toml", "ledger.jsonl", "crash.safetensors", "report.md", "lock")
    for steps in count():
        folder = RunFolder(tmp_path / str(steps))
        for name in ("best", "figures", "snapshots"):
            (folder.path / name).mkdir(parents=True)
        for name in files:
            (folder.path / name).touch()
        if was_killed := killed_in_clear(folder, steps, monkeypatch):
            with folder.opened("overwrite"):
                folder.clear()
        with folder.opened("new"):
            assert [path.name for path in folder.path.iterdir()] == ["lock"]
        if not was_killed:
            break
    assert steps > len(files)


def killed_in_clear(folder: RunFolder, steps: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Clears ``folder`` up to so many removals; returns whether that was not all of it."""
    left = iter(range(steps))

    def struck(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **named: Any) -> None:
            if next(left, None) is None:
                raise Killed
            real(*arguments, **named)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", struck(Path.unlink))
        patched.setattr(shutil, "rmtree", struck(shutil.rmtree))
        try:
            folder.clear()
        except Killed:
            return True
    return False


def test_a_recipe_that_was_edited_in_the_folder_is_named(recipe: Recipe) -> None:
    killed(recipe, "row", 3)
    path = RunFolder(recipe.output_dir).recipe
    path.write_text(path.read_text().replace("seed = 3", "seed = 4"))
    with pytest.raises(ReplayMismatch, match=r"recipe\.toml is not as it was then"):
        run(load_run(recipe.output_dir), mode="resume", watch=Watcher())
