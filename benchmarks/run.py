"""Runs the cases of benchmarks/cases, stores their figures, and makes RESULTS.md of them.

    python benchmarks/run.py render                 # writes RESULTS.md and tables of docs/memory.md
    python benchmarks/run.py check                  # exit code 1 where they are not what it gives
    python benchmarks/run.py run CASE [OPTION ...]  # measures a case and stores its figures
    python benchmarks/run.py gpu [--minutes 60]     # all that waits for a GPU, in one call

Options that are not listed here are those of the case, or for gpu of `cases/ladder.py`.

Figures are records (`cases/record.py`) in `baselines/<device>/<case>.json`, prose is in
`results.md.jinja`. A page may hold tables between ``<!-- table DEVICE/CASE/TABLE -->`` and
``<!-- end -->``.

`gpu` runs tests/gpu, then for models of true shapes with random weights what `cases/ladder.py`
measures, then `speed.py` and `switches.py`. Every step has a limit, and its figures are on disk as
they come: a call that is cut off is gone on with by another, which leaves out what is on record.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).parent.resolve()
CASES, BASELINES, ROOT = HERE / "cases", HERE / "baselines", HERE.parent
HOME = "cpu-2-cores"  # whose figures the prose of RESULTS.md tells of
TABLED = (ROOT / "docs" / "memory.md",)
BLOCK = re.compile(r"(<!-- table (\S+)/(\S+)/(\S+) -->\n).*?(?=<!-- end -->)", re.DOTALL)
TEST_SECONDS, CASE_SECONDS = 480, 900  # for a file of tests/gpu, for a case after the ladder
AFTER_LADDER = {
    "speed": ("--model", "Qwen2.5-1.5B", "--dtype", "bfloat16", "--longest", "2048"),
    "switches": (),
}
PREDICTED = ("memory",)  # cases that no device has a part in
MEASURED = (
    "beside_engine",
    "evaluation",
    "ladder",
    "padding",
    "profile_step",
    "rollback",
    "sharing",
    "snapshots",
    "speed",
    "switches",
    *PREDICTED,
)

sys.path.insert(0, str(CASES))
import record  # noqa: E402


def main() -> int:
    """Does what the command line names and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("render")
    commands.add_parser("check")
    running = commands.add_parser("run")
    running.add_argument("case", choices=MEASURED)
    gpu = commands.add_parser("gpu")
    gpu.add_argument("--minutes", type=float, default=60, help="after which no step begins")
    gpu.add_argument("--trl", type=Path, help="folder that trl is installed in, if it is apart")
    gpu.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help=argparse.SUPPRESS)
    gpu.add_argument("--out", type=Path, help="folder for the figures instead of baselines/")
    given, options = parser.parse_known_args()
    if given.command == "run":
        return run(given.case, options)
    if given.command == "gpu":
        return measure_gpu(given, options)
    if options:
        parser.error(f"unknown: {' '.join(options)}")
    stale = [page for page, text in rendered().items() if page.read_text("utf-8") != text]
    if given.command == "check":
        for page in stale:
            print(f"{page.relative_to(ROOT)} is stale: python benchmarks/run.py render")
        return int(bool(stale))
    for page in stale:
        page.write_text(rendered()[page], encoding="utf-8")
    return 0


def rendered() -> dict[Path, str]:
    """Returns what each page that holds figures should be."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.globals.update(table=table, setting=setting, devices=other_devices)
    results = environment.get_template("results.md.jinja").render()
    return {HERE / "RESULTS.md": results} | {page: with_tables(page) for page in TABLED}


def with_tables(page: Path) -> str:
    """Returns ``page`` with its tables as they are on record."""

    def filled(found: re.Match[str]) -> str:
        device, case, name = found.group(2, 3, 4)
        return f"{found.group(1)}\n{table(case, name, device)}\n\n"

    return BLOCK.sub(filled, page.read_text("utf-8"))


def table(case: str, name: str | None = None, device: str = HOME) -> str:
    """Returns a table of a record as Markdown; without a name, its only one."""
    tables = recorded(case, device)["tables"]
    (chosen,) = tables if name is None else (name,)
    return record.markdown(tables[chosen])


def setting(case: str, device: str = HOME) -> str:
    """Returns command, device, versions and conditions of a record as a paragraph."""
    found = recorded(case, device)
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    parts = [f"`{found['command']}`", found["device"], versions, found["conditions"]]
    return textwrap.fill(
        "; ".join(part for part in parts if part) + ".",
        width=104,
        break_long_words=False,
        break_on_hyphens=False,
    )


def recorded(case: str, device: str) -> dict[str, Any]:
    """Returns the record of a case on a device."""
    return record.read(BASELINES / device / f"{case}.json")


def other_devices() -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Returns devices but the one at home, their cases, and the names of each case's tables."""
    folders = [f for f in sorted(BASELINES.iterdir()) if f.name not in (HOME, "predicted")]
    return [
        (
            folder.name,
            [(f.stem, list(record.read(f)["tables"])) for f in sorted(folder.glob("*.json"))],
        )
        for folder in folders
    ]


def run(case: str, options: Sequence[str]) -> int:
    """Runs a case, which stores its record; returns the exit code."""
    device = "cuda" if "cuda" in options else "cpu"
    folder = "predicted" if case in PREDICTED else record.device_folder(device)
    file = BASELINES / folder / f"{case}.json"
    command = [sys.executable, CASES / f"{case}.py", *options, "--json", file]
    done = subprocess.run(list(map(str, command)), check=False)
    return done.returncode


def measure_gpu(given: argparse.Namespace, options: Sequence[str]) -> int:
    """Runs the GPU's tests and all cases that want one, and returns the exit code of the ladder."""
    until = time.monotonic() + 60 * given.minutes
    folder = given.out or BASELINES / record.device_folder(given.device)
    fixed = ["--device", given.device, *(["--trl", given.trl] if given.trl else [])]
    if given.device == "cuda":
        test_gpu(folder / "tests.json", until)
    left = (until - time.monotonic()) / 60
    ladder = [*fixed, "--minutes", left, "--json", folder / "ladder.json", *options]
    command = [sys.executable, CASES / "ladder.py", *ladder]
    done = subprocess.run(list(map(str, command)), check=False)
    if given.device == "cuda" and done.returncode == 0:
        for case, own in AFTER_LADDER.items():
            measure_within(case, [*fixed, *own] if case == "speed" else fixed[:2], folder, until)
    return done.returncode


def measure_within(case: str, options: Sequence[object], folder: Path, until: float) -> None:
    """Runs a case within its limit; what it left when it was cut off is kept, and not the end."""
    file, begun = folder / f"{case}.json", folder / f"{case}-unfinished.json"
    left = min(CASE_SECONDS, until - time.monotonic())
    if file.exists() or left <= 0:
        return
    command = [sys.executable, CASES / f"{case}.py", *options, "--json", begun]
    try:
        subprocess.run(list(map(str, command)), timeout=left, check=True)
        begun.replace(file)
    except subprocess.SubprocessError as error:
        print(f"{case} did not come to its end: {error}", flush=True)


def test_gpu(file: Path, until: float) -> None:
    """Runs each file of tests/gpu and records how it ended; those on record are left out."""
    rows = record.read(file)["tables"]["tests"]["rows"] if file.exists() else []
    for tests in sorted((ROOT / "tests" / "gpu").glob("test_*.py")):
        left = min(TEST_SECONDS, until - time.monotonic())
        if tests.name in [row[0] for row in rows] or left <= 0:
            continue
        command = [sys.executable, "-u", "-m", "pytest", "-v", "-p", "no:cacheprovider", str(tests)]
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=left, capture_output=True, check=False)
            told = done.stdout.decode()
            outcome = told.strip().splitlines()[-1].strip("= ")
            print(told if done.returncode else f"{tests.name}: {outcome}", flush=True)
        except subprocess.TimeoutExpired as error:
            told = (error.stdout or b"").decode()
            outcome = f"over {left:.0f} s, after {told.count(' PASSED')} passed"
            print(told, flush=True)
        rows.append([tests.name, outcome])
        tables = {"tests": record.table({"file": "", "outcome": ""}, rows)}
        packages = (*record.PACKAGES, "vllm")
        found = record.record(tables, device="cuda", conditions="", packages=packages)
        record.write(file, found)


if __name__ == "__main__":
    sys.exit(main())
