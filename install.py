"""Creates ``.venv`` with the pinned packages of ``locks/`` and this package, once.

A second call finds the stamp of the first and does nothing. Only the standard library is used, so
that any Python 3.11 to 3.13 with pip can run it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / "installed.txt"
# CPU builds of torch are not on PyPI.
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DISK_GB = {"cpu": 5, "gpu": 15}


def main() -> None:
    """Brings ``.venv`` up to date, or ends with a message that says what to do."""
    parser = argparse.ArgumentParser(description="Create .venv from the pinned packages in locks/.")
    parser.add_argument(
        "--lock",
        choices=("auto", "cpu", "gpu"),
        default="auto",
        help="packages to install; auto: those installed before, else gpu where nvidia-smi works",
    )
    check_machine()
    before = STAMP.read_text().split("\n") if STAMP.is_file() and PYTHON.exists() else []
    kind = choose(parser.parse_args().lock, before)
    stamp = [f"lock {kind} {digest(lock_of(kind))}", f"project {digest(HERE / 'pyproject.toml')}"]
    if before == stamp:
        return
    if before[:1] != stamp[:1]:
        create_environment()
        install_packages(kind)
    say("installing msft-lite itself")
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(HERE))
    STAMP.write_text("\n".join(stamp))
    say("ready")


def check_machine() -> None:
    """Ends the program where the pinned packages cannot work."""
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"install: Python 3.11, 3.12 or 3.13 is needed; {sys.executable} is {version}. "
            "Name another one: make PYTHON=python3.12 quickstart"
        )
    machine = f"{sys.platform} {platform.machine()}"
    if machine != "linux x86_64":
        sys.exit(
            f"install: the locks are for linux x86_64; this is {machine}. "
            "Without vLLM, `pip install -e .` may do; the recipe's engine is then `torch`."
        )


def choose(wanted: str, before: list[str]) -> str:
    """Returns ``cpu`` or ``gpu``: as asked, else as installed before, else as the machine is."""
    if wanted != "auto":
        return wanted
    if before:
        return before[0].split()[1]
    found = shutil.which("nvidia-smi") is not None and (
        subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0
    )
    say("an NVIDIA GPU was found" if found else "no NVIDIA GPU was found: nvidia-smi does not work")
    return "gpu" if found else "cpu"


def lock_of(kind: str) -> Path:
    """Returns the list of pinned packages for ``kind``."""
    return HERE / "locks" / f"{kind}.txt"


def digest(file: Path) -> str:
    """Returns the sha256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def create_environment() -> None:
    """Makes ``.venv`` with pip in it, unless one that works is there."""
    if PYTHON.exists():
        return
    say(f"creating .venv with Python {platform.python_version()}")
    with_pip = importlib.util.find_spec("ensurepip") is not None
    venv.create(ENVIRONMENT, clear=True, symlinks=True, with_pip=with_pip)
    if not with_pip:  # Debian's python3 without python3-venv: this Python's own pip puts one in.
        run(sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "pip")


def install_packages(kind: str) -> None:
    """Installs every pinned package of ``kind`` that is missing and removes all others."""
    lock = lock_of(kind)
    pins = lock.read_text().split()
    say(
        f"installing {len(pins)} packages of {lock.relative_to(HERE)} into .venv "
        f"({DISK_GB[kind]} GB on disk); this takes a few minutes"
    )
    if kind == "cpu":
        install_torch(next(pin for pin in pins if pin.startswith("torch==")))
    pip("install", "--no-deps", "--requirement", str(lock))
    others = installed_names() - {pin.partition("==")[0] for pin in pins} - {"pip", "msft-lite"}
    if others:
        pip("uninstall", "--yes", *sorted(others))


def installed_names() -> set[str]:
    """Returns the names of all packages in ``.venv``, spelled as in the locks."""
    command = [str(PYTHON), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {re.sub(r"[-_.]+", "-", package["name"]).lower() for package in listed}


def install_torch(pin: str) -> None:
    """Installs the CPU build of torch from where pip looks by itself, else from PyTorch's index."""
    if attempt(str(PYTHON), "-m", "pip", "install", "--no-deps", pin).returncode != 0:
        say(f"pip does not find {pin} by itself: taking it from {TORCH_CPU_INDEX}")
        pip("install", "--no-deps", "--extra-index-url", TORCH_CPU_INDEX, pin)


def pip(*arguments: str) -> None:
    """Runs pip in ``.venv``."""
    run(str(PYTHON), "-m", "pip", *arguments)


def run(*command: str) -> None:
    """Runs a command in silence; where it fails, shows what it said and ends with its status."""
    done = attempt(*command)
    if done.returncode != 0:
        print(done.stdout, end="", flush=True)
        say(f"failed: {' '.join(command)}")
        say("the reason stands above; the same make command goes on from here")
        sys.exit(done.returncode)


def attempt(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a pip command and returns its status with all warnings and errors it printed.

    What it prints is kept back: hundreds of lines on some machines, none of which matters as long
    as the command succeeds.
    """
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1", "PIP_PROGRESS_BAR": "off"}
    return subprocess.run(
        command,
        env={**os.environ, **quiet},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def say(text: str) -> None:
    """Prints one line at once, so that it stands before what a command prints next."""
    print(f"install: {text}", flush=True)


if __name__ == "__main__":
    main()
