from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from msft_lite.errors import DamagedCrashCopy, SnapshotError, StorageError
from msft_lite.model.weights import Weights
from msft_lite.snapshot.codec import encode
from msft_lite.snapshot.crash import crash_copy_bytes, load_crash_copy, save_crash_copy


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


STATE = {
    "position": {"n": 2, "cursor": {"key": "ab", "drawn": {"täsk": 7}}, "pending": [], "x": None},
    "trainer": {"steps": 2**53 + 1, "rate": 0.1 + 0.2, "fresh": True},
    "zeros": "0" * 64,
}


def moments(value: float) -> dict[str, torch.Tensor]:
    return {
        "exp_avg/layer.w": torch.full((4, 3), value),
        "exp_avg_sq/layer.w": torch.full((4, 3), value, dtype=torch.bfloat16),
        "step": torch.tensor(3),
        "eight_bit": torch.arange(5, dtype=torch.uint8),
    }


def test_tensors_and_state_come_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    save_crash_copy(path, moments(1), STATE)
    found = load_crash_copy(path)
    assert found is not None
    tensors, state = found
    assert state == STATE
    assert tensors.keys() == moments(1).keys()
    for name, tensor in moments(1).items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_there_is_only_the_latest(tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    for value in (1, 2):
        save_crash_copy(path, moments(value), {"mark": value})
    found = load_crash_copy(path)
    assert found is not None
    assert found[1] == {"mark": 2}
    assert float(found[0]["exp_avg/layer.w"][0, 0]) == 2
    assert names(tmp_path) == ["crash.safetensors"]


def test_no_crash_copy_is_none(tmp_path: Path) -> None:
    assert load_crash_copy(tmp_path / "crash.safetensors") is None


def test_no_tensors_are_stored_too(tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    save_crash_copy(path, {}, {})
    assert load_crash_copy(path) == ({}, {})


@pytest.mark.parametrize("place", [-1, 12, 60, 200])
def test_a_flipped_bit_is_found_wherever_it_is(place: int, tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    save_crash_copy(path, moments(1), STATE)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedCrashCopy) as caught:
        load_crash_copy(path)
    assert str(caught.value).startswith(f"{path}: the crash copy is damaged: ")


def test_a_snapshot_is_not_taken_for_a_crash_copy(tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    path.write_bytes(encode(Weights("full", {"w": torch.zeros(2)})))
    with pytest.raises(SnapshotError, match="its format is 'msft-lite snapshot 1'") as caught:
        load_crash_copy(path)
    assert not isinstance(caught.value, DamagedCrashCopy)  # one that a newer version wrote
    assert f"delete it and go on with: msft-lite resume {tmp_path}" in str(caught.value)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_leaves_the_crash_copy_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "crash.safetensors"
    save_crash_copy(path, moments(1), {"mark": 1})

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(StorageError, match=f"free some room .* msft-lite resume {tmp_path}$"):
            save_crash_copy(path, moments(2), {"mark": 2})
    assert names(tmp_path) == ["crash.safetensors"]
    found = load_crash_copy(path)
    assert found is not None
    assert found[1] == {"mark": 1}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    save_crash_copy(path, moments(1), {"mark": 1})
    (tmp_path / "crash.safetensors.partial").write_bytes(b"half")
    found = load_crash_copy(path)
    assert found is not None
    assert found[1] == {"mark": 1}
    assert names(tmp_path) == ["crash.safetensors"]


def test_a_state_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_crash_copy(tmp_path / "crash.safetensors", {}, {"loss": float("nan")})
    assert names(tmp_path) == []


def test_what_only_reads_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    save_crash_copy(path, moments(1), {})
    (tmp_path / "crash.safetensors.partial").write_bytes(b"half")
    assert load_crash_copy(path, reads_only=True) is not None
    assert names(tmp_path) == ["crash.safetensors", "crash.safetensors.partial"]


def test_its_length_is_known_beforehand(tmp_path: Path) -> None:
    path, state = tmp_path / "crash.safetensors", {"a": list(range(100))}
    save_crash_copy(path, moments(1), state)
    text_bytes = len(json.dumps(state, separators=(",", ":")))
    assert 0 <= path.stat().st_size - crash_copy_bytes(moments(1)) - text_bytes < 8
