"""The comparison of systems: every number of its tables, once."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from msft_lite.core import Score
from msft_lite.errors import LedgerError, did_you_mean
from msft_lite.report.compare.comparable import check_comparable, said_differences
from msft_lite.report.compare.costs import CostReader, Costs, costs_of, mean_costs
from msft_lite.report.compare.resampling import (
    Draws,
    Sample,
    difference_draws,
    estimate,
    mean_draws,
    resampled,
)
from msft_lite.report.intervals import Estimate, estimate_of, mean_estimate
from msft_lite.report.story import Story

BOOTSTRAP_SEED = 0  # the same runs give the same intervals
REFERENCE_METHOD = "sft"


@dataclass(frozen=True, slots=True)
class Standing:
    """A score and how far it is above the reference's: of a task, a domain or all tasks."""

    score: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class System:
    """What is compared: one run, or several that differ in their seed alone.

    Attributes:
        seeds: in rising order; so are scores and seed_costs.
        scores: of the returned point on the report rows, per seed and task.
        tasks: per task, in the mean over seeds.
        domains: per domain, the mean over its tasks; empty if there are fewer than two.
        mean: over all tasks, each counting alike.
        deviation: sample standard deviation over the tasks' scores; None for one task.
        first_places: tasks on which no system is better; k systems that tie have 1/k each.
        costs: in the mean over seeds.
    """

    label: str
    method: str
    seeds: tuple[int, ...]
    scores: tuple[Mapping[str, Score], ...]
    tasks: Mapping[str, Standing]
    domains: Mapping[str, Standing]
    mean: Standing
    deviation: float | None
    first_places: Fraction
    last: float | None
    costs: Costs
    seed_costs: tuple[Costs, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Systems on the same report rows of the same tasks.

    Attributes:
        systems: in the order given.
        reference: label of the one that differences are to.
        tasks: names in the first run's order.
        rows: report rows of each task.
        metrics: name of each task's metric.
        domains: tasks of each domain; empty if there are fewer than two domains.
        best: per task the labels of the systems that no other one beats.
        steer_on: ``report`` where the reported rows chose what is returned.
        base: mean over tasks of the untouched base; None where the runs disagree on it.
        notes: what else a reader has to know.
    """

    systems: tuple[System, ...]
    reference: str
    tasks: tuple[str, ...]
    rows: Mapping[str, int]
    metrics: Mapping[str, str]
    domains: Mapping[str, tuple[str, ...]]
    best: Mapping[str, frozenset[str]]
    steer_on: str
    base: float | None
    notes: tuple[str, ...]

    @property
    def reference_system(self) -> System:
        """The system that differences are to."""
        return next(system for system in self.systems if system.label == self.reference)

    @property
    def others(self) -> tuple[System, ...]:
        """All systems but the reference."""
        return tuple(system for system in self.systems if system.label != self.reference)

    @property
    def has_seeds(self) -> bool:
        """Whether some system has several seeds."""
        return any(len(system.seeds) > 1 for system in self.systems)


def compare(
    stories: Mapping[str, Sequence[Story]],
    *,
    reference: str | None = None,
    costs: CostReader = costs_of,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compares finished runs on their report rows.

    Args:
        stories: the runs of every system by its label; several differ in their seed alone.
        reference: label that differences are to; None: the first system of method sft, else the
            first one.
        costs: reads what a run took.
        notes: sentences to hand on to the reader.

    Raises:
        LedgerError: the runs cannot be compared, a seed comes twice in a system, or no system has
            the reference's label.
    """
    named = [(_name(label, run, of), run) for label, of in stories.items() for run in of]
    if not named:
        raise LedgerError("there is no run to compare")
    check_comparable(named)
    runs = {label: _by_seed(label, of) for label, of in stories.items()}
    samples = {label: _sample(of) for label, of in runs.items()}
    first, against = named[0][1], _reference(runs, reference)
    domains, best = _domains(first), _best(samples, first.names)
    judge = _Judge(samples, resampled(samples, seed=BOOTSTRAP_SEED), against)
    return Comparison(
        systems=tuple(
            _system(label, of, judge=judge, domains=domains, best=best, costs=costs)
            for label, of in runs.items()
        ),
        reference=against,
        tasks=first.names,
        rows={task: samples[against].scores[0][task].total for task in first.names},
        metrics=dict(first.setting.metrics),
        domains=domains,
        best=best,
        steer_on=first.setting.steer_on,
        base=_base(story for _, story in named),
        notes=(*notes, *said_differences(named)),
    )


def _name(label: str, run: Story, runs: Sequence[Story]) -> str:
    return label if len(runs) == 1 else f"{label} of seed {run.setting.seed}"


def _by_seed(label: str, runs: Sequence[Story]) -> tuple[Story, ...]:
    seeds = [run.setting.seed for run in runs]
    if not seeds:
        raise LedgerError(f"{label} has no run; leave it out")
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise LedgerError(
            f"{label} has two runs of seed {twice[0]}; the seeds of one system must differ"
        )
    return tuple(sorted(runs, key=lambda run: run.setting.seed))


def _sample(runs: Sequence[Story]) -> Sample:
    scores = [run.finish.best for run in runs if run.finish is not None]
    return Sample(tuple(run.setting.seed for run in runs), tuple(scores))


def _reference(runs: Mapping[str, Sequence[Story]], wanted: str | None) -> str:
    if wanted is None:
        ours = [label for label, of in runs.items() if of[0].setting.method == REFERENCE_METHOD]
        return (ours or list(runs))[0]
    if wanted not in runs:
        raise LedgerError(
            f"the reference {wanted!r} is none of {', '.join(runs)}{did_you_mean(wanted, runs)}"
        )
    return wanted


def _domains(story: Story) -> dict[str, tuple[str, ...]]:
    """Returns the tasks of every domain; nothing if the tasks are not of several."""
    of = story.setting.domains
    names = [name for name in dict.fromkeys(of[task] for task in story.names) if name]
    if len(names) < 2:
        return {}
    return {name: tuple(task for task in story.names if of[task] == name) for name in names}


def _base(stories: Iterable[Story]) -> float | None:
    means = {
        sum(score.value for score in story.finish.base.values()) / len(story.names)
        for story in stories
        if story.finish is not None
    }
    return float(means.pop()) if len(means) == 1 else None


def _last(runs: Sequence[Story]) -> float | None:
    """Returns the mean score where training ended, None unless all of ``runs`` tell it."""
    ends = [run.finish.last for run in runs if run.finish is not None and run.finish.last]
    if len(ends) < len(runs):
        return None
    sample = Sample(tuple(run.setting.seed for run in runs), tuple(ends))
    return float(_exact(sample, runs[0].names))


def _exact(sample: Sample, tasks: Sequence[str]) -> Fraction:
    """Returns the mean score over seeds and ``tasks``."""
    values = [scores[task].value for scores in sample.scores for task in tasks]
    return sum(values, Fraction(0)) / len(values)


def _best(samples: Mapping[str, Sample], tasks: Sequence[str]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for task in tasks:
        values = {label: _exact(sample, [task]) for label, sample in samples.items()}
        highest = max(values.values())
        found[task] = frozenset(label for label, value in values.items() if value == highest)
    return found


@dataclass(frozen=True, slots=True)
class _Judge:
    """Gives scores and differences their intervals; see `resampled` for the draws."""

    samples: Mapping[str, Sample]
    draws: Mapping[str, Draws]
    against: str

    def standing(self, label: str, tasks: Sequence[str]) -> Standing:
        """Returns the mean over ``tasks`` of a system and its difference to the reference."""
        sample, own = self.samples[label], mean_draws(self.draws[label], tasks)
        value = _exact(sample, tasks)
        above = value - _exact(self.samples[self.against], tasks)
        reference = mean_draws(self.draws[self.against], tasks)
        return Standing(
            _score(sample, tasks) if len(sample.seeds) == 1 else estimate(float(value), own),
            estimate(float(above), difference_draws(own, reference)),
        )


def _score(sample: Sample, tasks: Sequence[str]) -> Estimate:
    """Returns the score of a single seed: Wilson's interval does not vanish at all rows right."""
    scores = sample.scores[0]
    if len(tasks) == 1:
        return estimate_of(scores[tasks[0]])
    found = mean_estimate({task: scores[task] for task in tasks})
    return replace(found, value=float(_exact(sample, tasks)))  # so that ties are exact


def _system(
    label: str,
    runs: Sequence[Story],
    *,
    judge: _Judge,
    domains: Mapping[str, tuple[str, ...]],
    best: Mapping[str, frozenset[str]],
    costs: CostReader,
) -> System:
    sample, tasks = judge.samples[label], list(best)
    values = [float(_exact(sample, [task])) for task in tasks]
    seed_costs = tuple(costs(run) for run in runs)
    return System(
        label=label,
        method=runs[0].setting.method,
        seeds=sample.seeds,
        scores=sample.scores,
        tasks={task: judge.standing(label, [task]) for task in tasks},
        domains={name: judge.standing(label, of) for name, of in domains.items()},
        mean=judge.standing(label, tasks),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        first_places=sum(
            (Fraction(1, len(of)) for of in best.values() if label in of), Fraction(0)
        ),
        last=_last(runs),
        costs=mean_costs(seed_costs),
        seed_costs=seed_costs,
    )
