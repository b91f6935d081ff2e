"""The tables of what systems took: compute, time, disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msft_lite.report.compare.comparison import Comparison
from msft_lite.report.compare.costs import Costs
from msft_lite.report.tables import Grid
from msft_lite.report.wording import duration, size

UNKNOWN = "-"
_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6))


def compute_grid(comparison: Comparison) -> Grid:
    """Returns a row a system: tokens, FLOPs, evaluations, time."""
    columns = _flops_columns(comparison)
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
            "Rolled-back steps count as spent. Training: model FLOPs of the steps; what gradient "
            "checkpointing computes a second time stands apart. Probe: losses that a method asks "
            "for beside its steps. Evaluation: reading and generating to score at marks.",
            *_missing_notes(rows),
            *_seed_cost_notes(comparison),
        ),
    )


def _flops_columns(comparison: Comparison) -> list[tuple[str, Callable[[Costs], float | None]]]:
    """Returns heading and value of every kind of FLOPs; none is recomputed in most runs."""
    recompute = [costs.recompute_flops for costs in _costs(comparison)]
    columns: list[tuple[bool, str, Callable[[Costs], float | None]]] = [
        (True, "Training", lambda costs: costs.training_flops),
        (any(recompute), "Recomputed", lambda costs: costs.recompute_flops),
        (True, "Probe", lambda costs: costs.probe_flops),
        (True, "Evaluation", lambda costs: costs.evaluation_flops),
    ]
    return [(name, read) for is_shown, name, read in columns if is_shown]


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


def flops_unit(values: Iterable[float | None]) -> tuple[str, float]:
    """Returns the prefix, and what it stands for, in which the largest value is 1 or more."""
    most = max((value for value in values if value is not None), default=0.0)
    return next(((name, factor) for name, factor in _PREFIXES if most >= factor), ("", 1.0))


def _costs(comparison: Comparison) -> Sequence[Costs]:
    return [system.costs for system in comparison.systems]


def _flops(value: float | None, factor: float) -> str:
    return UNKNOWN if value is None else f"{value / factor:,.2f}"


def _missing_notes(rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns what a dash means, if there is one."""
    return ["A dash: not in the ledger."] if any(UNKNOWN in row for row in rows) else []


def _seed_cost_notes(comparison: Comparison) -> list[str]:
    return ["Of several seeds: the mean over them."] if comparison.has_seeds else []
