"""Whether other processes still live."""

from __future__ import annotations

import time
from pathlib import Path


def gone(process_id: int) -> bool:
    """Whether the process ends within ten seconds."""
    for _ in range(1000):
        stat = Path(f"/proc/{process_id}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False
