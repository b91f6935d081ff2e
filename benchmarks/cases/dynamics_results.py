"""The results of `dynamics.py`: from the ledgers of finished runs to numbers and tables.

All statistics of the case are here. A score is the share of a task's report rows that the returned
model answers right; a system's score is the unweighted mean over tasks, then over seeds. Intervals
are 95 % bootstrap intervals: each resample draws seeds, and rows of every task, with replacement,
the same for all systems, so that a difference is paired in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msft_lite.ledger import Row, read_rows

RESAMPLES = 2000
RESAMPLING_SEED = 20
LEVEL = (2.5, 97.5)  # percentiles
BASELINE = "sft"


@dataclass(frozen=True, slots=True)
class Run:
    """What is read of a finished run.

    Attributes:
        system: a method's name, with its own settings after a colon.
        tuning: lora or full.
        seed: of the run.
        tasks: names, in order.
        report: right (1) or wrong (0), of shape (tasks, rows), for the returned model.
        base: the same for the base.
        curves: scores on the control rows at every mark of the first roll-out, (tasks, marks).
        marks_per_epoch: of the curves.
        trained_tokens: of the whole run, rolled-back stretches included, a method's probes not.
        seconds: of the whole run, less what loading took.
    """

    system: str
    tuning: str
    seed: int
    tasks: tuple[str, ...]
    report: NDArray[np.float32]
    base: NDArray[np.float32]
    curves: NDArray[np.float64]
    marks_per_epoch: int
    trained_tokens: int
    seconds: float


def read_run(ledger: Path, *, system: str, tuning: str) -> Run:
    """Returns the run that ``ledger`` records to its end."""
    rows = read_rows(ledger)
    start, finish = rows[0], rows[-1]
    tasks: tuple[str, ...] = tuple(start["tasks"])
    marks = [row for row in rows if row["kind"] == "mark"]
    return Run(
        system=system,
        tuning=tuning,
        seed=start["seed"],
        tasks=tasks,
        report=_outcomes(finish["outcomes"]["best"], tasks),
        base=_outcomes(finish["outcomes"]["base"], tasks),
        curves=_curves(marks, tasks),
        marks_per_epoch=start["marks_per_epoch"],
        trained_tokens=sum(mark["trained_tokens"] for mark in marks),
        seconds=sum(sum(row["seconds"].values()) for row in rows if "seconds" in row),
    )


def _outcomes(of: Mapping[str, str], tasks: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[int(one) for one in of[task]] for task in tasks], dtype=np.float32)


def _curves(marks: Sequence[Row], tasks: Sequence[str]) -> NDArray[np.float64]:
    scored = [mark["scores"] for mark in marks if mark["n"] == 1 and mark["scores"]]
    return np.array([[scores[task][0] / scores[task][1] for scores in scored] for task in tasks])


def gathered(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns all results, ready for JSON: by tuning the systems, best first, and sft's peaks."""
    tunings = sorted({run.tuning for run in runs})
    return {"format": 1, "tunings": {one: _of_tuning(_by_system(runs, one)) for one in tunings}}


def _by_system(runs: Sequence[Run], tuning: str) -> dict[str, dict[int, Run]]:
    """Returns the runs of ``tuning`` by system and seed."""
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.tuning == tuning:
            found.setdefault(run.system, {})[run.seed] = run
    return found


def _of_tuning(systems: Mapping[str, Mapping[int, Run]]) -> dict[str, Any]:
    any_run = next(iter(next(iter(systems.values())).values()))
    baseline = systems.get(BASELINE, {})
    first_places = _first_places(systems)
    told = {name: _system(of, baseline) for name, of in systems.items()}
    for name, places in first_places.items():
        told[name]["first_places"] = places
    best_first = sorted(told, key=lambda name: -told[name]["mean"])
    return {
        "tasks": list(any_run.tasks),
        "base": round(float(any_run.base.mean()), 6),
        "systems": {name: told[name] for name in best_first},
        "peaks": _peaks(list(baseline.values())),
    }


def _system(of: Mapping[int, Run], baseline: Mapping[int, Run]) -> dict[str, Any]:
    reports = np.stack([of[seed].report for seed in sorted(of)])
    shared = sorted(of.keys() & baseline.keys())
    told: dict[str, Any] = {
        "seeds": sorted(of),
        **_estimate(reports),
        "tasks": dict(
            zip(next(iter(of.values())).tasks, _rounded(reports.mean((0, 2))), strict=True)
        ),
        "trained_tokens": round(float(np.mean([run.trained_tokens for run in of.values()]))),
        "seconds": round(float(np.mean([run.seconds for run in of.values()])), 1),
    }
    if shared and of is not baseline:
        pairs = [of[seed].report - baseline[seed].report for seed in shared]
        told["difference"] = {"seeds": shared, **_estimate(np.stack(pairs))}
    return told


def _estimate(values: NDArray[np.float32]) -> dict[str, Any]:
    """Returns mean, interval and standard deviation over seeds of (seeds, tasks, rows) values."""
    seeds, tasks, rows = values.shape
    draw = np.random.default_rng(RESAMPLING_SEED)
    row_counts = draw.multinomial(rows, np.full(rows, 1 / rows), size=(RESAMPLES, tasks))
    seed_counts = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    flat_counts = row_counts.reshape(RESAMPLES, tasks * rows).astype(np.float32)
    by_seed = flat_counts @ values.reshape(seeds, tasks * rows).T / (tasks * rows)
    low, high = np.percentile((by_seed * seed_counts).sum(1) / seeds, LEVEL)
    of_seeds = values.mean((1, 2))
    return {
        "mean": round(float(of_seeds.mean()), 6),
        "low": round(float(low), 6),
        "high": round(float(high), 6),
        "of_seeds": _rounded(of_seeds),
    }


def _rounded(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 6) for value in values]


def _first_places(systems: Mapping[str, Mapping[int, Run]]) -> dict[str, int]:
    """Returns how often each is best, over tasks and the seeds that all have; equals all count."""
    seeds = set.intersection(*(set(of) for of in systems.values()))
    counts = dict.fromkeys(systems, 0)
    for seed in seeds:
        scores = {name: of[seed].report.sum(1) for name, of in systems.items()}
        best = np.max(list(scores.values()), axis=0)
        for name, of_tasks in scores.items():
            counts[name] += int((of_tasks == best).sum())
    return counts


def _peaks(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns where tasks peak under plain training, in epochs: the earliest best mark, by seed."""
    if not runs:
        return {}
    peaks = np.array([run.curves.argmax(1) / run.marks_per_epoch for run in runs])
    mean_peaks = np.array([run.curves.mean(0).argmax() / run.marks_per_epoch for run in runs])
    at_own = np.mean([run.curves.max(1) for run in runs], axis=0)
    at_mean = np.mean([run.curves[:, run.curves.mean(0).argmax()] for run in runs], axis=0)
    at_end = np.mean([run.curves[:, -1] for run in runs], axis=0)
    return {
        "mean_peak_epochs": _rounded(mean_peaks),
        "gap_epochs": _rounded(np.abs(peaks - mean_peaks[:, None]).mean(1)),
        "tasks": {
            task: {
                "peak_epochs": _rounded(peaks[:, place]),
                "at_own_peak": round(float(at_own[place]), 6),
                "at_mean_peak": round(float(at_mean[place]), 6),
                "at_end": round(float(at_end[place]), 6),
            }
            for place, task in enumerate(runs[0].tasks)
        },
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the tables of all tunings as Markdown."""
    parts: list[str] = ["# Ten tasks of different dynamics"]
    for tuning, told in results["tunings"].items():
        parts += [f"## {tuning}", "\n".join(_systems_table(told)), "\n".join(_tasks_table(told))]
        if told["peaks"]:
            parts.append("\n".join(_peaks_table(told["peaks"])))
    return "\n\n".join(parts) + "\n"


def _systems_table(told: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Report rows, per cent: mean over tasks and seeds; 95 % intervals over seeds and rows. "
        "First: how often best of all, by task and seed, equals counted for each. Tokens: trained "
        "on, what was rolled back included."
    )
    yield ""
    yield "| system | seeds | mean | interval | minus sft | interval | first | tokens | time |"
    yield "|---|---:|---:|---|---:|---|---:|---:|---:|"
    yield f"| base | | {_percent(told['base'])} | | | | | | |"
    for name, system in told["systems"].items():
        gap = system.get("difference")
        signed = f"{100 * gap['mean']:+.1f} | {_interval(gap, '+')}" if gap else " | "
        yield (
            f"| {name} | {len(system['seeds'])} | {_percent(system['mean'])} | {_interval(system)} "
            f"| {signed} | {system['first_places']} "
            f"| {system['trained_tokens']:,} | {system['seconds']:.0f} s |"
        )


def _tasks_table(told: Mapping[str, Any]) -> Iterator[str]:
    yield "Report rows, per cent, by task:"
    yield ""
    yield f"| system | {' | '.join(told['tasks'])} |"
    yield f"|---|{'---:|' * len(told['tasks'])}"
    for name, system in told["systems"].items():
        yield f"| {name} | {' | '.join(_percent(of) for of in system['tasks'].values())} |"


def _peaks_table(peaks: Mapping[str, Any]) -> Iterator[str]:
    gap, mean = peaks["gap_epochs"], peaks["mean_peak_epochs"]
    yield (
        f"Peaks under sft, control rows. The mean peaks at epoch {_epochs(mean)} (seed by seed); a "
        f"task's peak lies {sum(gap) / len(gap):.2f} epochs from it in the mean."
    )
    yield ""
    yield "| task | peak, epochs, seed by seed | % at its peak | at the mean's | at the end |"
    yield "|---|---|---:|---:|---:|"
    for name, task in peaks["tasks"].items():
        scores = (task[key] for key in ("at_own_peak", "at_mean_peak", "at_end"))
        yield f"| {name} | {_epochs(task['peak_epochs'])} | {' | '.join(map(_percent, scores))} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(estimate: Mapping[str, float], sign: str = "") -> str:
    return f"{100 * estimate['low']:{sign}.1f} to {100 * estimate['high']:{sign}.1f}"


def _epochs(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
