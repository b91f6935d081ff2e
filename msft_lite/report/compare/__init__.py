"""Compares finished runs by their ledgers: tables, figures, and how far they can be trusted.

`read_systems` finds out which run folders are seeds of one system; `compare` makes a `Comparison`
of stories under labels of any kind; `write_comparison` and `print_comparison` show it.
"""

from __future__ import annotations

from msft_lite.report.compare.comparison import Comparison, Standing, System, compare
from msft_lite.report.compare.costs import Costs, costs_of
from msft_lite.report.compare.files import (
    COMPARISON,
    default_folder,
    print_comparison,
    write_comparison,
)
from msft_lite.report.compare.runs import Systems, read_systems

__all__ = [
    "COMPARISON",
    "Comparison",
    "Costs",
    "Standing",
    "System",
    "Systems",
    "compare",
    "costs_of",
    "default_folder",
    "print_comparison",
    "read_systems",
    "write_comparison",
]
