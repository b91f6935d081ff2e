"""Compares the methods on ten small tasks that are known to over-fit at different times.

    python benchmarks/cases/dynamics.py --out FOLDER [--seeds 5] [--tuning lora full]

A small reproduction of the claim of the mSFT paper: where tasks peak far apart, one stop for all
over-fits some and under-fits others. The tasks are those of `dynamics_tasks.py`, the base is the
quickstart's (one million parameters, made by `recipes/quickstart/make_base.py`), the settings are
in `dynamics.toml`.

For every tuning it is ``msft-lite compare`` on a recipe that is written to FOLDER, with runs and
tables in FOLDER/lora and FOLDER/full. Started again, it skips what is finished and goes on with
what is not. The exit code is 0 when all runs have come to their end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dynamics_tasks import TASKS, longest_answer, write_tasks

HERE = Path(__file__).parent.resolve()
FIRST_SEED = 20
METHODS = (
    '["sft", "continual", "sro", "soft_sro", "dynamix", "ies", "msft", '
    '{ name = "msft", detector = "significant" }, { name = "msft", signal = "loss" }]'
)
# Found by whether sft's curves rise and fall within 10 epochs, not by what any method scores.
TUNINGS: Mapping[str, Sequence[str]] = {
    "lora": ("model.tuning=lora", "train.learning_rate=1e-3"),
    "full": ("model.tuning=full", "train.learning_rate=5e-4"),
}
TOKENS_AROUND = 3  # ####, a blank, and the end of the text


def main() -> int:
    """Makes the tasks, runs and compares what is asked for, returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of tasks, runs, tables")
    parser.add_argument("--seeds", type=int, default=5, help="runs of every method and tuning")
    parser.add_argument("--tuning", nargs="+", choices=tuple(TUNINGS), default=list(TUNINGS))
    parser.add_argument("--methods", default=METHODS, help="a TOML list, as in a recipe")
    parser.add_argument(
        "--change", action="append", default=[], metavar="KEY=VALUE", help="to the recipe of all"
    )
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    write_tasks(out / "data")
    recipe = write_recipe(out)
    several = [f"methods={arguments.methods}", f"seeds={seeds(arguments.seeds)}"]
    codes = [
        compare(recipe, [*several, *TUNINGS[tuning], *arguments.change], out / tuning)
        for tuning in arguments.tuning
    ]
    return max(codes)


def seeds(count: int) -> list[int]:
    """Returns the seeds of so many runs of a method."""
    return list(range(FIRST_SEED, FIRST_SEED + count))


def compare(recipe: Path, changes: Sequence[str], folder: Path) -> int:
    """Runs and compares into ``folder`` and returns the exit code."""
    command = [sys.executable, "-m", "msft_lite", "compare", str(recipe), *changes]
    done = subprocess.run(
        [*command, f"output_dir={folder}", "--resume"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode


def write_recipe(out: Path) -> Path:
    """Writes the recipe of all runs, `dynamics.toml` and the tasks in ``out``; returns its path."""
    lines = [f"extends = {json.dumps(str(HERE / 'dynamics.toml'))}", "tasks = ["]
    for name in TASKS:
        files = {"path": "train", "control_path": "control", "report_path": "report"}
        keys = [
            f"{key} = {json.dumps(f'data/{name}.{split}.jsonl')}" for key, split in files.items()
        ]
        tokens = longest_answer(name) + TOKENS_AROUND
        lines.append(f'  {{ name = "{name}", {", ".join(keys)}, max_new_tokens = {tokens} }},')
    recipe = out / "recipe.toml"
    recipe.write_text("\n".join([*lines, "]", ""]), encoding="utf-8")
    return recipe


if __name__ == "__main__":
    sys.exit(main())
