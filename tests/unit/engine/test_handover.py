from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msft_lite.engine.handover import (
    LOCK_NAME,
    PREFIX,
    notice_of,
    remove_stale_folders,
    weights_folder,
)
from msft_lite.errors import StorageError

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


def test_the_weights_lie_in_the_folder_until_the_context_ends(tmp_path: Path) -> None:
    with weights_folder(TENSORS, fallback=tmp_path, memory=tmp_path) as folder:
        read = load_file(folder / "model.safetensors")
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert list(tmp_path.iterdir()) == []


def test_the_folder_goes_when_the_engine_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="engine"),
        weights_folder(TENSORS, fallback=tmp_path, memory=tmp_path),
    ):
        raise ValueError("engine")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_from_both_places(tmp_path: Path) -> None:
    for place in ("memory", "run"):
        (tmp_path / place / (PREFIX + "left")).mkdir(parents=True)
        (tmp_path / place / (PREFIX + "left") / LOCK_NAME).touch()
    with weights_folder(TENSORS, fallback=tmp_path / "run", memory=tmp_path / "memory") as folder:
        assert list(tmp_path.glob("*/*")) == [folder]


def test_without_shared_memory_the_fallback_is_used(tmp_path: Path) -> None:
    with weights_folder(TENSORS, fallback=tmp_path, memory=tmp_path / "absent") as folder:
        assert folder.parent == tmp_path
        assert str(tmp_path / "absent") in notice_of(folder, memory=tmp_path / "absent")
        assert notice_of(folder, memory=tmp_path) == ""


def test_too_little_shared_memory_means_the_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr("msft_lite.engine.handover.HEADROOM", 1e15)
    with weights_folder(TENSORS, fallback=tmp_path, memory=tmp_path / "memory") as folder:
        assert folder.parent == tmp_path


def test_only_folders_of_dead_trainers_are_removed(tmp_path: Path) -> None:
    dead, alive, other = (tmp_path / name for name in (PREFIX + "a", PREFIX + "b", "other"))
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / LOCK_NAME).touch()
    with (alive / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_stale_folders(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([alive, other])


def test_a_disk_that_refuses_the_file_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("msft_lite.engine.handover.save_file", full)
    with (
        pytest.raises(StorageError, match="No space left"),
        weights_folder(TENSORS, fallback=tmp_path, memory=tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
