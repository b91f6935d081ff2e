"""Snapshots that are damaged or gone are trained again, and the run comes out as if they were not.

Laws 1 and 2 are what makes it exact; here whole runs are killed, robbed of files and resumed.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msft_lite.errors import Interrupted, SnapshotError
from msft_lite.ledger import read_rows
from msft_lite.report.telling import read_story
from msft_lite.run import roller
from msft_lite.run.folder import RunFolder
from msft_lite.run.session import run
from msft_lite.snapshot.store import SnapshotStore
from tests.outcomes import replays, results_but_replays, snapshots, tensors
from tests.whole_runs import FULL, Watcher, changed, killed

# Runs in which snapshots are needed in every way: as start, peak, best mean, parent, latest mark.
RUNS = {
    "msft": (),
    "msft, full, deltas": FULL,
    "msft, full, whole": (*FULL, "snapshots.delta=false"),
    "msft, one optimizer": ("method.keep_optimizer=true", "method.start_counts=false"),
    "sft": ("method.name=sft", "method.budget=", "method.epochs=2"),
    "continual": ("method.name=continual", "method.budget=", "method.epochs=1"),
    "sro": ("method.name=sro", "method.budget=", "method.epochs=1"),
    "soft_sro": ("method.name=soft_sro", "method.budget=", "method.epochs=1", "seed=1"),
    "dynamix": ("method.name=dynamix", "method.budget=", "method.epochs=1", "method.period=1"),
    # Four epochs, the last without the rows that are mastered by then.
    "ies": (
        "method.name=ies",
        "method.budget=",
        "method.epochs=4",
        "method.delta=0.1",
        "eval.marks_per_epoch=1",
    ),
    "shift": ("method.name=shift", "method.budget=", "method.epochs=1"),
}


def removed(path: Path) -> None:
    path.unlink()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", RUNS)
def test_every_file_in_turn_at_several_moments(
    small_recipe: Path, tmp_path: Path, name: str
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole", *RUNS[name]), mode="new", watch=Watcher())
    rows = results_but_replays(whole)
    moments = [len(rows) * part // 4 for part in (1, 2, 3)]
    again = 0
    recipe = changed(small_recipe, tmp_path / "run", *RUNS[name])
    for place, moment in enumerate([*moments, len(rows) - 2]):
        killed(recipe, "row", moment, "resume" if place else "new")
        for turn, file in enumerate(snapshots(recipe.output_dir)):
            other = tmp_path / f"{place}-{turn}"
            shutil.copytree(recipe.output_dir, other)
            (removed, flipped, cut)[(place + turn) % 3](other / "snapshots" / file.name)
            run(changed(small_recipe, other, *RUNS[name]), mode="resume", watch=Watcher())
            assert results_but_replays(other) == rows
            assert tensors(other) == tensors(whole)
            read_story(other / "ledger.jsonl")
            again += len(replays(other))
            shutil.rmtree(other)
    assert again


@pytest.mark.parametrize("name", ["msft, full, deltas", "msft, one optimizer", "continual"])
def test_all_files_at_once_with_the_crash_copy(
    small_recipe: Path, tmp_path: Path, name: str
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole", *RUNS[name]), mode="new", watch=Watcher())
    rows = results_but_replays(whole)
    recipe = changed(small_recipe, tmp_path / "run", *RUNS[name])
    killed(recipe, "row", 2 * len(rows) // 3)
    for file in snapshots(recipe.output_dir):
        file.unlink()
    flipped(RunFolder(recipe.output_dir).crash_copy)
    watch = killed(recipe, "progress", 3, "resume")  # while something is being trained again
    assert any("the crash copy is damaged" in text for text in watch.said)
    run(recipe, mode="resume", watch=Watcher())
    assert results_but_replays(recipe.output_dir) == rows
    assert tensors(recipe.output_dir) == tensors(whole)


@pytest.mark.parametrize("spoil", [removed, flipped, cut])
def test_what_is_lost_while_the_run_goes_on(
    small_recipe: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    changes = RUNS["msft, one optimizer"]  # whose stages start in the middle of those before
    whole = run(changed(small_recipe, tmp_path / "whole", *changes), mode="new", watch=Watcher())
    recipe = changed(small_recipe, tmp_path / "run", *changes)
    spoiled: set[str] = set()

    def act(event: str) -> None:
        """Spoils the file of every snapshot once, at a row of the ledger."""
        for file in snapshots(recipe.output_dir):
            if event == "row" and file.name not in spoiled:
                spoil(file)
                spoiled.add(file.name)

    watch = Watcher(act=act)
    run(recipe, mode="new", watch=watch)
    assert results_but_replays(recipe.output_dir) == results_but_replays(whole)
    assert tensors(recipe.output_dir) == tensors(whole)
    assert spoiled
    if spoil is cut:  # seen at once, while the trainer still held the weights
        assert not replays(recipe.output_dir)
        return
    (row, *_) = replays(recipe.output_dir)
    assert row["steps"] > 0
    assert any(f"mark {row['k']} of roll-out {row['n']} is trained again" in t for t in watch.said)


@pytest.mark.parametrize("name", ["msft", "msft, full, deltas", "continual", "sro"])
def test_what_is_in_memory_alone_is_lost_with_the_process(
    small_recipe: Path, tmp_path: Path, name: str
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole", *RUNS[name]), mode="new", watch=Watcher())
    rows = results_but_replays(whole)
    recipe = changed(small_recipe, tmp_path / "run", *RUNS[name], "snapshots.where=ram")
    for place, moment in enumerate([len(rows) // 4, len(rows) // 2]):
        killed(recipe, "row", moment, "resume" if place else "new")
        assert not RunFolder(recipe.output_dir).crash_copy.exists()
        killed(recipe, "progress", 0, "resume")
    run(recipe, mode="resume", watch=Watcher())
    assert results_but_replays(recipe.output_dir) == rows
    assert tensors(recipe.output_dir) == tensors(whole)


@pytest.mark.parametrize("free", [None, 0])
def test_where_memory_is_short_snapshots_are_written(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr("msft_lite.run.build.free_bytes", lambda _device: free)
    recipe = changed(small_recipe, tmp_path / "run", "snapshots.where=ram")
    killed(recipe, "row", 4)
    assert snapshots(recipe.output_dir)


def test_a_run_in_memory_that_is_asked_to_end_loses_nothing(
    small_recipe: Path, tmp_path: Path
) -> None:
    whole = run(changed(small_recipe, tmp_path / "whole", *FULL), mode="new", watch=Watcher())
    recipe = changed(small_recipe, tmp_path / "run", *FULL, "snapshots.where=ram")

    def ask(event: str) -> None:
        """Asks for an end, as a user does, at the sixth row."""
        if event == "row" and watch.seen["row"] == 6:
            os.kill(os.getpid(), signal.SIGINT)

    watch = Watcher(act=ask)
    with pytest.raises(Interrupted):
        run(recipe, mode="new", watch=watch)
    assert RunFolder(recipe.output_dir).crash_copy.exists()
    watch = Watcher()
    run(recipe, mode="resume", watch=watch)
    assert watch.first_step is not None
    assert watch.first_step > (1, 1)
    assert results_but_replays(recipe.output_dir) == results_but_replays(whole)
    assert tensors(recipe.output_dir) == tensors(whole)


def test_other_bits_are_not_taken_for_the_lost_ones(small_recipe: Path, tmp_path: Path) -> None:
    recipe = changed(small_recipe, tmp_path / "run")
    killed(recipe, "row", 4)
    for file in snapshots(recipe.output_dir):
        file.unlink()
    other = changed(
        small_recipe,
        tmp_path / "run",
        "train.per_device_train_batch_size=1",
        f"train.gradient_accumulation_steps={recipe.train.batch_rows}",
    )
    with pytest.raises(SnapshotError, match=r"(?s)is missing|cannot read.*gave snapshot"):
        run(other, mode="resume", watch=Watcher())


def test_all_that_is_written_is_on_record(
    small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    store, copy = SnapshotStore._store, roller.save_crash_copy

    def stored(self: SnapshotStore, identity: str, *others: Any) -> None:
        store(self, identity, *others)
        sizes.append(self.size_bytes(identity))

    def copied(path: Path, *others: Any) -> None:
        copy(path, *others)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(SnapshotStore, "_store", stored)
    monkeypatch.setattr(roller, "save_crash_copy", copied)
    stages = ("method.start_counts=false", "method.max_stages=3")  # whose starts are deltas
    folder = run(
        changed(small_recipe, tmp_path / "run", *FULL, *stages), mode="new", watch=Watcher()
    )
    rows = read_rows(folder / "ledger.jsonl")
    assert sum(row.get("written_bytes", 0) for row in rows) == sum(sizes)
    marks = sum(row["kind"] == "mark" and row["k"] > 0 for row in rows)
    assert len(sizes) > 2 * marks  # something was stored anew
    assert read_story(folder / "ledger.jsonl").totals().spending.written_bytes == sum(sizes)


@pytest.mark.parametrize("older", ["ledger.jsonl", "crash.safetensors and snapshots"])
@pytest.mark.parametrize(
    "name",
    ["msft", "msft, full, deltas", "msft, one optimizer", "continual", "sro", "dynamix", "ies"],
)
def test_files_of_different_moments(
    small_recipe: Path, tmp_path: Path, name: str, older: str
) -> None:
    """As in a folder that was copied while the run worked."""
    whole = run(changed(small_recipe, tmp_path / "whole", *RUNS[name]), mode="new", watch=Watcher())
    rows = results_but_replays(whole)
    recipe = changed(small_recipe, tmp_path / "run", *RUNS[name])
    middle, late = len(rows) // 2, len(rows) - 2
    for moment, later in ((3, 5), (middle, middle + 1), (middle + 2, late)):
        killed(recipe, "row", moment, "new" if moment == 3 else "resume")
        first = shutil.copytree(recipe.output_dir, tmp_path / f"first-{moment}")
        other = shutil.copytree(first, tmp_path / f"other-{moment}")
        killed(changed(small_recipe, other, *RUNS[name]), "row", later, "resume")
        for file in older.split(" and "):
            shutil.rmtree(other / file, ignore_errors=True)
            (other / file).unlink(missing_ok=True)
            if (first / file).exists():
                (first / file).rename(other / file)
        run(changed(small_recipe, other, *RUNS[name]), mode="resume", watch=Watcher())
        assert results_but_replays(other) == rows
        assert tensors(other) == tensors(whole)


def test_a_crash_copy_of_a_later_rollout_than_the_ledgers_is_not_gone_on_from(
    small_recipe: Path, tmp_path: Path
) -> None:
    """As in a folder whose ledger came back from an older copy of the run."""
    recipe = changed(small_recipe, tmp_path / "run", *RUNS["ies"])
    killed(recipe, "row", 11)
    rows, ledger = results_but_replays(recipe.output_dir), RunFolder(recipe.output_dir).ledger
    assert [row["n"] for row in rows if row["kind"] == "rollout"] == [1, 2, 3]
    first = [row for row in rows if row.get("n") == 1]
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[: len(first) + 2]))  # the start, and what was asked for next
    killed(recipe, "row", 11, "resume")
    assert results_but_replays(recipe.output_dir)[: len(rows)] == rows
