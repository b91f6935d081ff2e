"""Compares the methods on ten small tasks that are known to over-fit at different times.

    python benchmarks/cases/dynamics.py --out FOLDER --seeds 5 --tuning lora full \
        --methods sft msft msft:detector=significant continual sro soft_sro dynamix ies [--jobs 1]

A small reproduction of the claim of the mSFT paper: where tasks peak far apart, one stop for all
over-fits some and under-fits others. The tasks are those of `dynamics_tasks.py`, the base is the
quickstart's (one million parameters, made by `recipes/quickstart/make_base.py`), the settings are
in `dynamics.toml`. A system is a method, or a method with settings of its own:
`msft:detector=significant,budget=1`; a key with a dot stands for itself: `sft:eval.at=end`.

Every system runs once for every seed and tuning, in a process and a folder of its own,
`FOLDER/runs/TUNING/SYSTEM/seed-N`. Started again, it skips what is finished and goes on with what
is not. At the end it writes `results.json` and `results.md` from the ledgers of the finished runs
(`--only-results`: at once). Exit code 0: every run finished; 1: one did not, and its log is named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dynamics_results import gathered, markdown, read_run
from dynamics_tasks import TASKS, longest_answer, write_tasks

from msft_lite.ledger import read_rows

HERE = Path(__file__).parent.resolve()
FIRST_SEED = 20
ALL_METHODS = (
    "sft", "msft", "msft:detector=significant", "continual", "sro", "soft_sro", "dynamix", "ies",
)  # fmt: skip
# Found by whether sft's curves rise and fall within 10 epochs, not by what any method scores.
TUNINGS: Mapping[str, Sequence[str]] = {
    "lora": ("model.tuning=lora", "train.learning_rate=1e-3"),
    "full": ("model.tuning=full", "train.learning_rate=5e-4"),
}
TOKENS_AROUND = 3  # ####, a blank, and the end of the text


@dataclass(frozen=True, slots=True)
class Job:
    """One run.

    Attributes:
        system: a method's name, with its own settings after a colon.
        tuning: a key of `TUNINGS`.
        seed: of the run.
        folder: of the run.
    """

    system: str
    tuning: str
    seed: int
    folder: Path

    @property
    def log(self) -> Path:
        """What the run printed; beside its folder, in which only a run writes."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def name(self) -> str:
        return f"{self.tuning} {self.system} seed {self.seed}"


def main() -> int:
    """Makes the tasks, runs what is not finished, writes the results, returns the exit code."""
    arguments = parsed()
    out: Path = arguments.out.resolve()
    jobs = list(planned(arguments, out))
    if not arguments.only_results:
        write_tasks(out / "data")
        recipe = write_recipe(out)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda job: run(job, recipe, arguments.change), jobs))
    missing = [job for job in jobs if not is_finished(job)]
    write_results(out, [job for job in jobs if job not in missing])
    for job in missing:
        print(f"not finished: {job.name}, see {job.log}", flush=True)
    return bool(missing)


def parsed() -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of tasks, runs, results")
    parser.add_argument("--seeds", type=int, default=5, help="runs of every system and tuning")
    parser.add_argument("--tuning", nargs="+", choices=tuple(TUNINGS), default=list(TUNINGS))
    parser.add_argument("--methods", nargs="+", default=list(ALL_METHODS), metavar="SYSTEM")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one core each")
    parser.add_argument(
        "--change", action="append", default=[], metavar="KEY=VALUE", help="to the recipe of all"
    )
    parser.add_argument("--only-results", action="store_true", help="run nothing")
    return parser.parse_args()


def planned(arguments: argparse.Namespace, out: Path) -> Iterator[Job]:
    """Yields all runs, seed by seed, so that what is there early compares all systems."""
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
        for tuning in arguments.tuning:
            for system in arguments.methods:
                folder = out / "runs" / tuning / system.replace(":", "-") / f"seed-{seed}"
                yield Job(system, tuning, seed, folder)


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


def changes(job: Job) -> list[str]:
    """Returns the changes to the recipe that make the run of ``job``."""
    method, _, settings = job.system.partition(":")
    own = [one if "." in one.split("=")[0] else f"method.{one}" for one in settings.split(",")]
    return [
        f"seed={job.seed}",
        f"method.name={method}",
        *TUNINGS[job.tuning],
        *(own if settings else []),
    ]


def is_finished(job: Job) -> bool:
    """Returns whether the run's ledger is there and closed."""
    ledger = job.folder / "ledger.jsonl"
    return ledger.exists() and any(row["kind"] == "finish" for row in read_rows(ledger))


def run(job: Job, recipe: Path, more: Sequence[str]) -> None:
    """Runs ``job`` to its end, or goes on with it; what it prints goes to its log."""
    if is_finished(job):
        print(f"{job.name}: finished before", flush=True)
        return
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    resume = ["--resume"] if (job.folder / "ledger.jsonl").exists() else []
    command = [sys.executable, "-m", "msft_lite", "run", str(recipe), *changes(job), *more, *resume]
    began = time.monotonic()
    with job.log.open("a", encoding="utf-8") as log:
        done = subprocess.run(
            [*command, "--output-dir", str(job.folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # two threads would take two runs' cores
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    print(f"{job.name}: exit code {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)


def write_results(out: Path, finished: Sequence[Job]) -> None:
    """Writes `results.json` and `results.md` from the ledgers of ``finished``."""
    runs = [
        read_run(job.folder / "ledger.jsonl", system=job.system, tuning=job.tuning)
        for job in finished
    ]
    results = gathered(runs)
    text = markdown(results)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
