"""How rows, their lengths and their prompts are printed for `show-data`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from msft_lite.cli.check_text import task_notes
from msft_lite.cli.texts import (
    masked_legend,
    print_lines,
    print_pieces,
    print_text,
    print_title,
)
from msft_lite.data.task import Task
from msft_lite.report.wording import counted, percent
from msft_lite.run.samples import Bin, Lengths, decoded, example_pieces, lengths
from msft_lite.run.survey import Survey, TaskSurvey

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BAR_WIDTH = 36
EIGHTHS = "▏▎▍▌▋▊▉█"


def print_data(found: Survey, *, rows: int, max_length: int, console: Console) -> None:
    """Prints every task with ``rows`` of its training rows, and every problem at the end."""
    for task in found.tasks:
        _print_heading(task, console)
        if task.task is not None and found.tokenizer is not None:
            _print_lengths(task.task, max_length, console)
            _print_rows(task.task, found.tokenizer, rows=rows, console=console)
            _print_prompt(task.task, found.tokenizer, console)
        console.print()
    print_lines(found.notes, console)
    print_lines((f"problem: {text}" for text in found.problems), console, style="red")


def histogram_lines(found: Lengths, limit: int) -> list[str]:
    """Returns a line per bin: tokens, a bar, the rows, and which figures of the whole lie there."""
    most = max(bin.count for bin in found.bins)
    figures = {"p50": found.p50, "p95": found.p95, "max": found.longest, "limit": limit}
    lines = [
        f"{f'{bin.low:,}-{bin.high:,}':>15} {_bar(bin.count, most):<{BAR_WIDTH}} {bin.count:>8,}  "
        f"{' '.join(name for name, tokens in figures.items() if _holds(bin, tokens))}".rstrip()
        for bin in found.bins
    ]
    if limit > found.bins[-1].high:
        lines.append(f"{limit:>15,} {'':<{BAR_WIDTH}} {'':>8}  limit")
    return lines


def _holds(found: Bin, tokens: int) -> bool:
    return found.low <= tokens <= found.high


def _bar(count: int, most: int) -> str:
    eighths = -(-count * BAR_WIDTH * 8 // most)  # rounded up: one row is seen too
    whole, rest = divmod(eighths, 8)
    return EIGHTHS[-1] * whole + (EIGHTHS[rest - 1] if rest else "")


def _print_heading(task: TaskSurvey, console: Console) -> None:
    print_lines([task.name], console, style="bold")
    if task.rows is None:
        return
    splits = task.rows.splits
    train = task.task.train if task.task else splits.train
    counts = zip(
        (len(train), len(splits.control), len(splits.report)),
        ("training row", "control row", "report row"),
        strict=True,
    )
    print_lines([", ".join(counted(count, noun) for count, noun in counts)], console)
    shots = counted(len(task.rows.shots), "shot")
    print_lines([f"rows as {task.form}, {shots} before each question"], console)
    print_lines(task_notes([task]), console)


def _print_lengths(task: Task, max_length: int, console: Console) -> None:
    tokens = [len(row.prompt) + len(row.answer) for row in task.train]
    found = lengths(tokens)
    trained = sum(row.trained_tokens for row in task.train)
    print_title("tokens of the training rows", console)
    print_lines(histogram_lines(found, max_length), console)
    print_lines(
        [
            f"p50 {found.p50:,}, p95 {found.p95:,}, max {found.longest:,}, limit {max_length:,}",
            f"trained on: {trained:,} of {sum(tokens):,} tokens "
            f"({percent(trained / sum(tokens))} %)",
        ],
        console,
    )


def _print_rows(
    task: Task, tokenizer: PreTrainedTokenizerBase, *, rows: int, console: Console
) -> None:
    for example in task.train[:rows]:
        print_title(f"training row {example.row}; no loss: {masked_legend(console)}", console)
        print_pieces(example_pieces(example, tokenizer), console)


def _print_prompt(task: Task, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    question = task.control[0]
    print_title("prompt of the first held-out row; ▮: the answer follows", console)
    print_text(f"{decoded(question.prompt, tokenizer)}▮", console)
    print_lines([f"looked for in the answer: {question.gold}"], console)
