"""Commands that have to start at once."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from msft_lite.cli import app
app(sys.argv[1:], standalone_mode=False)
heavy = {'torch', 'transformers', 'vllm', 'datasets', 'peft'} & set(sys.modules)
sys.exit(f'imported {heavy}' if heavy else 0)
"""


def assert_light(*arguments: str) -> None:
    """Holds that `msft-lite ARGUMENTS` ends well and imports nothing that takes seconds to load."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
