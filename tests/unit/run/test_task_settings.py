from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from msft_lite.recipe import load
from msft_lite.run.task_settings import task_settings

RECIPE = """
tasks = ["gsm8k", { name = "own", path = "own.jsonl", num_fewshot = 2, train_samples = 7 }]
[model]
name_or_path = "Qwen/Qwen2.5-0.5B"
[eval]
num_fewshot = 4
max_new_tokens = 33
[data]
dir = "rows"
train_samples = 50
on_overlap = "refuse"
on_too_long = "drop"
"""


def test_a_tasks_own_keys_come_before_the_shared_ones(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    preset, own = task_settings(load(tmp_path / "r.toml"))
    assert (preset.name, preset.preset, preset.directory) == ("gsm8k", "gsm8k", tmp_path / "rows")
    assert (preset.num_fewshot, preset.train_samples, preset.max_new_tokens) == (4, 50, 33)
    assert (own.path, own.preset) == (tmp_path / "own.jsonl", None)
    assert (own.num_fewshot, own.train_samples, own.max_new_tokens) == (2, 7, 33)
    assert (own.on_overlap, own.on_too_long, own.steer_on) == ("refuse", "drop", "control")
    assert own.metric == "accuracy"


def test_planning_imports_no_torch() -> None:
    code = "import sys, msft_lite.run.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
