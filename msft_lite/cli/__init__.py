"""The command line: parses, calls and prints. The only package that reads the environment."""

from __future__ import annotations

from msft_lite.cli.commands import app, main
from msft_lite.cli.exit_codes import told_errors

__all__ = ["app", "main", "told_errors"]
