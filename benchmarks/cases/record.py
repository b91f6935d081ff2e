"""The form in which every case writes what it measured, and how that reads.

A record is JSON: `command`, `device`, `versions`, `conditions` and `tables`. A table has `columns`,
which map a heading to the format of its numbers, and `rows`. Text stands as it is, null is an empty
cell; a column without a format is text, aligned to the left. `benchmarks/run.py` makes RESULTS.md
of the records in `benchmarks/baselines/<device>/<case>.json`.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import compress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "peft")


def table(columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Returns a table of a record; numbers have six digits that count."""
    return {"columns": dict(columns), "rows": [[_short(cell) for cell in row] for row in rows]}


def record(
    tables: Mapping[str, Any], *, device: str, conditions: str, packages: Sequence[str] = PACKAGES
) -> dict[str, Any]:
    """Returns the record of the command that is running.

    Args:
        tables: by name.
        device: `cpu` or `cuda`.
        conditions: what else the figures depend on.
        packages: whose versions are told; those that are not installed are left out.
    """
    place = Path(sys.argv[0]).resolve().relative_to(ROOT).as_posix()
    return {
        "command": shlex.join(["python", place, *_shown(sys.argv[1:])]),
        "device": device_name(device),
        "versions": {"Python": platform.python_version()} | versions(packages),
        "conditions": conditions,
        "tables": dict(tables),
    }


def read(file: Path) -> dict[str, Any]:
    """Returns a record."""
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path | None, found: Mapping[str, Any]) -> None:
    """Writes a record to ``file``, if there is one, in place of what stood there."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(as_json(found), encoding="utf-8")
    part.replace(file)


def as_json(found: Mapping[str, Any]) -> str:
    """Returns a record with one row of a table a line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    for each in found["tables"].values():
        for row in each["rows"]:
            long = json.dumps(row, indent=1, ensure_ascii=False).replace("\n", "\n    ")
            text = text.replace(long, json.dumps(row, ensure_ascii=False), 1)
    return text + "\n"


def markdown(each: Mapping[str, Any]) -> str:
    """Returns a table of a record as Markdown, without columns that are empty all the way."""
    columns, rows = each["columns"], each["rows"]
    kept = [any(row[place] is not None for row in rows) for place in range(len(columns))]
    formats = list(compress(columns.values(), kept))
    lines = [
        _line(compress(columns, kept)),
        f"|{'|'.join('---:' if spec else '---' for spec in formats)}|",
    ]
    for row in rows:
        lines.append(_line(map(_cell, compress(row, kept), formats)))
    return "\n".join(lines)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of those of ``packages`` that are installed."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """Returns what a reader calls the device: the GPU's name, or the CPU's cores."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} cores ({platform.machine().replace('_', '-')})"


def device_folder(device: str) -> str:
    """Returns the folder of the device's records, such as ``cpu-2-cores``."""
    if device == "cpu":
        return f"cpu-{len(os.sched_getaffinity(0))}-cores"
    import torch

    if not torch.cuda.is_available():
        sys.exit("device cuda: torch finds no GPU here; its CUDA build is in locks/gpu.txt")
    return "-".join(device_name(device).lower().split())


def load_at_start() -> str:
    """Returns the machine's load as one of the conditions."""
    return f"load {os.getloadavg()[0]:.1f} at the start"


def peak_rss_bytes() -> int:
    """Returns the most resident memory of this process so far.

    Not from getrusage, whose figure starts at that of the process which started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def _shown(arguments: Sequence[str]) -> list[str]:
    """Leaves out where the record goes, and names folders as such."""
    shown, rest = [], list(arguments)
    while rest:
        one = rest.pop(0)
        if one == "--json":
            rest.pop(0)
        else:
            shown.append("FOLDER" if one.startswith("/") else one)
    return shown


def _short(cell: Any) -> Any:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def _cell(value: Any, spec: str) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else format(value, spec)


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"
