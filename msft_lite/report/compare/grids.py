"""The tables of a comparison, as grids of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from msft_lite.report.compare.comparison import Comparison, Standing, System
from msft_lite.report.compare.costs import Costs
from msft_lite.report.intervals import RESAMPLES
from msft_lite.report.scale import Scale, scale_of
from msft_lite.report.tables import MEAN, Grid
from msft_lite.report.wording import counted, duration, size

BEST = "* "  # before the best score of a row or column
BEST_NOTE = BEST + "marks the best, ties included."
UNKNOWN = "-"
_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6))


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
    scale = whole_scale(comparison)
    best = max(system.mean.score.value for system in comparison.systems)
    rows = [
        (
            system.label,
            ", ".join(map(str, system.seeds)),
            (BEST if system.mean.score.value == best else "") + scale.interval(system.mean.score),
            _deviation(system, scale),
            places_text(system.first_places),
            _difference(comparison, system, system.mean, scale),
        )
        for system in comparison.systems
    ]  # fmt: skip
    return Grid(
        f"Systems, {counted(len(comparison.tasks), 'task')}{steered(comparison)}",
        ("System ", "Seeds", f"Mean {scale.unit}", "Sd over tasks", "First places",
         f"Against {comparison.reference}"),
        tuple(rows),
        (BEST_NOTE, *score_notes(comparison), *_places_notes(comparison),
         *_base_notes(comparison, scale)),
    )  # fmt: skip


def domains_grid(comparison: Comparison) -> Grid:
    """Returns the mean of every domain and system."""
    rows: list[tuple[str, ...]] = []
    for domain, tasks in comparison.domains.items():
        scale = scale_of(comparison.metrics[task] for task in tasks)
        best = max(system.domains[domain].score.value for system in comparison.systems)
        for number, system in enumerate(comparison.systems):
            standing = system.domains[domain]
            is_best = standing.score.value == best
            rows.append(
                (
                    domain if number == 0 else "",
                    system.label,
                    (BEST if is_best else "") + scale.interval(standing.score),
                    _difference(comparison, system, standing, scale),
                )
            )
    parts = "; ".join(f"{name}: {', '.join(of)}" for name, of in comparison.domains.items())
    return Grid(
        f"Means by domain{_unit(comparison)}{steered(comparison)}",
        ("Domain ", "System ", "Mean", f"Against {comparison.reference}"),
        tuple(rows),
        (BEST_NOTE, f"{parts}.", *short_notes(comparison)),
    )


def scores_grid(comparison: Comparison) -> Grid:
    """Returns the score of every task and system, the best of a task marked."""
    rows = [
        (
            task,
            f"{comparison.rows[task]:,}",
            *(
                (BEST if system.label in comparison.best[task] else "")
                + _task_scale(comparison, task).interval(system.tasks[task].score)
                for system in comparison.systems
            ),
        )
        for task in comparison.tasks
    ]
    scale = whole_scale(comparison)
    best = max(system.mean.score.value for system in comparison.systems)
    means = [
        (BEST if system.mean.score.value == best else "") + scale.interval(system.mean.score)
        for system in comparison.systems
    ]
    return Grid(
        f"Scores by task{_unit(comparison)}{steered(comparison)}",
        ("Task ", "Rows", *(system.label for system in comparison.systems)),
        (*rows, (MEAN, f"{sum(comparison.rows.values()):,}", *means)),
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
        (multiplicity_note(comparison, len(comparison.tasks)), *short_notes(comparison)),
        has_total=True,
    )


def compute_grid(comparison: Comparison) -> Grid:
    """Returns a row a system: tokens, FLOPs, evaluations, time."""
    columns: tuple[tuple[str, Callable[[Costs], float | None]], ...] = (
        ("Training", lambda costs: costs.training_flops),
        ("Probe", lambda costs: costs.probe_flops),
        ("Evaluation", lambda costs: costs.evaluation_flops),
    )
    units = [flops_unit(map(read, _costs(comparison))) for _, read in columns]
    rows = [
        (
            system.label,
            f"{system.costs.trained_tokens:,.0f}",
            *(
                _flops(read(system.costs), factor)
                for (_, read), (_, factor) in zip(columns, units, strict=True)
            ),
            f"{system.costs.evaluations:,.1f}".removesuffix(".0"),
            duration(system.costs.total_seconds),
        )
        for system in comparison.systems
    ]
    headings = [
        f"{name} {prefix}FLOPs" for (name, _), (prefix, _) in zip(columns, units, strict=True)
    ]
    return Grid(
        "Compute",
        ("System ", "Trained tokens", *headings, "Evaluations", "Time"),
        tuple(rows),
        (
            "Rolled-back steps count as spent. Training: model FLOPs of the steps, without those "
            "that gradient checkpointing repeats. Probes: losses that a method asks for beside its "
            "steps. Evaluation: reading and generating to score at marks.",
            *_missing_notes(rows),
            *_seed_cost_notes(comparison),
        ),
    )


def time_grid(comparison: Comparison) -> Grid:
    """Returns where every system's seconds went, the largest part first."""
    sums: dict[str, float] = {}
    for costs in _costs(comparison):
        for kind, seconds in costs.seconds.items():
            sums[kind] = sums.get(kind, 0.0) + seconds
    kinds = sorted(sums, key=lambda kind: (-sums[kind], kind))
    rows = [
        (
            system.label,
            *(duration(system.costs.seconds.get(kind, 0.0)) for kind in kinds),
            duration(system.costs.total_seconds),
        )
        for system in comparison.systems
    ]
    return Grid(
        "Where the time went",
        ("System ", *kinds, "sum"),
        tuple(rows),
        tuple(_seed_cost_notes(comparison)),
    )


def disk_grid(comparison: Comparison) -> Grid:
    """Returns what snapshots took, in bytes and in copies of the model."""
    own = comparison.reference_system.costs.copies
    rows = [
        (
            system.label,
            UNKNOWN if costs.peak_disk_bytes is None else size(round(costs.peak_disk_bytes)),
            UNKNOWN if costs.copies is None else f"{costs.copies:.2f}",
            UNKNOWN if costs.copies is None or not own else f"{costs.copies / own:.2f}",
        )
        for system in comparison.systems
        for costs in [system.costs]
    ]
    return Grid(
        "Disk",
        ("System ", "Most at a time", "Copies", f"Copies, {comparison.reference} = 1"),
        tuple(rows),
        (
            "Copies: bytes of snapshots and crash copy over bytes of the whole model, in the mean "
            "over the evaluations.",
            *_missing_notes(rows),
            *_seed_cost_notes(comparison),
        ),
    )


def whole_scale(comparison: Comparison) -> Scale:
    """Returns how a mean over all tasks is written."""
    return scale_of(comparison.metrics.values())


def steered(comparison: Comparison) -> str:
    """Returns what a title says where the reported rows steered the runs; else nothing."""
    return " (report split, steered on)" if comparison.steer_on == "report" else " (report split)"


def places_text(places: Fraction) -> str:
    """Returns a number of first places as ``3`` or ``2.33``."""
    return f"{float(places):.2f}".rstrip("0").rstrip(".")


def flops_unit(values: Iterable[float | None]) -> tuple[str, float]:
    """Returns the prefix, and what it stands for, in which the largest value is 1 or more."""
    most = max((value for value in values if value is not None), default=0.0)
    return next(((name, factor) for name, factor in _PREFIXES if most >= factor), ("", 1.0))


def score_notes(comparison: Comparison) -> list[str]:
    """Returns how the numbers of scores came about and how far they can be trusted."""
    scores = (
        "In brackets 95 % intervals. Of a score of one run: Wilson's for an accuracy; the tasks' "
        "are put together for a mean."
    )
    rows = (
        f"Of a difference: a paired bootstrap ({RESAMPLES:,} resamples) of the rows within each "
        "task, the same rows for both systems; the tasks are taken as given."
    )
    return [
        scores,
        rows,
        *_seed_notes(comparison),
        multiplicity_note(comparison, 1),
        *short_notes(comparison),
    ]


def multiplicity_note(comparison: Comparison, tasks: int) -> str:
    """Returns what the number of comparisons means for the intervals."""
    count = len(comparison.others) * tasks
    if count < 2:
        return "One comparison, so nothing had to be corrected for several."
    return (
        "The intervals are not corrected for several comparisons: of differences that are truly 0 "
        f"about one in twenty leaves out 0 by chance, and here are {count}."
    )


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


def _costs(comparison: Comparison) -> Sequence[Costs]:
    return [system.costs for system in comparison.systems]


def _flops(value: float | None, factor: float) -> str:
    return UNKNOWN if value is None else f"{value / factor:,.2f}"


def _missing_notes(rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns what a dash means, if there is one."""
    return ["A dash: not in the ledger."] if any(UNKNOWN in row for row in rows) else []


def _seed_cost_notes(comparison: Comparison) -> list[str]:
    return ["Of several seeds: the mean over them."] if comparison.has_seeds else []
