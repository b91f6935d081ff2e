"""A bootstrap over rows, and over seeds where there are several, that pairs what can be paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from random import Random

from msft_lite.core import MILLION, Score
from msft_lite.report.intervals import RESAMPLES, Estimate


@dataclass(frozen=True, slots=True)
class Sample:
    """The scores of one system: of each of its seeds, on the same rows of the same tasks."""

    seeds: tuple[int, ...]
    scores: tuple[Mapping[str, Score], ...]


Draws = Mapping[str, Sequence[float]]  # of a task, its score in every resample


def resampled(samples: Mapping[str, Sample], *, seed: int) -> dict[str, Draws]:
    """Returns the score of every system and task in each of 2,000 resamples.

    A resample draws, with replacement and as many as there are:

    - the rows of every task, once for all systems and seeds, as all of them answered the same rows;
    - the seeds of every system, once for all tasks; systems of the same seeds share the draw, those
      of other seeds have draws of their own. One seed alone is always drawn.

    So rows and seeds are crossed, not nested (A. B. Owen 2007, "The pigeonhole bootstrap"): rows
    drawn anew for each seed would average away the luck of the rows, which the seeds share.
    The same arguments give the same draws; those of a task do not depend on the other tasks.
    """
    tasks = list(next(iter(samples.values())).scores[0])
    seeds = {label: _seed_draws(sample.seeds, seed) for label, sample in samples.items()}
    found: dict[str, dict[str, Sequence[float]]] = {label: {} for label in samples}
    for task in tasks:
        rows = {
            label: [_worth(scores[task]) for scores in sample.scores]
            for label, sample in samples.items()
        }
        for label, values in _task_draws(rows, seeds, Random(f"{seed}/rows/{task}")).items():
            found[label][task] = values
    return dict(found)


def _seed_draws(seeds: Sequence[int], seed: int) -> list[list[int]]:
    """Returns the places of the drawn seeds in every resample."""
    random = Random(f"{seed}/seeds/{seeds}")
    return [random.choices(range(len(seeds)), k=len(seeds)) for _ in range(RESAMPLES)]


def _worth(score: Score) -> tuple[int, ...]:
    """Returns what every row is worth in millionths, right or wrong rows too: sums are exact."""
    return score.rows if score.is_graded else tuple(MILLION * row for row in score.rows)


def _task_draws(
    rows: Mapping[str, Sequence[Sequence[int]]],
    seeds: Mapping[str, Sequence[Sequence[int]]],
    random: Random,
) -> dict[str, list[float]]:
    count = len(next(iter(rows.values()))[0])
    found: dict[str, list[float]] = {label: [] for label in rows}
    for resample in range(RESAMPLES):
        places = random.choices(range(count), k=count)
        pick = itemgetter(*places, 0)  # 0 once more: with one place it would return no tuple
        for label, of_seeds in rows.items():
            sums = [sum(pick(row)) - row[0] for row in of_seeds]
            drawn = seeds[label][resample]
            total = sum(sums[place] for place in drawn)
            found[label].append(total / (MILLION * count * len(drawn)))
    return found


def mean_draws(draws: Draws, tasks: Sequence[str]) -> list[float]:
    """Returns the mean over ``tasks`` in every resample, each task counting alike."""
    columns = zip(*(draws[task] for task in tasks), strict=True)
    return [sum(column) / len(tasks) for column in columns]


def difference_draws(draws: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Returns in every resample what is left of ``draws`` without ``reference``."""
    return [value - other for value, other in zip(draws, reference, strict=True)]


def estimate(value: float, draws: Sequence[float]) -> Estimate:
    """Returns ``value`` with the 2.5th to the 97.5th percentile of ``draws``."""
    ordered, tail = sorted(draws), len(draws) // 40
    return Estimate(value, ordered[tail], ordered[-tail - 1])
