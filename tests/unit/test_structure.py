"""Rules about the code itself: sizes, what the pure half imports, locks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "msft_lite"
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 50
PIN = r"[a-z0-9-]+==[0-9][a-z0-9.+]*"
PURE = ("errors.py", "core.py", "recipe*", "ledger*", "methods", "report")
SLOW = ("transformers", "peft", "bitsandbytes", "accelerate", "datasets", "vllm")
HEAVY = ("torch", "transformers", "vllm", "numpy", "datasets", "matplotlib")
SOURCES = sorted(
    file
    for folder in ("msft_lite", "tests", "recipes", "benchmarks")
    for file in (ROOT / folder).rglob("*.py")
)


def pure_modules() -> list[str]:
    """Names of all modules of the pure half."""
    tops = sorted(path for pattern in PURE for path in PACKAGE.glob(pattern))
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*.py"))]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return sorted(name.removesuffix(".__init__") for name in names)


def loaded(modules: Sequence[str], of: Sequence[str]) -> str:
    """Which ``of`` these packages the modules load, as a list is printed."""
    code = f"import sys, {', '.join(modules)}; print(sorted(set(sys.modules) & set({of!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_no_file_is_long() -> None:
    lines = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in SOURCES}
    assert {file: count for file, count in lines.items() if count > MOST_FILE_LINES} == {}


def test_no_function_is_long() -> None:
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_FUNCTION_LINES
    ]
    assert long == []


def test_the_pure_half_imports_nothing_heavy() -> None:
    modules = pure_modules()
    assert {"msft_lite.core", "msft_lite.recipe", "msft_lite.methods.msft"} <= set(modules)
    assert loaded(modules, HEAVY) == "[]"


def test_snapshots_are_listed_at_once() -> None:
    assert loaded(["msft_lite.cli.snapshots_text"], SLOW) == "[]"


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_lock_pins_every_dependency(kind: str) -> None:
    lines = (ROOT / "locks" / f"{kind}.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(PIN, line)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras[kind], *extras["dev"]]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted}
    assert names - {line.split("==")[0] for line in lines} == set()
    assert {pin for pin in extras[kind] if "==" in pin} <= set(lines)
