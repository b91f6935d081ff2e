"""How much memory a device has free."""

from __future__ import annotations

from pathlib import Path

import torch

from msft_lite.model.settings import Device

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # of a container: its limit, and what it uses


def free_bytes(device: Device) -> int | None:
    """Returns the bytes that ``device`` has free now, or None where the system does not tell.

    On a CPU that is what Linux can make available without swapping, within the limit of the
    container if there is one.
    """
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    available = available_bytes(_MEMINFO)
    return None if available is None else min([available, *group_bytes(_GROUP)])


def available_bytes(meminfo: Path) -> int | None:
    """Returns MemAvailable of a file like /proc/meminfo, which counts in KiB; None without it."""
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    words = lines.get("MemAvailable", "").split()
    return int(words[0]) * 1024 if words else None


def group_bytes(group: Path) -> list[int]:
    """Returns what is left of the limit of a control group in ``group``; empty without a limit.

    Pages of files that were not read lately count as free: they go first.
    """
    files = [group / name for name in ("memory.max", "memory.current", "memory.stat")]
    if not all(file.is_file() for file in files):
        return []
    limit, used, stat = (file.read_text() for file in files)
    if not limit.strip().isdigit():  # "max": no limit
        return []
    counts = dict(line.split() for line in stat.splitlines())
    return [max(0, int(limit) - int(used) + int(counts.get("inactive_file", "0")))]
