from __future__ import annotations

import random
import statistics

import pytest

from msft_lite.core import Score
from msft_lite.report.intervals import mean_estimate, task_differences, wilson


def score(correct: int, total: int) -> Score:
    return Score("1" * correct + "0" * (total - correct))


# R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3, four decimals.
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilson_gives_the_published_intervals(
    correct: int, total: int, low: float, high: float
) -> None:
    estimate = wilson(score(correct, total))
    assert estimate.value == correct / total
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("total", [1, 7, 200])
def test_wilson_holds_its_value_and_never_shrinks_to_a_point(total: int) -> None:
    for correct in range(total + 1):
        estimate = wilson(score(correct, total))
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.high - estimate.low > 0.01


def test_the_mean_of_one_task_has_that_tasks_interval() -> None:
    alone = wilson(score(7, 20))
    mean = mean_estimate({"a": score(7, 20)})
    assert mean.value == alone.value
    assert (mean.low, mean.high) == pytest.approx((alone.low, alone.high))


def test_the_mean_of_four_equal_tasks_has_half_the_interval() -> None:
    alone = wilson(score(10, 20))
    mean = mean_estimate({name: score(10, 20) for name in "abcd"})
    assert mean.value == 0.5
    assert mean.high - mean.low == pytest.approx((alone.high - alone.low) / 2)


def test_the_bootstrap_is_a_function_of_its_arguments() -> None:
    before = {"a": Score("0011" * 10), "b": Score("0001" * 10)}
    after = {"a": Score("0110" * 10), "b": Score("0111" * 10)}
    first = task_differences(before, after, seed=20)
    assert first == task_differences(before, after, seed=20)
    assert first != task_differences(before, after, seed=21)
    alone, _ = task_differences({"b": before["b"]}, {"b": after["b"]}, seed=20)
    assert alone["b"] == first[0]["b"], "the other tasks must not matter"


def test_the_bootstrap_equals_picking_rows() -> None:
    generator = random.Random(1)
    before = Score("".join(generator.choice("01") for _ in range(200)))
    after = Score("".join(o if generator.random() < 0.7 else "1" for o in before.outcomes))
    changes = [int(b) - int(a) for a, b in zip(before.outcomes, after.outcomes, strict=True)]
    picked = sorted(
        sum(generator.choices(changes, k=len(changes))) / len(changes) for _ in range(4000)
    )
    estimate = task_differences({"a": before}, {"a": after}, seed=20)[0]["a"]
    assert estimate.value == sum(changes) / len(changes)
    # A percentile of 2,000 draws with this spread (0.026) has a standard error of about 0.0015.
    assert estimate.low == pytest.approx(picked[100], abs=0.0101)
    assert estimate.high == pytest.approx(picked[-101], abs=0.0101)


def test_pairing_narrows_the_interval() -> None:
    before = {"a": Score("01" * 50)}
    one_row_won = {"a": Score("11" + "01" * 49)}
    estimate = task_differences(before, one_row_won, seed=20)[0]["a"]
    assert estimate.value == pytest.approx(0.01)
    # Unpaired, two scores of 50 of 100 differ by 0.14 either way.
    assert 0 <= estimate.low <= estimate.high <= 0.05


def test_no_changed_row_is_no_difference() -> None:
    per_task, mean = task_differences({"a": score(3, 9)}, {"a": score(3, 9)}, seed=20)
    assert (per_task["a"].low, per_task["a"].value, per_task["a"].high) == (0, 0, 0)
    assert mean.value == 0


def test_only_won_rows_give_a_difference_that_is_never_negative() -> None:
    estimate = task_differences({"a": score(0, 40)}, {"a": score(20, 40)}, seed=20)[0]["a"]
    assert estimate.value == 0.5
    assert 0.3 < estimate.low < 0.45
    assert 0.55 < estimate.high < 0.7


def test_the_mean_difference_counts_tasks_alike() -> None:
    before = {"small": score(0, 10), "large": score(0, 1000)}
    after = {"small": score(10, 10), "large": score(0, 1000)}
    per_task, mean = task_differences(before, after, seed=20)
    assert per_task["small"].value == 1
    assert mean.value == 0.5
    assert statistics.mean((mean.low, mean.high)) == pytest.approx(0.5)
