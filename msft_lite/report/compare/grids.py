"""The tables of a comparison, as grids of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from msft_lite.report.compare.comparison import Comparison, Standing, System
from msft_lite.report.compare.cost_grids import UNKNOWN, compute_grid, disk_grid, time_grid
from msft_lite.report.intervals import RESAMPLES, Estimate
from msft_lite.report.scale import Scale, scale_of
from msft_lite.report.tables import MEAN, Grid
from msft_lite.report.wording import counted

BEST = "* "  # before the best score of a row or column
BEST_NOTE = BEST + "marks the best, ties included."


def all_grids(comparison: Comparison) -> tuple[Grid, ...]:
    """Returns every table that there is something to say in."""
    grids = [methods_grid(comparison)]
    if comparison.domains:
        grids.append(domains_grid(comparison))
    grids.append(scores_grid(comparison))
    if comparison.others:
        grids.append(differences_grid(comparison))
    return (*grids, compute_grid(comparison), time_grid(comparison), disk_grid(comparison))


def methods_grid(comparison: Comparison) -> Grid:
    """Returns a row a system: mean, spread over tasks, first places, difference."""
    scale, means = whole_scale(comparison), _means(comparison)
    rows = [
        (
            system.label,
            ", ".join(map(str, system.seeds)),
            mean,
            _deviation(system, scale),
            places_text(system.first_places),
            _difference(comparison, system, system.mean, scale),
        )
        for system, mean in zip(comparison.systems, means, strict=True)
    ]
    return Grid(
        f"Systems, {counted(len(comparison.tasks), 'task')}{steered(comparison)}",
        ("System ", "With seed", f"Mean {scale.unit}", "Sd over tasks", "First places",
         f"Against {comparison.reference}"),
        tuple(rows),
        (BEST_NOTE, *score_notes(comparison), *_places_notes(comparison),
         *_base_notes(comparison, scale), *_last_notes(comparison, scale)),
    )  # fmt: skip


def domains_grid(comparison: Comparison) -> Grid:
    """Returns the mean of every domain and system."""
    rows: list[tuple[str, ...]] = []
    for domain, tasks in comparison.domains.items():
        scale = scale_of(comparison.metrics[task] for task in tasks)
        scores = [system.domains[domain].score for system in comparison.systems]
        texts = _marked(scores, scale)
        rows += [
            (
                domain if number == 0 else "",
                system.label,
                texts[number],
                _difference(comparison, system, system.domains[domain], scale),
            )
            for number, system in enumerate(comparison.systems)
        ]
    parts = "; ".join(f"{name}: {', '.join(of)}" for name, of in comparison.domains.items())
    return Grid(
        f"Means by domain{_unit(comparison)}{steered(comparison)}",
        ("Domain ", "System ", "Mean", f"Against {comparison.reference}"),
        tuple(rows),
        (
            BEST_NOTE,
            f"{parts}.",
            *multiplicity_notes(comparison, len(comparison.domains)),
            *short_notes(comparison),
        ),
    )


def scores_grid(comparison: Comparison) -> Grid:
    """Returns the score of every task and system, the best of a task marked."""
    rows = [
        (
            task,
            f"{comparison.rows[task]:,}",
            *_marked(
                [system.tasks[task].score for system in comparison.systems],
                _task_scale(comparison, task),
            ),
        )
        for task in comparison.tasks
    ]
    return Grid(
        f"Scores by task{_unit(comparison)}{steered(comparison)}",
        ("Task ", "Rows", *(system.label for system in comparison.systems)),
        (*rows, (MEAN, f"{sum(comparison.rows.values()):,}", *_means(comparison))),
        (BEST_NOTE, *short_notes(comparison)),
        has_total=True,
    )


def differences_grid(comparison: Comparison) -> Grid:
    """Returns what every task's score is above the reference's."""
    rows = [
        (task, *(_task_scale(comparison, task).difference(system.tasks[task].difference)
                 for system in comparison.others))
        for task in comparison.tasks
    ]  # fmt: skip
    scale = whole_scale(comparison)
    means = [scale.difference(system.mean.difference) for system in comparison.others]
    return Grid(
        f"Differences to {comparison.reference} by task{_points(comparison)}{steered(comparison)}",
        ("Task ", *(system.label for system in comparison.others)),
        (*rows, (MEAN, *means)),
        (*multiplicity_notes(comparison, len(comparison.tasks)), *short_notes(comparison)),
        has_total=True,
    )


def whole_scale(comparison: Comparison) -> Scale:
    """Returns how a mean over all tasks is written."""
    return scale_of(comparison.metrics.values())


def steered(comparison: Comparison) -> str:
    """Returns what a title says of the rows: that they are reported, and whether they steered."""
    return " (report split, steered on)" if comparison.steer_on == "report" else " (report split)"


def places_text(places: Fraction) -> str:
    """Returns a number of first places as ``3`` or ``2.33``."""
    return f"{float(places):.2f}".rstrip("0").rstrip(".")


def score_notes(comparison: Comparison) -> list[str]:
    """Returns how the numbers of scores came about and how far they can be trusted."""
    scores = (
        "In brackets 95 % intervals. Of a score of one run: Wilson's for an accuracy; the tasks' "
        "are put together for a mean."
    )
    rows = (
        f"Of a difference: a paired bootstrap ({RESAMPLES:,} resamples) of the rows within each "
        "task, the same rows for both systems; the tasks are taken as given. It is too narrow "
        "where few rows differ, and empty where none does."
    )
    return [
        scores,
        rows,
        *_seed_notes(comparison),
        *multiplicity_notes(comparison, 1),
        *short_notes(comparison),
    ]


def multiplicity_notes(comparison: Comparison, differences: int) -> list[str]:
    """Returns what it means for the intervals that a table has ``differences`` a system."""
    count = len(comparison.others) * differences
    if count < 2:
        return []
    return [
        "The intervals are not corrected for several comparisons: of differences that are truly 0 "
        f"about one in twenty leaves out 0 by chance, and here are {count}."
    ]


def short_notes(comparison: Comparison) -> list[str]:
    """Returns what every table of scores has to say."""
    metrics = comparison.metrics.values()
    notes = sorted({scale_of([metric]).note for metric in metrics} - {""})
    if len({scale_of([metric]) for metric in metrics}) > 1:
        notes.append("The tasks' metrics differ: their mean counts each from 0 to 1.")
    if comparison.steer_on == "report":
        notes.append(
            "The same rows chose the peaks, the drops and the returned points (the paper's "
            "protocol), so these scores are optimistic."
        )
    return notes


def _seed_notes(comparison: Comparison) -> list[str]:
    if not comparison.has_seeds:
        return ["Every system is one run: what another seed would change is not in the intervals."]
    notes = [
        "Of several seeds: scores are means over them. A resample draws seeds with replacement, "
        "once for all tasks, and rows of every task, once for all seeds and systems; systems of "
        "the same seeds share the draw of seeds, others are drawn apart. With n seeds the spread "
        "between them comes out too small by a factor of about sqrt((n - 1) / n)."
    ]
    single = [system.label for system in comparison.systems if len(system.seeds) == 1]
    if single:
        notes.append(
            f"Of one seed, so that what another would change is not in their intervals: "
            f"{', '.join(single)}."
        )
    return notes


def _places_notes(comparison: Comparison) -> list[str]:
    notes = [
        "First places: tasks on which no other system is better; k systems that tie have 1/k each.",
    ]
    if len(comparison.tasks) > 1:
        notes.append("Sd: the sample standard deviation over the tasks' scores.")
    return notes


def _base_notes(comparison: Comparison, scale: Scale) -> list[str]:
    if comparison.base is None:
        return []
    return [f"The untouched base has a mean of {scale.text(comparison.base)} {scale.unit}."]


def _last_notes(comparison: Comparison, scale: Scale) -> list[str]:
    ends = [(system.label, system.last) for system in comparison.systems if system.last is not None]
    told = ", ".join(f"{label} {scale.text(last)} {scale.unit}" for label, last in ends)
    return [f"Means where training ended, not of the returned point: {told}."] if ends else []


def _marked(scores: Sequence[Estimate], scale: Scale) -> list[str]:
    """Returns the scores with their intervals, the best ones marked."""
    best = max(score.value for score in scores)
    return [(BEST if score.value == best else "") + scale.interval(score) for score in scores]


def _means(comparison: Comparison) -> list[str]:
    scores = [system.mean.score for system in comparison.systems]
    return _marked(scores, whole_scale(comparison))


def _deviation(system: System, scale: Scale) -> str:
    if system.deviation is None:
        return UNKNOWN
    return replace(scale, factor=abs(scale.factor)).text(system.deviation)


def _difference(comparison: Comparison, system: System, standing: Standing, scale: Scale) -> str:
    """Returns the difference to the reference, a dash for the reference itself."""
    return (
        UNKNOWN if system.label == comparison.reference else scale.difference(standing.difference)
    )


def _task_scale(comparison: Comparison, task: str) -> Scale:
    return scale_of([comparison.metrics[task]])


def _unit(comparison: Comparison) -> str:
    scales = {_task_scale(comparison, task) for task in comparison.tasks}
    return f" in {scales.pop().unit}" if len(scales) == 1 else ""


def _points(comparison: Comparison) -> str:
    unit = _unit(comparison)
    return " in percentage points" if unit == " in %" else unit
