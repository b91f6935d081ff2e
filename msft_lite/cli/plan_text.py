"""How a plan is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from msft_lite.report.wording import bytes_text

if TYPE_CHECKING:
    from msft_lite.run.plan import Plan


def print_plan(found: Plan, console: Console) -> None:
    """Prints a row per task, the totals, and what was assumed."""
    table = Table("task", title=f"plan: {found.method}", title_justify="left")
    for heading in ("training rows", "control", "report", "tokens a row", "drawn", "leaves"):
        table.add_column(heading, justify="right")
    drops = found.tally.drops
    for task in found.tasks:
        table.add_row(
            task.name,
            f"{task.train_rows:,}",
            f"{task.control_rows:,}",
            f"{task.report_rows:,}",
            f"{float(task.tokens_per_row):,.1f}",
            f"{found.tally.rows[task.name]:,}",
            f"{drops.index(task.name) + 1}." if task.name in drops else "",
        )
    console.print(table)
    totals = Table.grid(padding=(0, 2))
    totals.add_column()
    totals.add_column(justify="right")
    for name, value in _totals(found):
        totals.add_row(name, value)
    console.print(totals)
    for line in (found.assumption, *found.notes):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _totals(found: Plan) -> list[tuple[str, str]]:
    tally = found.tally
    rows = [
        ("stages", f"{tally.stages:,}"),
        ("optimizer steps", f"{tally.steps:,}"),
        ("training rows", f"{sum(tally.rows.values()):,}"),
        ("training tokens", f"{found.train_tokens:,}"),
        *([("rows of probing steps", f"{tally.probed_rows:,}")] if tally.probed_rows else []),
        *([("rows read for the method", f"{tally.read_rows:,}")] if tally.read_rows else []),
        ("evaluations", f"{tally.evaluations:,}"),
        ("generated tokens, at most", f"{found.generated_tokens_at_most:,}"),
        ("snapshots kept at a time, at most", f"{tally.snapshots_alive:,}"),
        ("snapshots written", f"{tally.snapshots_written:,}"),
    ]
    size = found.size
    if size is None or found.disk is None or found.written_bytes is None:
        return rows
    return [
        *rows,
        ("parameters", f"{size.parameters:,}"),
        ("trainable parameters", f"{size.trainable_parameters:,}"),
        ("bytes on disk, at most", bytes_text(found.disk.most_bytes)),
        ("bytes written", bytes_text(found.written_bytes)),
    ]
