"""Kills a run again and again and checks that it comes out as if nothing had happened.

    python benchmarks/kill.py --kills 20 --engine torch --tuning lora --seed 1
    python benchmarks/kill.py --kills 4 --tuning full --change train.optim=adamw_8bit

A short recipe runs once uninterrupted. Then it runs again, and its process is ended by SIGKILL at
random instants of the uninterrupted run's time line (training, evaluation, finish), every fourth at
a random instant of a process's own start. After each kill the engine's process
must go by itself, and the run is resumed. Once it has finished, the rows of the ledger (but for
seconds and peak_bytes), the exported tensors and the snapshots must be those of the first run, bit
by bit. Runs repeat until all kills are spent. Exit code 0: equal; 1: not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WORKER = "vllm_worker.py"
PATIENCE_SECONDS = 15.0  # the engine's process must be gone by then
LIMIT_SECONDS = 600.0  # no attempt takes that long
POLL_SECONDS = 0.02
ANNOUNCED = "msft on 6 tasks"  # printed as the start row is written or passed over
FOURTH = 4
LEAST_SECONDS = 0.5
FASTER = 0.8  # where a run came to its end before the instant of its kill
SHORT = (
    "data.train_samples=48",
    "data.control_samples=6",
    "data.report_samples=8",
    "method.budget=1",
    "method.max_stages=3",
    "train.per_device_train_batch_size=8",
    "train.threads=1",
    "eval.max_new_tokens=4",
)
TUNINGS: Mapping[str, Sequence[str]] = {
    "lora": ("model.lora_dropout=0.1",),
    "full": ("model.tuning=full", "model.lora_r=", "model.lora_alpha=", "train.learning_rate=1e-3"),
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TimeLine:
    """When an uninterrupted run wrote its rows: seconds after its start, in row order."""

    rows_at: Sequence[float]
    end: float
    first_mark_at: float

    def delay(self, instant: float, *, recorded: int, least: float) -> float:
        """Returns the seconds from `ANNOUNCED` to ``instant`` in a process that finds rows.

        Its engine has to start again; ``least`` is what it gets after that where ``instant`` is
        past already.
        """
        reached = self.rows_at[min(max(recorded, 1), len(self.rows_at)) - 1]
        engine_start = min(reached, self.first_mark_at) - self.rows_at[0]
        return engine_start + max(least, instant - reached)

    def faster(self) -> TimeLine:
        """Returns the time line of a machine that has become less busy."""
        rows_at = [at * FASTER for at in self.rows_at]
        return TimeLine(rows_at, self.end * FASTER, self.first_mark_at * FASTER)


@dataclass(slots=True)
class Trial:
    """The place and the counts of one series of kills."""

    command: Sequence[str]
    whole: Path
    times: TimeLine
    draw: random.Random
    kills: int
    rounds: int = 0
    killed: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Of the run at hand."""
        return self.whole.with_name(f"killed-{self.rounds}")


def main() -> int:
    """Runs, kills, resumes, compares, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine", choices=("torch", "vllm"), default="torch")
    parser.add_argument("--tuning", choices=tuple(TUNINGS), default="lora")
    parser.add_argument(
        "--change", action="append", default=[], help="KEY=VALUE, to the recipe; as often as needed"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the instants")
    parser.add_argument(
        "--folder", type=Path, help="where the runs go; left out: removed at the end"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="msft-lite-kill-") as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        trial = begun(arguments, folder)
        while trial.killed < trial.kills and not trial.failures:
            run_under_fire(trial)
            trial.failures += differences(trial.whole, trial.folder)
            print(f"finished after {trial.killed} kills: {verdict(trial)}", flush=True)
    setting = ", ".join((arguments.engine, arguments.tuning, *arguments.change))
    print(f"{setting}: {trial.killed} kills, {verdict(trial)}")
    return bool(trial.failures)


def verdict(trial: Trial) -> str:
    """Returns what came out so far in words."""
    same = "rows, tensors and snapshots are those of the uninterrupted run"
    return "DIFFERENT: " + "; ".join(trial.failures) if trial.failures else same


def begun(arguments: argparse.Namespace, folder: Path) -> Trial:
    """Makes the uninterrupted run and returns the trial that it is the measure of."""
    recipe = str(ROOT / "recipes" / "quickstart.toml")
    changes = (
        f"engine.name={arguments.engine}",
        *SHORT,
        *TUNINGS[arguments.tuning],
        *arguments.change,
    )
    command = (sys.executable, "-m", "msft_lite", "run", recipe, *changes, "--output-dir")
    times = watched((*command, str(folder / "whole")), folder / "whole")
    print(
        f"uninterrupted: {times.end:.1f} s, {len(times.rows_at)} rows, the first mark at "
        f"{times.first_mark_at:.1f} s",
        flush=True,
    )
    draw = random.Random(arguments.seed)
    return Trial(command, folder / "whole", times=times, draw=draw, kills=arguments.kills)


def launched(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Starts the program, its output beside ``folder``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with folder.with_suffix(".out").open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )


def watched(command: Sequence[str], folder: Path) -> TimeLine:
    """Runs to the end and returns when each row was written."""
    started = time.monotonic()
    process = launched(command, folder)
    rows_at: list[float] = []
    first_mark_at = 0.0
    while process.poll() is None:
        rows = rows_of(folder)
        now = time.monotonic() - started
        if not first_mark_at and any(row["kind"] == "mark" for row in rows):
            first_mark_at = now
        rows_at += [now] * (len(rows) - len(rows_at))
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"the uninterrupted run failed:\n{output_of(folder)}")
    return TimeLine(rows_at, time.monotonic() - started, first_mark_at)


def run_under_fire(trial: Trial) -> None:
    """Runs in a new folder to the end, killed at every instant that falls before it."""
    trial.rounds += 1
    left = trial.kills - trial.killed
    times, draw = trial.times, trial.draw
    instants = sorted(draw.uniform(times.rows_at[0], times.end) for _ in range(left))
    begin: Sequence[str] = (*trial.command, str(trial.folder))
    resume: Sequence[str] = (sys.executable, "-m", "msft_lite", "resume", str(trial.folder))
    command, rows = begin, rows_of(trial.folder)
    for number, instant in enumerate(instants, start=1):
        least = draw.uniform(0.0, LEAST_SECONDS)
        delay = times.delay(instant, recorded=len(rows), least=least)
        starting = number % FOURTH == 0
        if starting:
            delay = draw.uniform(0.0, times.first_mark_at)
        if not killed_after(delay, command, trial, starting=starting):
            trial.times = times.faster()
            return
        rows = rows_of(trial.folder)
        command = resume if rows else begin
        if rows and rows[-1]["kind"] == "finish":
            break
    process = launched(command, trial.folder)
    judge_end(trial, process.wait(LIMIT_SECONDS))


def killed_after(delay: float, command: Sequence[str], trial: Trial, *, starting: bool) -> bool:
    """Starts ``command`` and kills it; false if it came to its end before that.

    Args:
        delay: seconds from `ANNOUNCED`, or from the process's birth if ``starting``: how long the
            libraries take to load varies by far more than what follows.
    """
    process = launched(command, trial.folder)
    while not starting and process.poll() is None and ANNOUNCED not in output_of(trial.folder):
        time.sleep(POLL_SECONDS)
    try:
        judge_end(trial, process.wait(delay))
        return False
    except subprocess.TimeoutExpired:
        workers = workers_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    trial.killed += 1
    gone = gone_after(process.pid)
    if gone is None:
        trial.failures.append(f"the engine's process {workers} outlived the kill")
    since = "birth" if starting else "start"
    engine = f"its engine gone after {gone or 0.0:.2f} s" if workers else "no engine yet"
    print(
        f"kill {trial.killed:3}: {delay:6.2f} s after {since}, last row: "
        f"{told(rows_of(trial.folder))}, {engine}",
        flush=True,
    )
    return gone is not None


def judge_end(trial: Trial, code: int) -> None:
    """Notes a failure if an attempt that was not killed did not end well."""
    if code:
        trial.failures.append(f"exit code {code}:\n{output_of(trial.folder)}")


def gone_after(trainer: int) -> float | None:
    """Waits for the engine's process of ``trainer`` to go; the seconds, or None if it stays."""
    started = time.monotonic()
    while workers_of(trainer):
        if time.monotonic() - started > PATIENCE_SECONDS:
            return None
        time.sleep(POLL_SECONDS)
    return time.monotonic() - started


def workers_of(trainer: int) -> list[int]:
    """Returns the engine's processes that ``trainer`` started, whether it lives or not."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # no process, or gone meanwhile
            continue
        if any(word.endswith(WORKER) for word in words) and str(trainer) in words[-2:]:
            found.append(int(entry.name))
    return found


def rows_of(folder: Path) -> list[Row]:
    """Returns the complete rows of the ledger without timings; none if there is no ledger."""
    try:
        lines = (folder / "ledger.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    rows: list[Row] = [json.loads(line) for line in lines]
    timings = ("seconds", "peak_bytes", "cached_tokens", "written_bytes", "disk_bytes")
    return [{key: row[key] for key in row if key not in timings} for row in rows]


def told(rows: Sequence[Row]) -> str:
    """Returns the last row in a few words."""
    if not rows:
        return "none"
    return " ".join(str(rows[-1][key]) for key in ("kind", "n", "k") if key in rows[-1])


def output_of(folder: Path) -> str:
    """Returns the end of what the latest process printed."""
    return folder.with_suffix(".out").read_text(errors="replace")[-3000:]


def differences(whole: Path, killed: Path) -> list[str]:
    """Returns what of two finished runs differs."""
    found: list[str] = []
    ours, theirs = rows_of(killed), rows_of(whole)
    if ours != theirs:
        at = [
            place
            for place, pair in enumerate(zip(ours, theirs, strict=False))
            if pair[0] != pair[1]
        ]
        found.append(f"{len(ours)} and {len(theirs)} rows; differing: {at}")
    for folder in ("best", "snapshots"):
        if tensors_in(whole / folder) != tensors_in(killed / folder):
            found.append(f"the tensors in {folder}/ differ")
    leftovers = [str(path.relative_to(killed)) for path in killed.rglob("*.partial")]
    leftovers += [
        name for name in ("best.tmp", "best.old", "crash.safetensors") if (killed / name).exists()
    ]
    return [*found, *(f"left over: {name}" for name in leftovers)]


def tensors_in(folder: Path) -> dict[str, bytes]:
    """Returns every file of tensors."""
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


if __name__ == "__main__":
    sys.exit(main())
