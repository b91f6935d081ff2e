"""A comparison for machines: compare.json, and compare.csv in tidy long form."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from msft_lite.report.compare.comparison import Comparison, Standing, System
from msft_lite.report.compare.costs import Costs
from msft_lite.report.intervals import RESAMPLES, Estimate, estimate_of, mean_estimate
from msft_lite.report.wording import visible

FORMAT = 1
KIND = "msft-lite comparison"
COLUMNS = ("system", "seed", "task", "measure", "value", "low", "high")
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet takes a cell that begins so for a formula


@dataclass(frozen=True, slots=True)
class Line:
    """A number of compare.csv.

    Attributes:
        seed: empty for a number over all seeds of the system.
        task: empty for a number over all tasks; of a domain ``domain: <name>``.
        low: end of the 95 % interval, None where there is none; so is high.
    """

    system: str
    seed: str
    task: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None


def csv_text(comparison: Comparison) -> str:
    """Returns the content of compare.csv; scores are shares of 1, a loss is negative.

    What a spreadsheet would take for a formula begins with an apostrophe.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines(comparison):
        texts = [_cell(text) for text in (line.system, line.seed, line.task, line.measure)]
        numbers = ["" if x is None else repr(x) for x in (line.value, line.low, line.high)]
        writer.writerow([*texts, *numbers])
    return stream.getvalue()


def _cell(text: str) -> str:
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def lines(comparison: Comparison) -> Iterator[Line]:
    """Returns every number of the comparison."""
    for system in comparison.systems:
        yield from _seed_lines(system)
        yield from _standing_lines(system, comparison.reference)
        if system.deviation is not None:
            yield Line(system.label, "", "", "sd_over_tasks", system.deviation)
        yield Line(system.label, "", "", "first_places", float(system.first_places))
        if system.last is not None:
            yield Line(system.label, "", "", "score where training ended", system.last)
        yield from _cost_lines(system.label, "", system.costs)
        relative = _relative_copies(system, comparison)
        if relative is not None:
            yield Line(system.label, "", "", "relative_copies", relative)


def _seed_lines(system: System) -> Iterator[Line]:
    for seed, scores, costs in zip(system.seeds, system.scores, system.seed_costs, strict=True):
        for task in system.tasks:
            yield _estimate_line(
                (system.label, str(seed), task, "score"), estimate_of(scores[task])
            )
        mean = mean_estimate({task: scores[task] for task in system.tasks})
        yield _estimate_line((system.label, str(seed), "", "score"), mean)
        yield from _cost_lines(system.label, str(seed), costs)


def _standing_lines(system: System, reference: str) -> Iterator[Line]:
    domains = {f"domain: {name}": standing for name, standing in system.domains.items()}
    for task, standing in {**system.tasks, **domains, "": system.mean}.items():
        yield _estimate_line((system.label, "", task, "score"), standing.score)
        if system.label != reference:
            name = f"difference to {reference}"
            yield _estimate_line((system.label, "", task, name), standing.difference)


def _estimate_line(place: tuple[str, str, str, str], estimate: Estimate) -> Line:
    return Line(*place, estimate.value, estimate.low, estimate.high)


def _cost_lines(label: str, seed: str, costs: Costs) -> Iterator[Line]:
    for measure, value in _cost_items(costs):
        if value is not None:
            yield Line(label, seed, "", measure, value)


def _cost_items(costs: Costs) -> Iterable[tuple[str, float | None]]:
    return (
        ("training_flops", costs.training_flops),
        ("recompute_flops", costs.recompute_flops),
        ("probe_flops", costs.probe_flops),
        ("evaluation_flops", costs.evaluation_flops),
        ("trained_tokens", costs.trained_tokens),
        ("evaluations", costs.evaluations),
        ("seconds", costs.total_seconds),
        *((f"seconds: {kind}", seconds) for kind, seconds in sorted(costs.seconds.items())),
        ("peak_disk_bytes", costs.peak_disk_bytes),
        ("copies", costs.copies),
    )


def _relative_copies(system: System, comparison: Comparison) -> float | None:
    own = comparison.reference_system.costs.copies
    copies = system.costs.copies
    return copies / own if copies is not None and own else None


def content(comparison: Comparison) -> dict[str, object]:
    """Returns the content of compare.json; scores are shares of 1, a loss is negative."""
    return {
        "kind": KIND,
        "format": FORMAT,
        "reference": comparison.reference,
        "steer_on": comparison.steer_on,
        "resamples": RESAMPLES,
        "tasks": list(comparison.tasks),
        "report_rows": dict(comparison.rows),
        "metric": dict(comparison.metrics),
        "domains": {name: list(tasks) for name, tasks in comparison.domains.items()},
        "best": {task: sorted(labels) for task, labels in comparison.best.items()},
        "base_mean": comparison.base,
        "systems": {system.label: _system(system, comparison) for system in comparison.systems},
        "notes": list(comparison.notes),
    }


def _system(system: System, comparison: Comparison) -> dict[str, object]:
    return {
        "method": system.method,
        "seeds": list(system.seeds),
        "mean": _standing(system.mean),
        "sd_over_tasks": system.deviation,
        "first_places": float(system.first_places),
        "mean_where_training_ended": system.last,
        "tasks": {task: _standing(standing) for task, standing in system.tasks.items()},
        "domains": {name: _standing(standing) for name, standing in system.domains.items()},
        "costs": {
            **_costs(system.costs), "relative_copies": _relative_copies(system, comparison)
        },
        "by_seed": [
            {
                "seed": seed,
                "tasks": {task: _numbers(estimate_of(scores[task])) for task in system.tasks},
                "mean": _numbers(mean_estimate({task: scores[task] for task in system.tasks})),
                "costs": _costs(costs),
            }
            for seed, scores, costs in zip(
                system.seeds, system.scores, system.seed_costs, strict=True
            )
        ],
    }  # fmt: skip


def _standing(standing: Standing) -> dict[str, object]:
    return {**_numbers(standing.score), "difference": _numbers(standing.difference)}


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _costs(costs: Costs) -> dict[str, object]:
    kinds = {kind: round(seconds, 3) for kind, seconds in sorted(costs.seconds.items())}
    named = {name: value for name, value in _cost_items(costs) if ":" not in name}
    return {**named, "seconds": {**kinds, "sum": round(costs.total_seconds, 3)}}
