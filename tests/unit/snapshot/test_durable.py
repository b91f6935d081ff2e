from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from msft_lite.errors import StorageError
from msft_lite.snapshot.durable import PARTIAL, replacing, write_durably


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_durably(path, b"old and longer")
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["summary.json"]


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        kind = "folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file"
        steps.append(f"sync {kind}")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        assert source.read_bytes() == b"data"  # nothing waits in a buffer
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_durably(tmp_path / "file", b"data")
    assert steps == ["sync file", "rename", "sync folder"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path, bytes_needed=3) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"theirs")
    (tmp_path / f"file{PARTIAL}").symlink_to(foreign)
    write_durably(tmp_path / "file", b"ours")
    assert foreign.read_bytes() == b"theirs"
    assert (tmp_path / "file").read_bytes() == b"ours"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some room and go on with: msft-lite resume "),
        (errno.EDQUOT, "free some room and go on with: msft-lite resume "),
        (errno.EROFS, "make the folder writable and go on with: msft-lite resume "),
        (errno.EACCES, "make the folder writable and go on with: msft-lite resume "),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "check the disk and go on with: msft-lite resume "),
    ],
)
def test_the_message_says_what_where_how_much_and_what_to_do(
    code: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageError) as caught:
        write_durably(tmp_path / "file", b"12345", run_folder=Path("runs/first"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'file'}: cannot write: {os.strerror(code)} (5 bytes ")
    assert f"free in {tmp_path})" in message
    assert advice in message
    assert message.endswith("resume runs/first")


def test_a_folder_that_cannot_be_synced_is_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_durably(tmp_path / "file", b"data")
    assert (tmp_path / "file").read_bytes() == b"data"
