"""What the engine's process does because it is not alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from msft_lite.engine import vllm_beside

PROGRAM = """
import os, runpy, sys
import torch
import torch.distributed as group
runpy.run_path(sys.argv[1])["form_group"]()
sum = torch.ones(1)
group.all_reduce(sum)
group.all_reduce(sum, group=group.new_group([0], backend="gloo"))
print(group.get_world_size(), group.get_backend(), sum.item(), flush=True)
os._exit(0)
"""


def test_a_process_group_leaves_nothing_however_its_process_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, vllm_beside.__file__]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "gloo", "1.0"]
    assert list(tmp_path.iterdir()) == []


def test_memory_that_another_process_takes_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter(range(9, 0, -1))
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (next(free), 10))
    with vllm_beside.unwatched_memory():
        before, after = (torch.accelerator.get_memory_info()[0] for _ in range(2))
    assert before == after
    assert torch.accelerator.get_memory_info() == (9, 10)
