"""How far a score or a difference can be trusted: Wilson intervals and a paired bootstrap."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

from msft_lite.core import MILLION, Score

RESAMPLES = 2000
_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95 % interval; of an accuracy they lie between 0 and 1."""

    value: float
    low: float
    high: float


def wilson(score: Score) -> Estimate:
    """Returns the accuracy of ``score`` with its Wilson interval.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    1927; no continuity correction. Never empty, also at 0 and at all rows right.
    """
    share, total = score.correct / score.total, score.total
    scale = 1 + _Z**2 / total
    centre = (share + _Z**2 / (2 * total)) / scale
    half = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2)) / scale
    # The bounds meet 0 and 1 exactly there; rounding must not put them beyond the value.
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def estimate_of(score: Score) -> Estimate:
    """Returns the mean of ``score`` with its interval.

    Where rows are right or wrong it is Wilson's; where they are graded, 1.96 standard errors of
    the mean to either side, which is nothing where all rows are worth the same.
    """
    if not score.is_graded:
        return wilson(score)
    value, total = float(score.value), score.total
    squares = sum((row / MILLION - value) ** 2 for row in score.rows)
    half = _Z * math.sqrt(squares / max(1, total - 1) / total)
    return _within(Estimate(value, value - half, value + half), [score])


def _within(estimate: Estimate, scores: Iterable[Score]) -> Estimate:
    """Returns the estimate cut to 0 to 1, unless some row is a loss, which has no bound above."""
    if any(min(score.rows) < 0 for score in scores):
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))


def mean_estimate(scores: Mapping[str, Score]) -> Estimate:
    """Returns the mean score over tasks, each counting alike, with its interval.

    The tasks' intervals are combined by squaring and adding the distances to the value
    (R. G. Newcombe 1998, method 10, for a mean instead of a difference): unlike a bootstrap this
    does not shrink to nothing where every row is right.
    """
    parts = [estimate_of(score) for score in scores.values()]
    value = sum(part.value for part in parts) / len(parts)
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / len(parts)
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / len(parts)
    return _within(Estimate(value, value - below, value + above), scores.values())


def task_differences(
    before: Mapping[str, Score], after: Mapping[str, Score], *, seed: int
) -> tuple[dict[str, Estimate], Estimate]:
    """Returns after minus before per task, and their mean over tasks, with bootstrap intervals.

    Rows are resampled with replacement within each task, 2,000 times, both outcomes of a row
    together; the interval is the 2.5th to the 97.5th percentile. The tasks are taken as given.
    The same arguments give the same intervals; a task's do not depend on the other tasks.
    """
    draws = {
        task: _resampled(before[task], after[task], Random(f"{seed}/{task}")) for task in before
    }
    values = {task: float(after[task].value - before[task].value) for task in before}
    means = [sum(column) / len(draws) for column in zip(*draws.values(), strict=True)]
    per_task = {task: _estimate(values[task], draws[task]) for task in before}
    return per_task, _estimate(sum(values.values()) / len(values), means)


def _resampled(before: Score, after: Score, random: Random) -> list[float]:
    """Returns the difference of each resample.

    A resample of n rows is a draw from the multinomial of won, lost and unchanged rows, so it is
    drawn as such: changed rows first, won ones among them. That is the same distribution as
    picking n rows, at a cost that does not grow with n times 2,000. Graded rows are picked.
    """
    if before.is_graded:
        return _picked(before, after, random)
    pairs = list(zip(before.outcomes, after.outcomes, strict=True))
    won, lost = pairs.count(("0", "1")), pairs.count(("1", "0"))
    if won + lost == 0:
        return [0.0] * RESAMPLES
    changed_rows = _binomial(len(pairs), (won + lost) / len(pairs))
    won_rows: dict[int, list[float]] = {}
    draws: list[float] = []
    for _ in range(RESAMPLES):
        changed = _draw(changed_rows, random)
        if changed not in won_rows:
            won_rows[changed] = _binomial(changed, won / (won + lost))
        gained = _draw(won_rows[changed], random)
        draws.append((2 * gained - changed) / len(pairs))
    return draws


def _picked(before: Score, after: Score, random: Random) -> list[float]:
    changes = [(b - a) / MILLION for a, b in zip(before.rows, after.rows, strict=True)]
    return [sum(random.choices(changes, k=len(changes))) / len(changes) for _ in range(RESAMPLES)]


def _binomial(trials: int, chance: float) -> list[float]:
    """Returns the cumulative probabilities of 0 to ``trials`` successes."""
    if chance in (0.0, 1.0):
        return [1.0 if chance == 0.0 or k == trials else 0.0 for k in range(trials + 1)]
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(chance)
        + (trials - k) * math.log1p(-chance)
        for k in range(trials + 1)
    )
    return list(accumulate(math.exp(value) for value in logs))


def _draw(cumulative: Sequence[float], random: Random) -> int:
    # The sum may end a rounding below 1.
    return min(bisect_right(cumulative, random.random()), len(cumulative) - 1)


def _estimate(value: float, draws: list[float]) -> Estimate:
    ordered, tail = sorted(draws), len(draws) // 40
    return Estimate(value, ordered[tail], ordered[-tail - 1])
