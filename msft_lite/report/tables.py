"""The tables of a report, once as neutral grids of texts, shown by rich or written as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from msft_lite.core import ROOT, Score
from msft_lite.report.cost import flops_text
from msft_lite.report.intervals import estimate_of, mean_estimate, task_differences
from msft_lite.report.scale import Scale, scale_of
from msft_lite.report.story import Mark, RolloutStory, Story, TaskRows, Totals
from msft_lite.report.wording import (
    duration,
    markdown_text,
    percent,
    place,
    short_place,
    size,
    standing_text,
    visible,
)

MEAN = "mean over tasks"
_MOST_PRINTED_ROWS = 40


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts; foreign names stand in it as they are and are escaped when shown.

    Attributes:
        columns: headings; one that ends in a space is aligned to the left.
        notes: sentences under the table.
        has_total: whether the last row sums up the others.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    has_total: bool = False


def all_grids(story: Story) -> tuple[Grid, ...]:
    """Returns every table that the story has the rows for."""
    grids = [] if story.finish is None else [report_grid(story)]
    return (*grids, control_grid(story), rollout_grid(story), cost_grid(story))


def printed_grids(story: Story) -> tuple[Grid, ...]:
    """Returns what a terminal gets of `all_grids`: the first whole, long ones after it cut."""
    first, *others = all_grids(story)
    return (first, *(_cut(grid) for grid in others))


def _cut(grid: Grid) -> Grid:
    """Returns ``grid`` with its last rows alone if it is long, and a note that says so."""
    count = len(grid.rows)
    if count <= _MOST_PRINTED_ROWS:
        return grid
    note = f"The last {_MOST_PRINTED_ROWS} of {count:,} rows; all of them are in report.md."
    return replace(grid, rows=grid.rows[-_MOST_PRINTED_ROWS:], notes=(note, *grid.notes))


def report_grid(story: Story) -> Grid:
    """Returns base and returned point on the report split; the run must be finished."""
    assert story.finish is not None, "ask only for a finished run"
    base, best = story.finish.base, story.finish.best
    per_task, mean = task_differences(base, best, seed=story.setting.seed)
    metrics = story.setting.metrics
    rows = [
        (name, f"{base[name].total:,}", _interval(base[name], scale), _interval(best[name], scale),
         scale.difference(per_task[name]))
        for name in story.names
        for scale in [scale_of([metrics[name]])]
    ]  # fmt: skip
    whole = scale_of(metrics.values())
    total = sum(score.total for score in base.values())
    rows += _domain_rows(story)
    rows.append(
        (MEAN, f"{total:,}", whole.interval(mean_estimate(base)),
         whole.interval(mean_estimate(best)), whole.difference(mean))
    )  # fmt: skip
    return Grid(
        f"{_report_title(story)}: the base and the returned point ({place(story.best)})",
        ("Task ", "Report rows", f"Base {whole.unit}", f"Returned {whole.unit}", "Difference"),
        tuple(rows),
        (
            "In brackets 95 % intervals: Wilson for an accuracy, a paired bootstrap over rows "
            "(2,000 resamples) for a difference.",
            *_scale_notes(metrics.values()),
            *_letters(story),
            _steering(story),
        ),
        has_total=True,
    )


def _report_title(story: Story) -> str:
    return "Report split (steered on)" if story.setting.steer_on == "report" else "Report split"


def _domain_rows(story: Story) -> list[tuple[str, ...]]:
    """Returns the mean of every domain, if the tasks are of several."""
    assert story.finish is not None, "ask only for a finished run"
    domains = story.setting.domains
    names = [domain for domain in dict.fromkeys(domains.values()) if domain]
    if len(names) < 2:
        return []
    rows: list[tuple[str, ...]] = []
    for name in names:
        tasks = [task for task in story.names if domains[task] == name]
        base = {task: story.finish.base[task] for task in tasks}
        best = {task: story.finish.best[task] for task in tasks}
        scale = scale_of(story.setting.metrics[task] for task in tasks)
        difference = task_differences(base, best, seed=story.setting.seed)[1]
        rows.append(
            (f"mean: {name}", f"{sum(score.total for score in base.values()):,}",
             scale.interval(mean_estimate(base)), scale.interval(mean_estimate(best)),
             scale.difference(difference))
        )  # fmt: skip
    return rows


def _scale_notes(metrics: Iterable[str]) -> list[str]:
    metrics = tuple(metrics)
    notes = {scale_of([metric]).note for metric in metrics} - {""}
    if len({scale_of([metric]) for metric in metrics}) > 1:
        notes.add("The tasks' metrics differ: their mean counts each from 0 to 1.")
    return sorted(notes)


def _letters(story: Story) -> list[str]:
    """Returns which tasks are scored by the likeliest letter, if there are any."""
    tasks = [task for task, score in story.setting.scores.items() if score == "logprob"]
    if not tasks:
        return []
    which = "All tasks" if len(tasks) == len(story.names) else ", ".join(tasks)
    return [f"Scored by the likeliest letter of the choices, nothing written: {which}."]


def _interval(score: Score, scale: Scale) -> str:
    return scale.interval(estimate_of(score))


def _steering(story: Story) -> str:
    if story.setting.steer_on == "report":
        return (
            "The same rows chose the peaks, the drops and the returned point (the paper's "
            "protocol), so these scores are optimistic."
        )
    return "These rows steered nothing: they were read once, at the end."


def control_grid(story: Story) -> Grid:
    """Returns per task the scores that steered the run and what became of the task."""
    split = "Report" if story.setting.steer_on == "report" else "Control"
    notes = [
        "These rows steered the run (peaks, drops, the returned point): "
        "the best of many marks is an optimistic number.",
        "r2 m5 is mark 5 of roll-out 2; the peak is the mark that a task was dropped for.",
    ]
    notes += _scale_notes(story.setting.steering_metrics().values())
    notes += [] if story.setting.signal == "loss" else _letters(story)
    if story.finish is None:
        notes.append("The run is not finished.")
    unit, best = _steering_scale(story).unit, story.best
    return Grid(
        f"{split} split: what steered the run",
        ("Task ", f"{split} rows", f"Base {unit}", f"Own best {unit}", "At ",
         f"Returned {unit}" if story.finish else f"Best mean {unit}", "Status "),
        (*(_control_row(story, task, best) for task in story.tasks),
         _control_mean(story, best)),
        tuple(notes),
        has_total=True,
    )  # fmt: skip


def _steering_scale(story: Story) -> Scale:
    """Returns how a mean over all tasks is written along the run."""
    return scale_of(story.setting.steering_metrics().values())


def _control_row(story: Story, task: TaskRows, best: Mark | None) -> tuple[str, ...]:
    peak = story.peak(task.name)
    scale = scale_of([story.setting.steering_metrics()[task.name]])
    return (
        task.name,
        f"{_steering_rows(story, task):,}",
        _at(story.base, task.name, scale),
        _at(peak, task.name, scale),
        short_place(peak),
        _at(best, task.name, scale),
        standing_text(story.standing(task.name)),
    )


def _steering_rows(story: Story, task: TaskRows) -> int:
    """Returns how many rows of ``task`` its percentages along the run are of."""
    return task.report if story.setting.steer_on == "report" else task.control


def _at(mark: Mark | None, task: str, scale: Scale) -> str:
    return "-" if mark is None else _interval(mark.scores[task], scale)


def _control_mean(story: Story, best: Mark | None) -> tuple[str, ...]:
    best_mean, scale = story.best_mean, _steering_scale(story)
    return (
        MEAN,
        f"{sum(_steering_rows(story, task) for task in story.tasks):,}",
        _mean_at(story.base, scale),
        _mean_at(best_mean, scale),
        short_place(best_mean),
        _mean_at(best, scale),
        "",
    )


def _mean_at(mark: Mark | None, scale: Scale) -> str:
    return "-" if mark is None else scale.interval(mean_estimate(mark.scores))


def rollout_grid(story: Story) -> Grid:
    """Returns one row a roll-out: what it trained, how far, and what was decided on it."""
    return Grid(
        "Roll-outs",
        ("No.", "From ", "Tasks ", "Marks", "Steps", f"Best mean {_steering_scale(story).unit}",
         "Rolled back to ", "Dropped "),
        tuple(_rollout_row(story, rollout) for rollout in story.rollouts),
        (f"A mark is 1/{story.setting.marks_per_epoch} epoch of the tasks still active. "
         "The mean is over all tasks, on the rows that steer.",),
    )  # fmt: skip


def _rollout_row(story: Story, rollout: RolloutStory) -> tuple[str, ...]:
    best_mean = max((mark.mean for mark in rollout.marks if mark.is_whole), default=None)
    return (
        str(rollout.n),
        short_place(story.mark_of(rollout.start)) if rollout.start != ROOT else "base",
        f"{len(rollout.tasks)} of {len(story.tasks)}",
        f"{max(0, len(rollout.marks) - 1)} of {len(rollout.steps)}",
        f"{rollout.end_step:,}",
        "-" if best_mean is None else _steering_scale(story).text(float(best_mean)),
        rolled_back_text(story, rollout),
        ", ".join(drop.task for drop in rollout.drops) or "-",
    )


def rolled_back_text(story: Story, rollout: RolloutStory) -> str:
    """Returns where training went on from if not from the end of ``rollout``, else a dash."""
    kept = story.kept_mark(rollout)
    if kept >= len(rollout.steps):
        return "-"
    return "the start" if kept == 0 else f"mark {kept}"


def cost_grid(story: Story) -> Grid:
    """Returns where the seconds went, longest first, with the other costs as notes."""
    totals = story.totals()
    spent = totals.spending
    whole = sum(spent.seconds.values())
    parts = sorted(spent.seconds.items(), key=lambda item: (-item[1], item[0]))
    rows = [(kind, duration(value), percent(value / whole if whole else 0.0))
            for kind, value in parts]  # fmt: skip
    return Grid(
        "Where the time went",
        ("Part ", "Time", "Share %"),
        (*rows, ("sum", duration(whole), "100.0" if whole else "0.0")),
        (
            f"{totals.steps:,} optimizer steps, {totals.rolled_back_steps:,} of them rolled back; "
            f"{spent.trained.tokens:,} tokens trained, {spent.generated_tokens:,} generated in "
            f"{totals.evaluations:,} evaluations; most memory held {size(totals.peak_bytes)}.",
            *_compute_notes(totals),
            *_evaluation_notes(totals),
        ),
        has_total=True,
    )


def _compute_notes(totals: Totals) -> list[str]:
    """Returns operations and disk, as far as the ledger tells them."""
    notes: list[str] = []
    if (flops := totals.flops) is not None:
        parts = [("training", flops.model), ("recomputed", flops.recompute)]
        parts += [("probes", flops.probe), ("evaluation", flops.evaluation)]
        told = ", ".join(f"{what} {flops_text(value)}" for what, value in parts if value)
        notes.append(f"Operations: {told}; {flops_text(flops.attention)} of training is attention.")
    if totals.copies is not None:
        notes.append(
            f"Snapshots and crash copy took {totals.copies:.2f} copies of the model in the mean "
            f"over the evaluated marks, {size(totals.disk_bytes)} at most; "
            f"{size(totals.spending.written_bytes)} were written."
        )
    return notes


def _evaluation_notes(totals: Totals) -> list[str]:
    """Returns what an evaluation took, and what the prefix cache spared it, if any generated."""
    spent = totals.spending
    if not spent.prompt_tokens:
        return []
    seconds = spent.seconds.get("generate", 0.0) + spent.seconds.get("swap", 0.0)
    notes = [f"An evaluation took {duration(seconds / max(1, totals.evaluations))} in the mean."]
    if spent.cached_tokens:
        share = percent(spent.cached_tokens / spent.prompt_tokens)
        notes.append(
            f"The engine's prefix cache served {share} % of {spent.prompt_tokens:,} prompt tokens."
        )
    return notes


def rich_grid(grid: Grid, *, width: int) -> Group:
    """Returns ``grid`` for a terminal of ``width`` columns: title, table, notes.

    Where the table would be too wide, intervals go on a line of their own and texts are folded.
    """
    is_narrow = _widest(grid) > width
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in grid.columns:
        is_left = _is_left(column)
        heading = visible(column.strip())
        table.add_column(
            Text(heading.replace(" rows", "\nrows") if is_narrow else heading),
            justify="left" if is_left else "right",
            overflow="fold",
            no_wrap=not is_left,
        )
    for number, row in enumerate(grid.rows, start=1):
        if grid.has_total and number == len(grid.rows):
            table.add_section()
        cells = (visible(cell) for cell in row)
        table.add_row(*(Text(_broken(cell) if is_narrow else cell) for cell in cells))
    notes = (Text(visible(note), style="dim") for note in grid.notes)
    return Group(Text(visible(grid.title), style="bold"), table, *notes, Text())


def _widest(grid: Grid) -> int:
    """Returns the width at which no cell needs a second line."""
    columns = zip(grid.columns, *grid.rows, strict=True)
    return sum(max(len(visible(cell)) for cell in column) + 2 for column in columns)


def narrow_width(grid: Grid) -> int:
    """Returns the width that `rich_grid` needs with intervals on lines of their own."""
    columns = zip(grid.columns, *grid.rows, strict=True)
    widths = [
        max(
            len(line)
            for cell in (
                visible(column[0].strip()).replace(" rows", "\nrows"),
                *map(visible, column[1:]),
            )
            for line in _broken(cell).split("\n")
        )
        for column in columns
    ]
    return sum(width + 2 for width in widths) - 2


def _broken(cell: str) -> str:
    return re.sub(r" \[([-+.\d]+, [-+.\d]+)\]$", r"\n[\1]", cell)


def markdown_table(grid: Grid) -> str:
    """Returns ``grid`` as Markdown with a heading."""
    rules = [":--" if _is_left(column) else "--:" for column in grid.columns]
    lines = [[markdown_text(column.strip()) for column in grid.columns], rules]
    for number, row in enumerate(grid.rows, start=1):
        is_total = grid.has_total and number == len(grid.rows)
        cells = [markdown_text(cell) for cell in row]
        lines.append([f"**{cell}**" if is_total and cell else cell for cell in cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n\n".join(markdown_text(note) for note in grid.notes)
    return f"## {markdown_text(grid.title)}\n\n{table}\n\n{notes}\n"


def _is_left(column: str) -> bool:
    return column.endswith(" ")
