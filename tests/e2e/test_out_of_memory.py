"""A process whose memory runs out in the middle of a run: its message, its end, its folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.outcomes import results

ROOT = Path(__file__).parents[2]
# The program itself, whose address space may not grow any more from some training pass on.
PROGRAM = """
import resource, sys
from pathlib import Path
import torch
from msft_lite.cli.commands import main

passes, slack_bytes = 3, 8_000_000

def count(module, inputs):
    global passes
    if isinstance(module, torch.nn.Embedding) and module.training:
        passes -= 1
        if passes == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + slack_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

torch.nn.modules.module.register_module_forward_pre_hook(count)
main()
"""
# Every tensor of some size is asked of the system anew and given back to it.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


def test_a_run_whose_memory_runs_out_ends_with_advice_and_goes_on(
    short_recipe: Path, tmp_path: Path, finish: Callable[..., str]
) -> None:
    batch = (
        "train.per_device_train_batch_size=48",
        "eval.marks_per_epoch=2",
        "method.budget=2",
        "method.max_stages=1",
    )
    folder, whole = tmp_path / "run", tmp_path / "whole"
    finish("run", short_recipe, *batch, "--output-dir", whole)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "run", short_recipe, *batch, "--output-dir", folder],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: step 3: out of memory on cpu (")
    before = results(folder)
    assert [row["kind"] for row in before][:3] == ["start", "rollout", "mark"]
    assert before == results(whole)[: len(before)]
    assert "MB by: train.per_device_train_batch_size = 24" in done.stderr
    found = re.search(r"nothing of them is lost; go on with: msft-lite (.*)", done.stderr)
    assert found, done.stderr
    roomy = shutil.copytree(folder, tmp_path / "roomy")
    finish("resume", roomy)
    assert results(roomy) == results(whole)
    command = shlex.split(found[1])
    assert command[:2] == ["resume", str(folder)]
    said = finish(*command)
    assert "per_device_train_batch_size = 24 (before: 48)" in said
    rows = results(folder)
    assert rows[: len(before)] == before
    assert (rows[len(before)]["kind"], rows[-1]["kind"]) == ("memory", "finish")
