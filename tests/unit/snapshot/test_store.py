from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from msft_lite.errors import SnapshotError, StorageError
from msft_lite.model.weights import Weights
from msft_lite.snapshot.store import SnapshotStore


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def weights_of(value: float, *, count: int = 100) -> Weights:
    return Weights(
        "full", {"w": torch.full((count,), float(value)), "b": torch.tensor([value]).half()}
    )


def opened(folder: Path) -> SnapshotStore:
    return SnapshotStore(folder, root=lambda: weights_of(0))


def value_of(store: SnapshotStore, identity: str) -> float:
    tensor = store.load(identity).tensors["w"]
    assert torch.all(tensor == tensor[0])
    return float(tensor[0])


def file_of(folder: Path, identity: str) -> Path:
    return folder / f"{identity}.safetensors"


def test_a_snapshot_is_named_by_the_hash_of_its_file(tmp_path: Path) -> None:
    store = opened(tmp_path / "run" / "snapshots")
    identity = store.save(weights_of(1))
    content = file_of(tmp_path / "run" / "snapshots", identity).read_bytes()
    assert hashlib.sha256(content).hexdigest() == identity
    assert value_of(store, identity) == 1
    assert store.load(identity).kind == "full"


def test_a_loaded_snapshot_is_the_callers_own(tmp_path: Path) -> None:
    store = opened(tmp_path)
    identity = store.save(weights_of(1))
    store.load(identity).tensors["w"].zero_()
    assert value_of(store, identity) == 1


def test_the_root_is_asked_for_and_never_stored(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert value_of(store, "root") == 0
    assert store.alive_bytes() == 0


def test_equal_weights_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    identity = store.save(weights_of(1))
    monkeypatch.setattr(os, "replace", None)  # writing once more would fail
    assert store.save(weights_of(1)) == identity


def test_a_truncated_snapshot_is_written_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    identity = store.save(weights_of(1))
    os.truncate(file_of(tmp_path, identity), 50)
    assert store.save(weights_of(1)) == identity
    assert value_of(store, identity) == 1


def test_a_missing_snapshot_is_named(tmp_path: Path) -> None:
    identity = "a" * 64
    with pytest.raises(SnapshotError) as caught:
        opened(tmp_path).load(identity)
    message = str(caught.value)
    assert message.startswith("snapshot aaaaaaaaaaaa: cannot read: No such file")
    assert f"bring {file_of(tmp_path, identity)} back" in message


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    store = opened(tmp_path)
    identity = store.save(weights_of(1))
    path = file_of(tmp_path, identity)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=rf"snapshot {identity[:12]}: damaged.*bring .* back"):
        store.load(identity)


@pytest.mark.parametrize("identity", ["", "../recipe", "A" * 64, "a" * 63, "a" * 64 + "\n", "é"])
def test_what_is_no_id_is_refused(identity: str, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="is not the id of a snapshot"):
        opened(tmp_path).load(identity)


def test_retain_removes_all_others_and_says_how_much_it_freed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    first, second, third = (store.save(weights_of(value)) for value in (1, 2, 3))
    size = file_of(tmp_path, second).stat().st_size
    assert store.alive_bytes() == 3 * size
    assert store.retain([second, "root", "f" * 64]) == 2 * size
    assert store.alive_bytes() == size
    assert value_of(store, second) == 2
    for identity in (first, third):
        with pytest.raises(SnapshotError):
            store.load(identity)
    assert store.retain([second]) == 0


def test_retain_touches_no_file_it_did_not_write(tmp_path: Path) -> None:
    foreign = [
        tmp_path / name
        for name in ("notes.txt", "model.safetensors", "A" * 64 + ".safetensors", "x.partial")
    ]
    for path in foreign:
        path.write_text("theirs")
    folder = tmp_path / ("b" * 64 + ".safetensors")
    folder.mkdir()
    store = opened(tmp_path)
    store.save(weights_of(1))
    store.retain([])
    assert set(tmp_path.iterdir()) == {*foreign, folder}


def test_prove_leaves_nothing_behind(tmp_path: Path) -> None:
    store = opened(tmp_path)
    identity = store.save(weights_of(1))
    store.prove(weights_of(1))
    store.prove(weights_of(2))
    assert names(tmp_path) == [f"{identity}.safetensors"]


def test_prove_finds_a_disk_that_gives_back_other_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    replace = os.replace

    def lossy(source: Path, target: Path) -> None:
        content = bytearray(Path(source).read_bytes())
        content[-3] ^= 4
        Path(source).write_bytes(content)
        replace(source, target)

    monkeypatch.setattr(os, "replace", lossy)
    with pytest.raises(StorageError, match="came back changed"):
        store.prove(weights_of(1))
    assert names(tmp_path) == []


# Faults


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> list[str]:
    """Makes the ``step``-th call of the system raise ``error``; returns the calls made."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            calls.append(name)
            if len(calls) - 1 == step:
                raise error
            return real(*arguments)

        return call

    for name in ("fsync", "replace", "open"):
        monkeypatch.setattr(os, name, counted(name, vars(os)[name]))
    return calls


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_fault_at_any_step_leaves_earlier_snapshots_and_nothing_half_written(
    step: int,
    error: BaseException,
    expected: type[BaseException],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = opened(tmp_path)
    earlier = store.save(weights_of(1))
    with monkeypatch.context() as patch:
        calls = fail_at(patch, step, error)
        with pytest.raises(expected):
            store.save(weights_of(2))
    assert calls == ["fsync", "replace", "open", "fsync"][: step + 1]
    assert not list(tmp_path.glob("*.partial"))
    reopened = opened(tmp_path)
    assert value_of(reopened, earlier) == 1
    assert value_of(reopened, reopened.save(weights_of(2))) == 2


KILLED = """
import os, sys, torch
from pathlib import Path
from msft_lite.model.weights import Weights
from msft_lite.snapshot.store import SnapshotStore

weights = Weights("full", {"w": torch.ones(1000)})
store = SnapshotStore(Path(sys.argv[1]), root=lambda: weights)
vars(os)["fsync"] = lambda _descriptor: os._exit(9)
store.save(weights)
"""


def test_what_a_killed_process_left_is_removed_at_the_next_open(tmp_path: Path) -> None:
    earlier = opened(tmp_path).save(weights_of(1))
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == 9
    (half_written,) = set(names(tmp_path)) - {f"{earlier}.safetensors"}
    assert half_written.endswith(".safetensors.partial")
    for name in ("probe.safetensors", "probe.safetensors.partial"):
        (tmp_path / name).write_bytes(b"half")
    store = opened(tmp_path)
    assert names(tmp_path) == [f"{earlier}.safetensors"]
    assert value_of(store, earlier) == 1


def test_a_vanished_folder_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "snapshots"
    store = opened(folder)
    shutil.rmtree(folder)
    for action in (
        lambda: store.save(weights_of(1)),
        lambda: store.prove(weights_of(1)),
        lambda: store.retain([]),
        store.alive_bytes,
    ):
        with pytest.raises(StorageError, match=f"bring the folder back .* {tmp_path / 'run'}$"):
            action()
    assert not folder.exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text("")
    with pytest.raises(StorageError, match="snapshots: cannot write"):
        opened(tmp_path / "snapshots")


def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    store = opened(tmp_path)
    earlier = store.save(weights_of(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"\(40,\d\d\d bytes needed.*ulimit -f"):
            store.save(weights_of(2, count=10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == [f"{earlier}.safetensors"]


# A real disk of 256 KiB


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if (
        shutil.which("mount") is None
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder):
        yield folder


def test_a_full_disk_keeps_earlier_snapshots_and_goes_on_once_there_is_room(
    small_disk: Path,
) -> None:
    store = opened(small_disk / "snapshots")
    saved = [store.save(weights_of(value, count=25_000)) for value in (1, 2)]
    for action in (store.save, store.prove):
        with pytest.raises(StorageError) as caught:
            action(weights_of(3, count=25_000))
        message = str(caught.value)
        assert "No space left on device (100,202 bytes needed, " in message
        assert f"free some room and go on with: msft-lite resume {small_disk}" in message
        assert len(names(small_disk / "snapshots")) == 2
    assert [value_of(store, identity) for identity in saved] == [1, 2]
    store.retain(saved[1:])
    assert value_of(store, store.save(weights_of(3, count=25_000))) == 3
    assert value_of(store, saved[1]) == 2


def test_a_disk_that_turned_read_only_is_named(small_disk: Path) -> None:
    store = opened(small_disk / "snapshots")
    earlier = store.save(weights_of(1))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for action in (
        lambda: store.save(weights_of(2)),
        lambda: store.prove(weights_of(2)),
        lambda: store.retain([]),
    ):
        with pytest.raises(StorageError, match=r"Read-only file system.*make the folder writable"):
            action()
    assert value_of(store, earlier) == 1
