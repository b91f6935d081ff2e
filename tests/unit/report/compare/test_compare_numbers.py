"""The numbers of a comparison, worked out by hand, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import sqrt
from typing import Any

import pytest

from msft_lite.core import Score
from msft_lite.errors import LedgerError
from msft_lite.report.compare import Comparison, compare
from msft_lite.report.compare.costs import costs_of, mean_costs
from msft_lite.report.intervals import mean_estimate, wilson
from msft_lite.report.story import Story
from msft_lite.report.telling import tell

Make = Callable[..., Story]


def test_first_places_are_shared_by_those_that_tie(three: Comparison) -> None:
    """a: msft and sro; b: all three; c: msft; d: sft."""
    places = {system.label: system.first_places for system in three.systems}
    assert places == {
        "sft": Fraction(1, 3) + 1,
        "msft": Fraction(1, 2) + Fraction(1, 3) + 1,
        "sro": Fraction(1, 2) + Fraction(1, 3),
    }
    assert sum(places.values()) == 4
    assert three.best["a"] == {"msft", "sro"}
    assert three.best["d"] == {"sft"}


def test_means_and_deviation_over_tasks(three: Comparison) -> None:
    sft, msft, sro = three.systems
    assert [system.mean.score.value for system in three.systems] == [0.6, 0.625, 0.625]
    # 0.5, 0.8, 0.2 and 0.9 around 0.6: squares add up to 0.30, over 3 (not 4) is 0.1.
    assert sft.deviation == pytest.approx(sqrt(0.1))
    assert msft.domains["words"].score.value == 0.7
    assert msft.domains["words"].difference.value == pytest.approx(0.05)
    assert sro.domains["sums"].score.value == 0.55
    assert sro.domains["sums"].difference.value == 0.0
    assert three.domains == {"words": ("a", "b"), "sums": ("c", "d")}


def test_scores_of_one_run_have_wilsons_interval(three: Comparison) -> None:
    sft = three.systems[0]
    assert sft.tasks["a"].score == wilson(Score("1" * 5 + "0" * 5))
    known = mean_estimate(sft.scores[0])
    assert (sft.mean.score.low, sft.mean.score.high) == (known.low, known.high)


def test_differences_are_to_the_first_sft(three: Comparison) -> None:
    assert three.reference == "sft"
    sft, msft, _ = three.systems
    assert [msft.tasks[task].difference.value for task in "abcd"] == pytest.approx(
        [0.1, 0.0, 0.2, -0.2]
    )
    assert (msft.tasks["b"].difference.low, msft.tasks["b"].difference.high) == (0, 0)
    assert msft.mean.difference.low < 0 < msft.mean.difference.high
    own = [*sft.tasks.values(), *sft.domains.values(), sft.mean]
    assert {(s.difference.low, s.difference.value, s.difference.high) for s in own} == {(0, 0, 0)}


def test_equal_systems_differ_by_nothing(story: Make) -> None:
    run = {"a": "0110100101" * 5, "b": "0010100101" * 5}
    found = compare({"x": [story(run)], "y": [story(run)]})
    difference = found.systems[1].mean.difference
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_without_sft_the_first_system_is_the_reference(story: Make) -> None:
    runs = {"C = 1": [story({"a": "10"}, method="msft")], "C = 3": [story({"a": "11"})]}
    assert compare(runs).reference == "C = 3", "its method is sft, whatever it is called"
    runs["C = 3"] = [story({"a": "11"}, method="msft")]
    assert compare(runs).reference == "C = 1"
    assert compare(runs, reference="C = 3").reference == "C = 3"
    with pytest.raises(LedgerError, match="'C = 5' is none of C = 1, C = 3; did you mean"):
        compare(runs, reference="C = 5")


def test_several_seeds_are_averaged_before_anything_is_compared(story: Make) -> None:
    """x: 1/4 and 3/4 on a, so 1/2; y: 1/2. They tie although no seed does."""
    x = [story({"a": "0001"}, seed=2), story({"a": "0111"}, seed=1)]
    found = compare({"x": x, "y": [story({"a": "0011"}, method="msft", seed=1)]})
    system = found.systems[0]
    assert system.seeds == (1, 2)
    assert [scores["a"].correct for scores in system.scores] == [3, 1]
    assert system.tasks["a"].score.value == 0.5
    assert found.best["a"] == {"x", "y"}
    assert (system.deviation, system.first_places) == (None, Fraction(1, 2))
    assert system.tasks["a"].score.low == 0.0, "a bootstrap of seeds and rows"
    assert found.has_seeds


def test_the_order_in_which_seeds_are_given_does_not_matter(story: Make) -> None:
    runs = [story({"a": "0001011" * 3}, seed=1), story({"a": "0111010" * 3}, seed=2)]
    other = [story({"a": "0101011" * 3}, seed=s, method="msft") for s in (1, 2)]
    assert compare({"x": runs, "y": other}) == compare({"x": runs[::-1], "y": other[::-1]})


def test_losses_are_better_when_smaller(story: Make) -> None:
    metric = {"a": "loss"}
    runs = {
        "sft": [story({"a": [-2_000_000, -1_000_000]}, metric=metric)],
        "msft": [story({"a": [-1_500_000, -500_000]}, metric=metric, method="msft")],
    }
    found = compare(runs)
    assert found.best["a"] == {"msft"}
    assert found.systems[1].mean.difference.value == 0.5


def test_tasks_of_one_domain_have_no_means_by_domain(story: Make) -> None:
    run = story({"a": "10", "b": "01"}, domain={"a": "words", "b": ""})
    assert compare({"x": [run]}).domains == {}


def test_tasks_come_in_the_first_runs_order(story: Make) -> None:
    first = story({"b": "10", "a": "01"})
    second = story({"a": "11", "b": "01"}, method="msft")
    found = compare({"x": [first], "y": [second]})
    assert found.tasks == ("b", "a")
    assert [s.value for s in (found.systems[1].tasks["a"].score,)] == [1.0]


def test_the_base_is_named_where_all_runs_agree_on_it(story: Make) -> None:
    assert compare({"x": [story({"a": "10"})]}).base == 0.0


def test_costs_are_means_over_seeds(story: Make, costs: Callable[[Story], object]) -> None:
    runs = [story({"a": "10"}, seed=s, tokens=1000 * s) for s in (1, 3)]
    found = mean_costs([costs_of(run) for run in runs])
    assert (found.trained_tokens, found.evaluations) == (2000, 2)
    assert found.seconds == {"train": 60.0, "generate": 8.0, "finish": 2.0}
    assert found.total_seconds == 70.0
    assert (found.training_flops, found.spent_flops, found.copies) == (None, None, None)
    system = compare({"x": runs}, costs=costs).systems[0]  # type: ignore[arg-type]
    assert (system.costs.training_flops, system.costs.copies) == (4e15, 4.0)
    assert system.costs.spent_flops == 5e15
    assert [each.training_flops for each in system.seed_costs] == [2e15, 6e15]


def test_costs_come_from_the_counts_and_rates_of_the_ledger(
    rows: Callable[..., list[dict[str, Any]]],
) -> None:
    """1,000 trained tokens, 200 of them with loss, squares 5,000; mark 0 and 1 generate 10 each."""
    rates = {
        "body_forward": 10, "body_backward": 20, "head_forward": 3, "head_backward": 6,
        "attention_forward": 1, "attention_backward": 2, "recompute": True,
    }  # fmt: skip
    ledger = rows({"a": "10"}, flops=rates, model_bytes=1000)
    marks = [row for row in ledger if row["kind"] == "mark"]
    marks[1] |= {"trained_answer_tokens": 200, "trained_squared_tokens": 5000}
    for mark, disk_bytes in zip(marks, (500, 2500), strict=True):
        mark |= {"prompt_tokens": 50, "cached_tokens": 20, "disk_bytes": disk_bytes}
    found = costs_of(tell(ledger))
    assert found.training_flops == 30 * 1000 + 9 * 200 + 3 * 5000
    assert found.recompute_flops == 10 * 1000 + 1 * 5000
    assert found.probe_flops == 0
    assert found.evaluation_flops == 2 * (10 * (50 - 20 + 10) + 3 * 10)
    assert (found.peak_disk_bytes, found.copies) == (2500, 1.5)


def test_where_training_ended_is_told_of_methods_that_tell_it(story: Make) -> None:
    ended = [
        story({"a": "0111"}, last={"a": end}, seed=n) for n, end in enumerate(("0001", "0011"))
    ]
    systems = compare({"x": ended, "y": [story({"a": "0111"}, method="msft")]}).systems
    assert [system.last for system in systems] == [3 / 8, None]


def test_what_one_run_does_not_tell_is_unknown_of_all(
    story: Make, costs: Callable[[Story], object]
) -> None:
    run = story({"a": "10"})
    known = costs(run)
    assert mean_costs([known, costs_of(run)]).training_flops is None  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"a": "cafe"}}, r"data\.a = 'beef' in the first and 'cafe' in the second"),
        ({"base": "f00d"}, r"base = 'cafe' in the first and 'f00d' in the second"),
        ({"base": None}, r"base = 'cafe' in the first and nothing in the second"),
        ({"steer_on": "report"}, r"steer_on = 'control' in the first and 'report' in"),
        ({"metric": {"a": "f1"}}, r"metric\.a = 'accuracy' in the first and 'f1' in"),
        ({"score": {"a": "logprob"}}, r"score\.a = 'generate' in the first and 'logprob' in"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    story: Make, change: dict[str, object], message: str
) -> None:
    runs = {"x": [story({"a": "10"})], "y": [story({"a": "10"}, method="msft", **change)]}
    with pytest.raises(LedgerError, match=rf"^x and y cannot be compared: {message}"):
        compare(runs)


def test_other_tasks_and_other_rows_are_refused(story: Make) -> None:
    first = story({"a": "10"})
    with pytest.raises(LedgerError, match=r"tasks = \['a'\] in the first and \['a', 'b'\] in"):
        compare({"x": [first], "y": [story({"a": "10", "b": "10"})]})
    with pytest.raises(LedgerError, match=r"report rows\.a = 2 in the first and 3 in the second"):
        compare({"x": [first], "y": [story({"a": "101"})]})


def test_an_unfinished_run_a_seed_twice_and_nothing_are_refused(
    story: Make, rows: Callable[..., list[dict[str, object]]]
) -> None:
    run = story({"a": "10"})
    with pytest.raises(LedgerError, match="y is not finished"):
        compare({"x": [run], "y": [tell(rows({"a": "10"})[:-1])]})
    with pytest.raises(LedgerError, match="x has two runs of seed 20"):
        compare({"x": [run, run]})
    with pytest.raises(LedgerError, match="y has no run"):
        compare({"x": [run], "y": []})
    with pytest.raises(LedgerError, match="no run to compare"):
        compare({})


def test_what_may_differ_is_said(story: Make) -> None:
    runs = {
        "x": [story({"a": "10"}, seed=seed) for seed in (1, 2)],
        "y": [story({"a": "10"}, device="cuda", method="msft")],
    }
    assert compare(runs, notes=["first"]).notes == (
        "first",
        "The runs differ in device: cpu (x of seed 1, x of seed 2), cuda (y).",
    )
