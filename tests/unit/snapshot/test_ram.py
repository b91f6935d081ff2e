from __future__ import annotations

from pathlib import Path

import pytest
import torch

from msft_lite.errors import LostSnapshot
from msft_lite.model.weights import Weights
from msft_lite.snapshot.ram import HostMemory
from msft_lite.snapshot.store import SnapshotStore


def weights_of(value: float) -> Weights:
    return Weights("full", {"w": torch.full((100,), float(value))})


def opened(folder: Path, *, free: int | None = 2**30) -> SnapshotStore:
    return SnapshotStore(folder, root=lambda: weights_of(0), memory=HostMemory(lambda: free))


def is_held(store: SnapshotStore, identity: str, value: float) -> bool:
    return torch.equal(store.load(identity).tensors["w"], weights_of(value).tensors["w"])


def test_a_snapshot_in_memory_takes_no_file_until_it_is_settled(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first, second = store.save(weights_of(1)), store.save(weights_of(2))
    assert not list(tmp_path.iterdir())
    assert store.written_bytes == store.alive_bytes() == 0
    assert is_held(store, first, 1)
    store.settle([second])
    assert [path.stem for path in tmp_path.iterdir()] == [second]
    again = opened(tmp_path)
    assert is_held(again, second, 2)
    with pytest.raises(LostSnapshot):
        again.load(first)


def test_all_are_settled_where_none_is_named(tmp_path: Path) -> None:
    store = opened(tmp_path)
    saved = {store.save(weights_of(value)) for value in (1, 2, 3)}
    store.settle()
    assert {path.stem for path in tmp_path.iterdir()} == saved


@pytest.mark.parametrize(("free", "in_memory"), [(799, False), (800, True), (None, False)])
def test_memory_takes_what_fits_into_half_of_what_is_free(
    tmp_path: Path, free: int | None, in_memory: bool
) -> None:
    opened(tmp_path, free=free).save(weights_of(1))
    assert bool(list(tmp_path.iterdir())) is not in_memory


def test_only_those_retained_stay_in_memory(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first, second = store.save(weights_of(1)), store.save(weights_of(2))
    assert store.retain([second]) == 0
    assert is_held(store, second, 2)
    with pytest.raises(LostSnapshot):
        store.load(first)


def test_a_damaged_file_is_replaced_when_its_snapshot_is_settled(tmp_path: Path) -> None:
    identity = opened(tmp_path, free=0).save(weights_of(1))
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    store = opened(tmp_path)
    with pytest.raises(LostSnapshot):
        store.load(identity)
    store.restore(identity, weights_of(1))
    store.settle()
    assert is_held(opened(tmp_path), identity, 1)
