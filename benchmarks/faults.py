"""Fails every single operation on a run's files and checks that the run comes out the same.

    python benchmarks/faults.py [--fault kill power full error] [--method msft ...]
        [--tuning lora ...] [--every 1] [--first 1] [--list]
    python benchmarks/faults.py --kills 20 [--method msft ...] [--tuning lora ...] [--seed 1]

A short recipe runs once and every write, sync, rename, new and removed name in its folder is
listed. Of writes in a row to one file the first, the middle and the last stand for all, and of
operations at which a fault leaves the very same files, one. Then the recipe runs again once for
each of them (or every n-th), and at that operation

    kill    the process is killed, a write is torn in the middle;
    power   likewise, and all that had not been synced is lost: the worst that POSIX allows;
    full    the disk is full from there on;
    error   this one operation fails with EIO.

With `full` and `error` the run must end without a traceback and with a message that says what to
do, or come to its end. Then it is resumed, and the ledger's rows (but for timings), the exported
tensors and the snapshots must be those of the undisturbed run, bit by bit, with nothing
half-written left. With --kills nothing is listed: runs are killed at random instants instead, and
resumed and killed again until they end. Exit code 0: all come out the same; 1: not.

`faults.c` sits between the process and the system; a C compiler is needed, and Linux. Processes are
forked from one that has loaded the libraries, and the report's pictures are left empty, so that a
trial takes a second or two. The model is the first layer of the quickstart's base; the engine is
torch's: vLLM keeps no files of a run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path

from kill import differences

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "recipes" / "quickstart"
FAULTS = {"kill": 1, "power": 2, "full": 3, "error": 4}  # the numbers of faults.c
COUNT_ONLY, NEVER = 0, 2**62
SYNCS = ("fsync", "fdatasync")
TAKE_ROOM = ("create", "mkdir", "write", "sendfile")
UNDONE = ("create", "mkdir", "write", "rename", "unlink", "rmdir")  # by a power cut, if not synced
LIBRARIES = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "msft_lite.cli.commands",
    "msft_lite.run.session",
)
TASKS = ("largest", "last", "sort")
METHODS = {
    "msft": "budget = 1",
    "ies": "epochs = 3",
    **dict.fromkeys(("sft", "continual", "sro", "soft_sro", "dynamix", "shift"), "epochs = 1"),
}
TUNINGS = {"lora": 'tuning = "lora"\nlora_r = 2', "full": 'tuning = "full"'}
RECIPE = """
seed = 20
tasks = [{tasks}]
[model]
name_or_path = "{base}"
dtype = "float32"
{tuning}
[train]
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
learning_rate = 2e-3
max_length = 64
threads = 1
[method]
name = "{method}"
{options}
[data]
train_samples = 16
control_samples = 4
report_samples = 4
[eval]
max_new_tokens = 4
marks_per_epoch = 2
[engine]
name = "torch"
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where trials are made, and what they are compared with."""

    name: str  # method and tuning
    folder: Path
    recipe: Path
    shim: ctypes.CDLL

    @property
    def whole(self) -> Path:
        """The undisturbed run."""
        return self.folder / "whole" / "run"


def main() -> int:
    """Lists the operations, fails them one after another, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fault", nargs="+", choices=tuple(FAULTS), default=list(FAULTS))
    parser.add_argument("--method", nargs="+", choices=tuple(METHODS), default=["msft"])
    parser.add_argument("--tuning", nargs="+", choices=tuple(TUNINGS), default=["lora"])
    parser.add_argument("--every", type=int, default=1, help="n: only every n-th operation")
    parser.add_argument("--first", type=int, default=1, help="the one of them to begin with")
    parser.add_argument("--list", action="store_true", help="print the operations and stop")
    parser.add_argument("--kills", type=int, help="at random instants, in place of faults")
    parser.add_argument("--seed", type=int, default=1, help="of the instants")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="msft-lite-faults-") as temporary:
        folder = Path(temporary).resolve()
        shim = folder / "faults.so"
        if os.environ.get("LD_PRELOAD", "").endswith(shim.name):
            return trials(given, Path(os.environ["LD_PRELOAD"]))
        build(shim)
        environment = {**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, *sys.argv[1:]]
        return subprocess.run(command, env=environment, check=False).returncode


def build(shim: Path) -> None:
    """Compiles `faults.c`."""
    source = Path(__file__).with_suffix(".c")
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True
    )


def trials(given: argparse.Namespace, shim: Path) -> int:
    """Makes every trial asked for, with the shim in this process, and returns the exit code."""
    load_libraries()
    failed = 0
    for method in given.method:
        for tuning in given.tuning:
            with tempfile.TemporaryDirectory(prefix="msft-lite-faults-") as temporary:
                folder = Path(temporary).resolve()
                recipe = written_recipe(method, tuning, folder)
                bench = Bench(f"{method}, {tuning}", folder, recipe, ctypes.CDLL(str(shim)))
                failed += under_kills(bench, given) if given.kills else under_faults(bench, given)
    return bool(failed)


def under_faults(bench: Bench, given: argparse.Namespace) -> int:
    """Fails the operations of a run one after another; returns how many came out wrong."""
    operations = listed(bench)
    if given.list:
        print("\n".join(operations))
        return 0
    of_kind = Counter(map(kind_of, operations))
    print(f"{bench.name}: {len(operations)} operations, {dict(of_kind)}", flush=True)
    failed = 0
    for fault in given.fault:
        chosen = telling(operations, fault)[given.first - 1 :: given.every]
        outcomes = [(line, trial(bench, fault, line)) for line in chosen]
        bad = [(line, problem) for line, problem in outcomes if problem]
        failed += len(bad)
        for line, problem in bad:
            print(f"{fault} at {line}: {problem}", flush=True)
        good = len(chosen) - len(bad)
        print(f"{bench.name}, {fault}: {good} of {len(chosen)} come out the same", flush=True)
    return failed


def under_kills(bench: Bench, given: argparse.Namespace) -> int:
    """Kills runs at random instants until all kills are spent; returns how many came out wrong."""
    draw = random.Random(given.seed)
    began = time.monotonic()
    listed(bench)
    whole_seconds = time.monotonic() - began
    killed = runs = failed = 0
    while killed < given.kills:
        runs += 1
        run = bench.folder / f"run-{runs}" / "run"
        run.parent.mkdir()
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            limit = draw.uniform(0.0, whole_seconds) if killed < given.kills else None
            code, output = forked(begin_or_resume(bench, run), run, lambda: None, seconds=limit)
            killed += code == -signal.SIGKILL
        problem = f"{code}:\n{output}" if code else "; ".join(differences(bench.whole, run))
        failed += bool(problem)
        if problem:
            print(f"{bench.name}, run {runs}: {problem}", flush=True)
        shutil.rmtree(run.parent)
    print(f"{bench.name}: {killed} kills over {runs} runs, {runs - failed} of them come out the "
          "same", flush=True)  # fmt: skip
    return failed


def load_libraries() -> None:
    """Imports what a run needs, so that its forks have it, and keeps pictures from being drawn."""
    for name in LIBRARIES:
        import_module(name)
    from matplotlib.figure import Figure

    from msft_lite.report import figures, pictures

    def save_empty(_draw: object, path: Path, _settings: object) -> Path:
        return pictures.save(Figure, path)

    figures.save = save_empty


def written_base(folder: Path) -> Path:
    """Writes the quickstart's base with the first of its layers alone; returns its folder."""
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(QUICKSTART / "base", folder / "base")
    config, weights = base / "config.json", base / "model.safetensors"
    shape = json.loads(config.read_text()) | {"num_hidden_layers": 1}
    shape["layer_types"] = shape["layer_types"][:1]
    config.write_text(json.dumps(shape))
    first = re.compile(r"model\.(?!layers\.)|model\.layers\.0\.|lm_head")
    kept = {name: tensor for name, tensor in load_file(weights).items() if first.match(name)}
    save_file(kept, weights, metadata={"format": "pt"})
    return base


def written_recipe(method: str, tuning: str, folder: Path) -> Path:
    """Writes the short recipe and returns its path."""
    tasks = ", ".join(
        f'{{ name = "{task}", path = "{QUICKSTART}/tasks/{task}.jsonl", '
        f'control_path = "{QUICKSTART}/tasks/{task}.control.jsonl", '
        f'report_path = "{QUICKSTART}/tasks/{task}.report.jsonl" }}'
        for task in TASKS
    )
    recipe = folder / "recipe.toml"
    recipe.write_text(
        RECIPE.format(
            tasks=tasks,
            base=written_base(folder),
            tuning=TUNINGS[tuning],
            method=method,
            options=METHODS[method],
        ),
        encoding="utf-8",
    )
    return recipe


def listed(bench: Bench) -> list[str]:
    """Makes the undisturbed run and returns its operations: number, kind and path of each."""
    journal = bench.folder / "operations"
    arm = armed(bench, bench.whole.parent, COUNT_ONLY, NEVER, journal)
    code, output = forked(begin(bench, bench.whole), bench.whole, arm)
    if code:
        raise SystemExit(f"the undisturbed run failed:\n{output}")
    return journal.read_text().splitlines()


def telling(operations: Sequence[str], fault: str) -> list[str]:
    """Returns the operations at which ``fault`` leaves what it leaves at none before.

    A sync does nothing that outlives a kill; a power cut undoes all but what was synced; and that
    a disk is full shows where something takes room.
    """
    kept = without_inner_writes(operations)
    if fault == "full":
        return [line for line in kept if kind_of(line) in TAKE_ROOM]
    before = dict(zip(operations[1:], map(kind_of, operations), strict=False))
    if fault == "power":
        return [line for line in kept if before.get(line) not in UNDONE]
    if fault == "kill":
        return [line for line in kept if kind_of(line) == "write" or before.get(line) not in SYNCS]
    return kept


def kind_of(operation: str) -> str:
    """Returns what an operation does."""
    return operation.split(maxsplit=2)[1]


def without_inner_writes(operations: Sequence[str]) -> list[str]:
    """Returns the operations with three at most of a row of writes to one file."""
    groups = groupby(operations, key=lambda line: line.split(" ", 1)[1])
    rows = [list(group) for _, group in groups]
    return [row[at] for row in rows for at in sorted({0, len(row) // 2, len(row) - 1})]


def trial(bench: Bench, fault: str, operation: str) -> str:
    """Returns what came out wrong when ``operation`` failed; empty where nothing did."""
    number = int(operation.split(maxsplit=1)[0])
    place = bench.folder / "trial"
    shutil.rmtree(place, ignore_errors=True)
    run = place / "run"
    arm = armed(bench, place, FAULTS[fault], number, None)
    code, output = forked(begin(bench, run), run, arm)
    if fault in ("kill", "power"):
        problem = "" if code < 0 else f"it was not killed but ended with {code}:\n{output}"
    else:
        problem = told_well(code, output)
    if problem:
        return problem
    code, output = forked(begin_or_resume(bench, run), run, lambda: None)
    if code:
        return f"what followed ended with {code}:\n{output}"
    return "; ".join(differences(bench.whole, run))


def told_well(code: int, output: str) -> str:
    """Returns what is wrong with how a run ended that could not write; empty where nothing is."""
    if code not in (0, 2) or "Traceback" in output:
        return f"exit code {code}:\n{output}"
    told = code == 0 or "resume" in output or "run" in output
    return "" if told else f"it does not say how to go on:\n{output}"


def begin(bench: Bench, run: Path) -> list[str]:
    """Returns the arguments of a run that begins."""
    return ["run", str(bench.recipe), "--output-dir", str(run)]


def begin_or_resume(bench: Bench, run: Path) -> list[str]:
    """Returns the arguments that go on with what is there, as the program tells its users."""
    return ["resume", str(run)] if (run / "ledger.jsonl").exists() else begin(bench, run)


def armed(
    bench: Bench, place: Path, fault: int, number: int, journal: Path | None
) -> Callable[[], None]:
    """Returns what a fork calls to be struck by ``fault`` at operation ``number``."""
    attic = bench.folder / "attic"
    shutil.rmtree(attic, ignore_errors=True)
    attic.mkdir()
    place.mkdir(parents=True)

    def arm() -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = -1 if journal is None else os.open(journal, flags, 0o644)
        bench.shim.faults_arm(
            str(place).encode(), str(attic).encode(), fault, ctypes.c_long(number), log
        )

    return arm


def forked(
    arguments: Sequence[str], run: Path, arm: Callable[[], None], *, seconds: float | None = None
) -> tuple[int, str]:
    """Runs msft-lite in a fork that calls ``arm`` first, and kills it after ``seconds``.

    Returns its exit code (a signal: below 0) and what it printed.
    """
    printed = run.parent.with_suffix(".out")
    printed.touch()  # a fork may be killed before it does so
    child = os.fork()
    if child == 0:
        with printed.open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        arm()
        os._exit(called(arguments))
    if seconds is not None:
        ended = select.poll()
        ended.register(descriptor := os.pidfd_open(child), select.POLLIN)
        if not ended.poll(1000 * seconds):
            os.kill(child, signal.SIGKILL)
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), printed.read_text(errors="replace")[-2000:]


def called(arguments: Sequence[str]) -> int:
    """Calls msft-lite in this process and returns its exit code."""
    from msft_lite.cli.commands import app

    try:
        app(list(arguments), standalone_mode=True)
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
