"""The bootstrap against brute force, and against variances that are known exactly."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import pytest

from msft_lite.core import Score
from msft_lite.report.compare.resampling import (
    Sample,
    difference_draws,
    estimate,
    mean_draws,
    resampled,
)
from msft_lite.report.intervals import RESAMPLES, task_differences

# Of 2,000 draws a variance has a relative standard error of sqrt(2 / 2000) = 3.2 %: three of them.
THREE_ERRORS = 0.095


def sample(*rows: str, seeds: Sequence[int] = ()) -> Sample:
    """A system of one task, the outcomes of each of its seeds given."""
    given = tuple(seeds) or tuple(range(len(rows)))
    return Sample(given, tuple({"t": Score(outcomes)} for outcomes in rows))


def outcomes(share: float, count: int, name: str) -> str:
    generator = random.Random(name)
    return "".join("1" if generator.random() < share else "0" for _ in range(count))


def differences(one: Sample, other: Sample) -> list[float]:
    draws = resampled({"one": one, "other": other}, seed=0)
    return difference_draws(draws["one"]["t"], draws["other"]["t"])


def crossed_variance(table: Sequence[Sequence[float]]) -> float:
    """The exact variance of a resample's mean when seeds (rows of the table) and rows are drawn.

    W_s and V_r, how often seed s and row r are drawn, are multinomial and independent, so
    E[W_s W_u] = 1 - 1/S + [s = u] and likewise for V; the mean is sum W_s V_r D_sr / (S R).
    """
    seeds, rows = len(table), len(table[0])
    of_seeds = [sum(values) for values in table]
    of_rows = [sum(column) for column in zip(*table, strict=True)]
    whole = sum(of_seeds)
    pairs = (1 - 1 / seeds) * (1 - 1 / rows) * whole**2
    pairs += (1 - 1 / rows) * sum(value**2 for value in of_seeds)
    pairs += (1 - 1 / seeds) * sum(value**2 for value in of_rows)
    pairs += sum(value**2 for values in table for value in values)
    return pairs / (seeds * rows) ** 2 - (whole / (seeds * rows)) ** 2


def test_the_formula_of_the_tests_is_right_where_it_can_be_listed() -> None:
    """Two seeds and two rows have 4 x 4 equally likely resamples."""
    table = [[1.0, 0.0], [3.0, 7.0]]
    every = [(first, second) for first in (0, 1) for second in (0, 1)]
    means = [
        statistics.mean(table[s][r] for s in seeds for r in rows)
        for seeds in every
        for rows in every
    ]
    assert crossed_variance(table) == pytest.approx(statistics.pvariance(means))


def test_one_seed_is_the_paired_bootstrap_over_rows() -> None:
    one, other = outcomes(0.6, 200, "one"), outcomes(0.5, 200, "other")
    draws = differences(sample(one), sample(other))
    changes = [int(a) - int(b) for a, b in zip(one, other, strict=True)]
    # The variance of the mean of n rows drawn with replacement is that of the rows over n.
    assert statistics.pvariance(draws) == pytest.approx(
        statistics.pvariance(changes) / 200, rel=THREE_ERRORS
    )
    generator = random.Random(1)
    picked = sorted(
        statistics.fmean(generator.choices(changes, k=200)) for _ in range(2 * RESAMPLES)
    )
    found = estimate(statistics.fmean(changes), draws)
    # A percentile of 2,000 draws with this spread (0.05) has a standard error of about 0.003.
    assert found.low == pytest.approx(picked[100], abs=0.0101)
    assert found.high == pytest.approx(picked[-101], abs=0.0101)
    before = {"t": Score(other)}
    known = task_differences(before, {"t": Score(one)}, seed=3)[1]
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.0101)


def test_seeds_and_rows_are_crossed_and_shared_by_both_systems() -> None:
    ours = [outcomes(0.5 + 0.1 * seed, 60, f"ours {seed}") for seed in range(3)]
    theirs = [outcomes(0.4, 60, f"theirs {seed}") for seed in range(3)]
    table = [
        [float(a) - float(b) for a, b in zip(*pair, strict=True)]
        for pair in zip(ours, theirs, strict=True)
    ]
    draws = differences(sample(*ours), sample(*theirs))
    expected = crossed_variance(table)
    assert statistics.pvariance(draws) == pytest.approx(expected, rel=THREE_ERRORS)
    nested = statistics.pvariance([statistics.fmean(values) for values in table]) / 3
    nested += statistics.fmean(statistics.pvariance(values) for values in table) / (3 * 60)
    assert abs(nested / expected - 1) > 2 * THREE_ERRORS, "rows of their own would be told apart"


def test_where_rows_are_alike_only_the_seeds_vary() -> None:
    """Scores 0, 1, 1 of three seeds: the variance of the mean is (2/9) / 3."""
    draws = resampled({"one": sample("0" * 20, "1" * 20, "1" * 20)}, seed=0)["one"]["t"]
    assert statistics.pvariance(draws) == pytest.approx(2 / 27, rel=THREE_ERRORS)
    assert set(draws) == {0.0, 1 / 3, 2 / 3, 1.0}


def test_where_seeds_are_alike_only_the_rows_vary() -> None:
    """Half of 40 rows right in every seed: 1/4 over 40, however many seeds there are."""
    draws = resampled({"one": sample(*["01" * 20] * 5)}, seed=0)["one"]["t"]
    assert statistics.pvariance(draws) == pytest.approx(0.25 / 40, rel=THREE_ERRORS)


def test_systems_of_the_same_seeds_are_paired_by_seed() -> None:
    """Each seed is worth as much in both: the seeds' luck cancels, unless they are others."""
    rows = ("0" * 20, "1" * 20, "1" * 20)
    better = ("1" + "0" * 19, "1" * 20, "1" * 20)
    paired = differences(sample(*better, seeds=(1, 2, 3)), sample(*rows, seeds=(1, 2, 3)))
    others = differences(sample(*better, seeds=(1, 2, 3)), sample(*rows, seeds=(4, 5, 6)))
    table = [[1.0] + [0.0] * 19, [0.0] * 20, [0.0] * 20]
    assert statistics.pvariance(paired) == pytest.approx(
        crossed_variance(table), rel=2 * THREE_ERRORS  # few values, far from normal
    )  # fmt: skip
    # Drawn apart, twice the variance of the seeds, 2/27 each, but for the one row.
    assert statistics.pvariance(others) == pytest.approx(4 / 27, rel=THREE_ERRORS)


def test_one_seed_against_several_takes_the_one_as_given() -> None:
    draws = differences(sample("0" * 20, "1" * 20, "1" * 20), sample("1" * 20, seeds=[7]))
    assert statistics.pvariance(draws) == pytest.approx(2 / 27, rel=THREE_ERRORS)
    assert max(draws) == 0


def test_equal_systems_have_no_difference_in_any_resample() -> None:
    rows = [outcomes(0.5, 50, str(seed)) for seed in range(3)]
    assert set(differences(sample(*rows), sample(*rows))) == {0.0}
    assert estimate(0.0, [0.0] * RESAMPLES).low == 0


def test_graded_rows_count_in_millionths() -> None:
    graded = Sample((1,), ({"t": Score(worth=(-2_000_000, -1_000_000, 0))},))
    draws = resampled({"one": graded}, seed=0)["one"]["t"]
    assert statistics.pvariance(draws) == pytest.approx((2 / 3) / 3, rel=THREE_ERRORS)
    assert min(draws) == -2
    assert max(draws) == 0


def test_a_single_row_has_no_spread() -> None:
    draws = resampled({"one": sample("1"), "other": sample("0")}, seed=0)
    assert set(draws["one"]["t"]) == {1.0}
    assert set(draws["other"]["t"]) == {0.0}


def test_draws_are_a_function_of_seed_and_task() -> None:
    def of(tasks: str, seed: int) -> list[float]:
        scores = {task: Score(outcomes(0.5, 30, task)) for task in tasks}
        return list(resampled({"one": Sample((1,), (scores,))}, seed=seed)["one"]["b"])

    assert of("ab", 0) == of("b", 0), "the other tasks must not matter"
    assert of("b", 0) != of("b", 1)


def test_rows_of_two_tasks_are_drawn_apart() -> None:
    """Half of 40 rows right in both: the mean of two tasks has half the variance of one."""
    scores = {task: Score("01" * 20) for task in "ab"}
    draws = resampled({"one": Sample((1,), (scores,))}, seed=0)["one"]
    means = mean_draws(draws, ["a", "b"])
    assert statistics.pvariance(means) == pytest.approx(0.25 / 40 / 2, rel=THREE_ERRORS)


def test_the_mean_over_tasks_counts_tasks_alike() -> None:
    assert mean_draws({"a": [0.0, 1.0], "b": [0.5, 0.0], "c": [9.0, 9.0]}, ["a", "b"]) == [
        0.25,
        0.5,
    ]


def test_an_interval_leaves_out_a_fortieth_at_either_end() -> None:
    found = estimate(1.5, [float(n) for n in range(2000)])
    assert (found.value, found.low, found.high) == (1.5, 50.0, 1949.0)
