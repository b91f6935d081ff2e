"""A disk that fills up in the middle: a clear message, nothing lost, the same bits afterwards."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from tests.outcomes import results, tensors

SMALL_BYTES = 40_000  # less than an adapter's snapshot, more than every other file of the run


def limited() -> None:
    """Lets the process write files of `SMALL_BYTES` at most, as a disk with no more room does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, SMALL_BYTES))


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(small_recipe: Path) -> None:
    command = [sys.executable, "-m", "msft_lite", "run", str(small_recipe)]
    folders = {name: small_recipe.parent / name for name in ("full", "roomy")}
    full = subprocess.run(
        [*command, f"output_dir={folders['full']}"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited,
    )
    assert full.returncode == 2
    assert "Traceback" not in full.stderr
    for fragment in ("snapshots", "bytes", f"msft-lite resume {folders['full']}"):
        assert fragment in full.stderr
    assert not list((folders["full"] / "snapshots").iterdir())
    again = [sys.executable, "-m", "msft_lite", "resume", str(folders["full"])]
    subprocess.run(again, capture_output=True, check=True)
    subprocess.run([*command, f"output_dir={folders['roomy']}"], capture_output=True, check=True)
    assert results(folders["full"]) == results(folders["roomy"])
    assert tensors(folders["full"]) == tensors(folders["roomy"])
