"""Tables for a paper: LaTeX with booktabs, and nothing of a name that TeX would act on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msft_lite.report.compare.cost_grids import UNKNOWN
from msft_lite.report.compare.grids import BEST
from msft_lite.report.tables import Grid
from msft_lite.report.wording import visible

_HEAD = r"""% Made by msft-lite compare. For use elsewhere copy a table from \begin to \end{table};
% it needs \usepackage{booktabs,graphicx}. Characters outside ASCII are written as U+ and a code.
\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
"""
_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}",
    "`": r"\char96{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after the end of a row they would be its options
}  # fmt: skip


def latex_document(grids: Sequence[Grid]) -> str:
    """Returns a whole document that any LaTeX compiles, a table for every one of ``grids``."""
    tables = [latex_table(grid, label=f"tab:compare-{n}") for n, grid in enumerate(grids, start=1)]
    return "\n".join([_HEAD, *tables, "\\end{document}\n"])


def latex_table(grid: Grid, *, label: str) -> str:
    """Returns ``grid`` as a table, shrunk where it would be wider than the text.

    The best scores are bold, intervals small.
    """
    is_left = [column.endswith(" ") for column in grid.columns]
    rules = "".join("l" if left else "r" for left in is_left)
    lines = [
        " & ".join(latex_text(column.strip()) for column in grid.columns) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(grid.rows, start=1):
        if grid.has_total and number == len(grid.rows):
            lines.append(r"\midrule")
        cells = [
            latex_text(cell) if left else _number(cell)
            for cell, left in zip(row, is_left, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([
        r"\begin{table}[p]", r"\centering", rf"\caption{{{latex_text(grid.title)}.}}",
        rf"\label{{{label}}}", r"\smallskip",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{rules}}}", r"\toprule", *lines, r"\bottomrule",
        r"\end{tabular}}", *_notes(grid), r"\end{table}", "",
    ])  # fmt: skip


def latex_text(text: str) -> str:
    """Returns ``text`` so that TeX prints it as it is and acts on nothing in it."""
    shown = "".join(
        _ESCAPES.get(character, character) if character.isascii() else f"U+{ord(character):04X}"
        for character in visible(text)
    )
    return re.sub(r"([-'])(?=\1)", r"\1{}", shown)  # two of them would become one sign


def _notes(grid: Grid) -> list[str]:
    if not grid.notes:
        return []
    notes = [f"Bold{n.removeprefix('*')}" if n.startswith(BEST) else n for n in grid.notes]
    text = " ".join(latex_text(note) for note in notes)
    return [r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize " + text + r"\end{minipage}"]


def _number(cell: str) -> str:
    """Returns a cell of numbers: a minus is one, the best is bold, an interval small."""
    if cell == UNKNOWN:
        return "--"
    is_best, plain = cell.startswith(BEST), cell.removeprefix(BEST)
    value, bracket, interval = plain.partition(" [")
    if not (bracket and re.fullmatch(r"[-+.,\d ]+\]", interval)):
        return _signed(plain)
    shown = rf"\textbf{{{_signed(value)}}}" if is_best else _signed(value)
    return rf"{shown} {{\scriptsize {{[}}{_signed(interval[:-1])}{{]}}}}"


def _signed(text: str) -> str:
    return re.sub(r"(?<![^ ,])-(?=[.\d])", "$-$", latex_text(text))
