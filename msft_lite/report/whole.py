"""Files that a reader never sees half-written."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8; a reader sees the old file or the whole new one.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    beside = path.with_name(f"{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
