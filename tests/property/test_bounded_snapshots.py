"""With few bytes for snapshots a run trains points again and comes out the same."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from msft_lite.errors import ReplayMismatch, StorageError
from msft_lite.model.weights import Weights
from msft_lite.recipe import Recipe
from msft_lite.run.disk import DiskPlan
from msft_lite.run.folder import RunFolder
from msft_lite.run.plan import plan
from msft_lite.run.session import run
from msft_lite.snapshot import store
from msft_lite.snapshot.codec import holds
from tests.outcomes import best, replays, results, results_but_replays
from tests.whole_runs import FULL, Watcher, changed, killed

LORA = ("model.lora_r=64",)  # larger than what else is in a crash copy
RUNS = {
    "msft": LORA,
    "msft, at the end": (*LORA, "eval.at=end"),
    "msft, full": (*FULL, "snapshots.delta=false"),
    "msft, one optimizer": (*LORA, "method.keep_optimizer=true", "method.start_counts=false"),
    "msft, 8-bit": (*LORA, "train.optim=adamw_8bit"),  # a snapshot is more than the moments
    "continual": (*LORA, "method.name=continual", "method.budget=", "method.epochs=1"),
}


class Disk:
    """Measures at every event of a run what its snapshots and crash copy take."""

    def __init__(self, recipe: Recipe) -> None:
        self.folder = RunFolder(recipe.output_dir)
        self.most_bytes = 0

    def measure(self, _event: str) -> None:
        files = [*self.folder.snapshots.glob("*"), *self.folder.path.glob("crash*")]
        self.most_bytes = max(self.most_bytes, sum(file.stat().st_size for file in files))


def executed(recipe: Recipe) -> list[str]:
    """Runs to the end and returns what was said."""
    watch = Watcher()
    run(recipe, mode="new", watch=watch)
    return watch.said


def least(recipe: Recipe) -> int:
    """Returns the least bound, which the refusal of a smaller one tells."""
    too_small = recipe.model_copy(
        update={"snapshots": recipe.snapshots.model_copy(update={"max_bytes": 1})}
    )
    with pytest.raises(StorageError, match=r"a mark needs .* or more") as error:
        executed(too_small)
    found = re.search(r"max_bytes=(\d+) or more", str(error.value))
    assert found is not None
    return int(found[1])


needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is in the extras alone"
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=needs_bitsandbytes if "8-bit" in n else ()) for n in RUNS]
)
def test_a_bound_changes_nothing_but_what_is_trained_again(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    free = changed(small_recipe, tmp_path / "free", *RUNS[name])
    executed(free)
    rows = results_but_replays(free.output_dir)
    bound = least(changed(small_recipe, tmp_path / "refused", *RUNS[name]))
    change = f"snapshots.max_bytes={bound}"
    recipe = changed(small_recipe, tmp_path / "run", *RUNS[name], change)
    killed(recipe, "row", len(rows) // 2)
    disk = Disk(recipe)

    def noted(path: Path, weights: Weights) -> bool:
        """Sees the disk while what proves that a mark can be saved lies on it."""
        disk.measure("proof")
        return holds(path, weights)

    monkeypatch.setattr(store, "holds", noted)
    watch = Watcher(act=disk.measure)
    run(recipe, mode="resume", watch=watch)
    assert results_but_replays(recipe.output_dir) == rows
    assert best(recipe.output_dir) == best(free.output_dir)
    assert 0 < disk.most_bytes <= bound
    assert any("is not kept" in text for text in watch.said)


def test_a_bound_that_holds_all_is_none(small_recipe: Path, tmp_path: Path) -> None:
    free = changed(small_recipe, tmp_path / "free", *FULL)
    executed(free)
    recipe = changed(small_recipe, tmp_path / "run", *FULL, "snapshots.max_bytes=1000000000")
    said = executed(recipe)
    assert results(recipe.output_dir) == results(free.output_dir)
    assert not any("is not kept" in text for text in said)
    assert replays(recipe.output_dir) == []


def test_a_resume_that_may_give_other_bits_is_refused(small_recipe: Path, tmp_path: Path) -> None:
    bound = "snapshots.max_bytes=1000000000"
    killed(changed(small_recipe, tmp_path / "run", bound), "row", 3)
    other = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2")
    recipe = changed(small_recipe, tmp_path / "run", bound, *other)
    with pytest.raises(ReplayMismatch, match=r"snapshots\.max_bytes.*go on as the run began"):
        run(recipe, mode="resume", watch=Watcher())


def test_the_plan_tells_what_a_bound_comes_to(small_recipe: Path, tmp_path: Path) -> None:
    disk = plan(changed(small_recipe, tmp_path / "run")).disk
    assert disk is not None
    assert disk.most_bytes == disk.wanted_bytes
    lower = disk.wanted_bytes - 1
    found = plan(changed(small_recipe, tmp_path / "run", f"snapshots.max_bytes={lower}"))
    assert found.disk is not None
    assert found.disk.most_bytes == lower
    assert any(f"holds {disk.alive - 1} snapshots" in note for note in found.notes)
    small = plan(changed(small_recipe, tmp_path / "run", "snapshots.max_bytes=1000"))
    assert any("a mark needs" in note for note in small.notes)


def test_a_full_disk_is_told_beforehand(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    assert DiskPlan(10, 10, 3, None).shortage(folder) == ""
    vast = DiskPlan(10**18, 10**18, 3, None)
    assert "disk: " in vast.shortage(folder)
    assert DiskPlan(10**18, 10**18, 3, 10**5).shortage(folder) == ""
    assert "a mark needs" in DiskPlan(10**18, 10**18, 3, 10**5).problem
