"""What a run leaves in its folder, for comparison with what another one left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msft_lite.ledger import REPLAY, read_rows

# The fields of a row that a clock or the memory of the machine decides.
MEASURED = ("seconds", "peak_bytes", "cached_tokens", "written_bytes", "disk_bytes")


def results(folder: Path) -> list[dict[str, Any]]:
    """The complete rows of the ledger without what was measured."""
    return [
        {key: value for key, value in row.items() if key not in MEASURED}
        for row in read_rows(folder / "ledger.jsonl")
    ]


def replays(folder: Path) -> list[dict[str, Any]]:
    """The rows that tell what was lost and trained again."""
    return [row for row in results(folder) if row["kind"] == REPLAY]


def results_but_replays(folder: Path) -> list[dict[str, Any]]:
    """The rows of `results` that do not depend on what was lost on the way."""
    return [row for row in results(folder) if row["kind"] != REPLAY]


def marks(folder: Path) -> int:
    """How many marks a run has written so far."""
    if not (folder / "ledger.jsonl").exists():
        return 0
    return sum(row["kind"] == "mark" for row in results(folder))


def best(folder: Path) -> dict[str, bytes]:
    """Every exported file of tensors."""
    return {file.name: file.read_bytes() for file in (folder / "best").glob("*.safetensors")}


def snapshots(folder: Path) -> list[Path]:
    """Every file of a snapshot."""
    return sorted((folder / "snapshots").glob("*.safetensors"))


def tensors(folder: Path) -> dict[str, bytes]:
    """Every file of tensors that a finished run keeps: what is exported, and its snapshots."""
    kept = {f"snapshots/{file.name}": file.read_bytes() for file in snapshots(folder)}
    return {f"best/{name}": content for name, content in best(folder).items()} | kept
