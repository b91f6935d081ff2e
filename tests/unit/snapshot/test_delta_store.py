"""Snapshots that are stored as deltas: what is against what, what stays, and what a kill leaves."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from msft_lite.core import ROOT
from msft_lite.errors import LostSnapshot, SnapshotError, StorageError
from msft_lite.model.weights import Weights
from msft_lite.snapshot import store as store_module
from msft_lite.snapshot import tensor_file
from msft_lite.snapshot.base import BaseFiles
from msft_lite.snapshot.codec import encode, size_bytes, snapshot_id
from msft_lite.snapshot.delta import Form
from msft_lite.snapshot.store import SnapshotStore


def moved(steps: int) -> Weights:
    """Returns the weights after so many small steps; 0 are those that the run began with."""
    chance = torch.Generator().manual_seed(1)
    base = torch.randn(100, 100, generator=chance)
    for _ in range(steps):
        base = base + 0.0005 * torch.randn(100, 100, generator=chance)
    return Weights("full", {"w": base.bfloat16(), "norm": torch.ones(100).bfloat16()})


def opened(folder: Path, *, deltas: bool = True) -> SnapshotStore:
    return SnapshotStore(folder, root=lambda: moved(0), deltas=deltas)


def is_held(store: SnapshotStore, identity: str, steps: int) -> bool:
    found, expected = store.load(identity), moved(steps)
    return found.kind == expected.kind and all(
        torch.equal(found.tensors[n].view(torch.int16), t.view(torch.int16))
        for n, t in expected.tensors.items()
    )


def file_of(folder: Path, identity: str) -> Path:
    return folder / f"{identity}.safetensors"


def metadata(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def parents(folder: Path) -> dict[str, str]:
    """Returns what each snapshot is stored against, by id; nothing for a whole one."""
    return {path.stem: metadata(path).get("parent", "") for path in folder.glob("*.safetensors")}


def renamed(path: Path, *, parent: str) -> None:
    """Writes another parent of the same length into the file."""
    content = path.read_bytes()
    before = metadata(path)["parent"]
    assert len(parent) == len(before)
    path.write_bytes(content.replace(f'"{before}"'.encode(), f'"{parent}"'.encode()))


def test_the_id_does_not_depend_on_how_a_snapshot_is_stored(tmp_path: Path) -> None:
    plain, against = opened(tmp_path / "plain", deltas=False), opened(tmp_path / "delta")
    identity = plain.save(moved(1))
    assert against.save(moved(1)) == identity == snapshot_id(moved(1))
    assert is_held(against, identity, 1)
    assert plain.size_bytes(identity) == size_bytes(moved(1))
    assert against.size_bytes(identity) == file_of(tmp_path / "delta", identity).stat().st_size
    assert against.alive_bytes() < plain.alive_bytes() / 2


@pytest.mark.parametrize("deltas", [True, False])
def test_either_store_reads_what_the_other_wrote(tmp_path: Path, deltas: bool) -> None:
    first = opened(tmp_path, deltas=deltas)
    start, kept = first.save(moved(1)), first.save(moved(2))
    second = opened(tmp_path, deltas=not deltas)
    later = second.save(moved(3), near=start)
    assert [is_held(second, i, n) for n, i in enumerate((start, kept, later), 1)] == [True] * 3
    second.retain([later])
    assert is_held(first, later, 3)


def test_a_snapshot_near_another_is_stored_against_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    start = store.save(moved(5))
    apart = store.save(moved(6))
    against_root = store.size_bytes(apart)
    store.retain([start])
    assert store.save(moved(6), near=start) == apart
    assert parents(tmp_path) == {start: "root", apart: start}
    assert store.size_bytes(apart) < against_root
    assert is_held(store, apart, 6)


def test_a_chain_has_one_link_between_a_snapshot_and_root(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = store.save(moved(1))
    second = store.save(moved(2), near=first)
    third = store.save(moved(3), near=second)
    assert parents(tmp_path) == {first: "root", second: first, third: first}
    assert is_held(store, third, 3)


@pytest.mark.parametrize("near", ["root", "live", "f" * 64, "../recipe"])
def test_what_cannot_be_a_parent_is_none(tmp_path: Path, near: str) -> None:
    store = opened(tmp_path)
    (tmp_path / "live.safetensors").write_bytes(encode(moved(1)))
    identity = store.save(moved(1), near=near)
    assert parents(tmp_path)[identity] == "root"


def test_a_whole_snapshot_can_be_a_parent(tmp_path: Path) -> None:
    start = opened(tmp_path, deltas=False).save(moved(1))
    store = opened(tmp_path)
    child = store.save(moved(2), near=start)
    assert parents(tmp_path) == {start: "", child: start}
    assert is_held(store, child, 2)


def test_retain_stores_anew_what_would_lose_its_parent(tmp_path: Path) -> None:
    store = opened(tmp_path)
    start = store.save(moved(1))
    kept, gone = store.save(moved(2), near=start), store.save(moved(3), near=start)
    before = store.alive_bytes()
    assert store.retain([start, kept]) == before - store.alive_bytes() > 0
    assert parents(tmp_path) == {start: "root", kept: start}
    store.retain([kept])
    assert parents(tmp_path) == {kept: "root"}
    assert is_held(store, kept, 2)
    assert not file_of(tmp_path, gone).exists()


@pytest.mark.parametrize("place", [9, -1])  # in the header, in the last tensor
def test_retain_removes_nothing_if_what_stays_is_damaged(tmp_path: Path, place: int) -> None:
    store = opened(tmp_path)
    start = store.save(moved(1))
    child = store.save(moved(2), near=start)
    content = bytearray(file_of(tmp_path, child).read_bytes())
    content[place] ^= 1
    file_of(tmp_path, child).write_bytes(content)
    with pytest.raises(SnapshotError, match=f"snapshot {child[:12]}: .*bring"):
        store.retain([child])
    assert {path.stem for path in tmp_path.iterdir()} == {start, child}


def test_a_snapshot_without_its_parent_is_named_and_saved_anew(tmp_path: Path) -> None:
    store = opened(tmp_path)
    start = store.save(moved(1))
    child = store.save(moved(2), near=start)
    file_of(tmp_path, start).unlink()
    with pytest.raises(SnapshotError, match=f"snapshot {child[:12]}: cannot read: No such file"):
        store.load(child)
    assert store.save(moved(2), near=start) == child
    assert parents(tmp_path) == {child: "root"}
    assert is_held(store, child, 2)


def test_a_truncated_delta_is_written_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    identity = store.save(moved(1))
    os.truncate(file_of(tmp_path, identity), store.size_bytes(identity) - 1)
    assert store.save(moved(1)) == identity
    assert is_held(store, identity, 1)


def test_a_base_that_changed_is_found(tmp_path: Path) -> None:
    identity = opened(tmp_path).save(moved(1))
    other = SnapshotStore(tmp_path, root=lambda: moved(3), deltas=True)
    with pytest.raises(SnapshotError, match=r"damaged, .*\(tensor 'w' first\).*bring"):
        other.load(identity)
    none = SnapshotStore(tmp_path, root=lambda: Weights("full", {}), deltas=True)
    with pytest.raises(SnapshotError, match="tensor '(w|norm)': its parent has none of this name"):
        none.load(identity)


def test_cycles_and_long_chains_are_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first = store.save(moved(1))
    second, third = (store.save(moved(n), near=first) for n in (2, 3))
    renamed(file_of(tmp_path, second), parent=second)  # itself
    with pytest.raises(SnapshotError, match=f"{second[:12]}: a parent whose own parent is"):
        store.load(second)
    renamed(file_of(tmp_path, second), parent=third)
    renamed(file_of(tmp_path, third), parent=second)  # each other
    with pytest.raises(SnapshotError, match=f"{third[:12]}: a parent whose own parent is"):
        store.load(second)
    assert store.save(moved(3), near=second) == third
    assert is_held(store, third, 3)


@pytest.mark.parametrize("parent", ["", "../../recipe", "A" * 64, "a" * 64 + "\n", "live"])
def test_a_parent_that_is_no_id_is_refused(tmp_path: Path, parent: str) -> None:
    store = opened(tmp_path)
    identity = store.save(moved(1))
    path = file_of(tmp_path, identity)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"]["parent"] = parent
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    with pytest.raises(SnapshotError, match="its parent is .*, not the id of a snapshot"):
        store.load(identity)


# Faults: a process that ends at any call of the system while it saves or retains

KILLED = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_delta_store import moved, opened

folder, step, left = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = opened(folder)
calls = 0

def counted(real):
    def call(*arguments, **named):
        global calls
        if calls == step:
            os._exit(9)
        calls += 1
        return real(*arguments, **named)
    return call

for name in ("fsync", "replace", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
if left:
    store.retain(sys.argv[5:])
else:
    store.save(moved(3), near=sys.argv[5])
os._exit(0)
"""


def killed_at(step: int, folder: Path, *identities: str, retain: bool) -> int:
    place = str(Path(__file__).parent)
    arguments = [str(folder), str(step), str(int(retain)), place, *identities]
    return subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], check=False, capture_output=True
    ).returncode


def test_a_kill_at_any_instant_of_retain_leaves_what_is_kept(tmp_path: Path) -> None:
    """The child that loses its parent is there before the parent goes."""
    step, codes = 0, []
    while not codes or codes[-1]:
        folder = tmp_path / str(step)
        store = opened(folder)
        start = store.save(moved(1))
        child = store.save(moved(2), near=start)
        codes.append(killed_at(step, folder, child, retain=True))
        assert is_held(opened(folder), child, 2)
        opened(folder).retain([child])
        assert parents(folder) == {child: "root"}
        step += 1
    assert codes == [9] * (len(codes) - 1) + [0]
    assert len(codes) > 4


def test_a_kill_at_any_instant_of_save_leaves_what_was_there(tmp_path: Path) -> None:
    step, codes = 0, []
    while not codes or codes[-1]:
        folder = tmp_path / str(step)
        start = opened(folder).save(moved(1))
        codes.append(killed_at(step, folder, start, retain=False))
        store = opened(folder)
        assert not list(folder.glob("*.partial"))
        assert is_held(store, start, 1)
        assert is_held(store, store.save(moved(3), near=start), 3)
        step += 1
    assert codes == [9] * (len(codes) - 1) + [0]
    assert len(codes) > 2


def test_a_full_disk_while_a_parent_would_go_keeps_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    start = store.save(moved(1))
    child = store.save(moved(2), near=start)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="free some room"):
            store.retain([child])
    assert parents(tmp_path) == {start: "root", child: start}
    assert is_held(store, child, 2)


# The base model's files


def test_the_base_is_read_from_its_files_in_the_runs_dtype(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3, 5), "ids": torch.arange(4)}
    save_file(tensors, tmp_path / "model-1.safetensors")
    save_file({"other": torch.ones(2).bfloat16()}, tmp_path / "model-2.safetensors")
    base = BaseFiles(tmp_path)
    found = base(Form("w", torch.bfloat16, (3, 5)))
    assert found is not None and torch.equal(found, tensors["w"].bfloat16())
    assert base(Form("other", torch.bfloat16, (2,))) is not None
    for form in (
        Form("w", torch.bfloat16, (5, 3)),
        Form("ids", torch.bfloat16, (4,)),
        Form("new", torch.bfloat16, (2,)),
    ):
        assert base(form) is None


def damaged(path: Path) -> None:
    path.write_bytes(b"no tensors")


@pytest.mark.parametrize("harm", [damaged, Path.unlink])
def test_a_base_that_is_gone_or_damaged_is_named(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.randn(3)}, path)
    base = BaseFiles(tmp_path)
    harm(path)
    with pytest.raises(SnapshotError, match=f"{path}: cannot read the base model"):
        base(Form("w", torch.float32, (3,)))


def test_what_is_stored_anew_counts_as_written(tmp_path: Path) -> None:
    store = opened(tmp_path)
    parent = store.save(moved(1))
    child = store.save(moved(2), near=parent)
    sizes = store.size_bytes(parent) + store.size_bytes(child)
    assert store.written_bytes == sizes
    assert store.save(moved(2)) == child  # it is there
    assert store.written_bytes == sizes
    store.retain([child])
    assert store.written_bytes == sizes + store.size_bytes(child)


def unreadable(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
    """Lets nothing be read any more, as a bad sector does."""

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, name, failing)


def test_a_header_that_cannot_be_read_is_told_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    identity = store.save(moved(1))
    unreadable(monkeypatch, store_module, "read_header")
    assert store.stored()[identity].parent is None
    with pytest.raises(LostSnapshot, match="Input/output error"):
        store.retain([identity])
    assert file_of(tmp_path, identity).exists()


def test_a_parent_that_cannot_be_read_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    parent = store.save(moved(1))
    with monkeypatch.context() as patched:
        unreadable(patched, tensor_file, "_filled")
        with pytest.raises(LostSnapshot, match="Input/output error"):
            store.load(parent)
        child = store.save(moved(2), near=parent)
    assert parents(tmp_path)[child] == ROOT
    assert is_held(store, child, 2)
