"""mSFT against tables worked out by hand: rows are marks (0 = start), columns tasks, out of 10."""

from __future__ import annotations

from fractions import Fraction

import pytest

from msft_lite.core import ROOT, Clock, Method, Point, Rollout, Score, Trace
from msft_lite.methods.msft import MsftOptions, fall_probability, msft
from tests.unit.methods.tables import verdict_of

CLOCK = Clock({"b": 64, "a": 64, "c": 64}, batch_rows=16)  # 'b' is first in the list, not by name


def right(count: int, total: int = 10) -> Score:
    return Score("1" * count + "0" * (total - count))


def trace(name: str, **columns: list[int]) -> Trace:
    """A reply with one column of correct counts per task; its snapshots are name0, name1, ..."""
    marks = range(len(next(iter(columns.values()))))
    return Trace(
        tuple(
            Point(k, f"{name}{k}", {task: right(column[k]) for task, column in columns.items()})
            for k in marks
        )
    )


def begin(**options: object) -> tuple[Method, Rollout]:
    method = msft(CLOCK, MsftOptions(**{"budget": 1, **options}))  # type: ignore[arg-type]
    return method, next(method)


def test_first_request_is_the_full_mixture_from_the_base() -> None:
    _, request = begin()
    assert request == Rollout(ROOT, request.mixture, (3, 6, 9, 12), fresh=True)
    assert dict(request.mixture.share) == {"b": 1, "a": 1, "c": 1}


def test_a_stage_lasts_budget_epochs_and_a_quarter_shrinks_as_tasks_leave() -> None:
    method, request = begin(budget=3)
    assert request.marks == tuple(range(3, 37, 3))
    falling = [1, 9, *[2] * 11]
    rising = list(range(13))
    request = method.send(
        trace("s", b=[*rising[:11], 10, 10], a=falling, c=falling[:1] + rising[:12][:12])
    )
    assert request.marks == tuple(range(2, 25, 2))


@pytest.mark.parametrize(
    ("b", "a", "c", "start", "left", "dropped"),
    [
        # a task in the middle of the list over-fits first
        ([1, 2, 3, 4, 3], [1, 5, 4, 3, 2], [1, 2, 3, 4, 5], "s1", ("b", "c"), ("a", 1)),
        # the last of the list does
        ([1, 2, 3, 4, 5], [1, 2, 3, 5, 4], [1, 2, 5, 4, 3], "s2", ("b", "a"), ("c", 2)),
        # the first of the list does
        ([1, 9, 4, 4, 5], [1, 2, 3, 5, 4], [1, 2, 5, 4, 3], "s1", ("a", "c"), ("b", 1)),
        # 'b' and 'a' share the earliest peak: the first by name leaves, not the first in the list
        ([1, 2, 5, 3, 4], [1, 2, 5, 3, 4], [1, 2, 3, 4, 5], "s2", ("b", "c"), ("a", 2)),
        # equal scores: the earliest mark is the peak
        ([1, 2, 3, 4, 5], [1, 2, 5, 5, 5], [1, 2, 3, 5, 5], "s2", ("b", "c"), ("a", 2)),
        # a task that only gets worse leaves at the start mark, where nothing is trained
        ([1, 2, 3, 4, 5], [1, 2, 3, 5, 4], [5, 4, 3, 2, 1], "s0", ("b", "a"), ("c", 0)),
    ],
)
def test_who_leaves_and_where_training_goes_on(
    b: list[int], a: list[int], c: list[int], start: str, left: tuple[str], dropped: tuple[str, int]
) -> None:
    method, _ = begin()
    request = method.send(trace("s", b=b, a=a, c=c))
    assert (request.start, request.mixture.tasks, request.fresh) == (start, left, True)
    (drop,) = request.drops
    assert (drop.task, drop.peak_mark, drop.rolled_back_to) == (*dropped, start)


def test_nobody_overfits_so_the_same_tasks_go_on_from_the_end() -> None:
    method, _ = begin()
    rising = [1, 2, 3, 4, 5]
    request = method.send(trace("s", b=rising, a=rising, c=rising))
    assert (request.start, request.mixture.tasks, request.drops) == ("s4", ("b", "a", "c"), ())


def test_start_mark_can_be_kept_from_competing() -> None:
    method, _ = begin(start_counts=False)
    request = method.send(trace("s", b=[1, 2, 3, 4, 5], a=[1, 2, 3, 5, 4], c=[5, 4, 3, 2, 1]))
    assert (request.start, request.drops[0].peak_mark) == ("s1", 1)


def test_all_tied_tasks_can_leave_together() -> None:
    method, _ = begin(drop_all_tied=True)
    tied, rising = [1, 2, 5, 3, 4], [1, 2, 3, 4, 5]
    request = method.send(trace("s", b=tied, a=tied, c=rising))
    assert (request.start, request.mixture.tasks) == ("s2", ("c",))
    assert [drop.task for drop in request.drops] == ["a", "b"]


def test_of_all_that_fell_only_those_tied_first_leave_together() -> None:
    method, _ = begin(drop_all_tied=True)
    tied, later = [1, 2, 5, 3, 4], [1, 2, 3, 5, 4]
    request = method.send(trace("s", b=tied, a=later, c=tied))
    assert (request.start, request.mixture.tasks) == ("s2", ("a",))
    assert [drop.task for drop in request.drops] == ["b", "c"]


def test_optimizer_can_be_kept_after_the_first_stage() -> None:
    method, request = begin(keep_optimizer=True)
    assert request.fresh
    request = method.send(trace("s", b=[1, 5, 4, 3, 2], a=[1, 2, 3, 4, 5], c=[1, 2, 3, 4, 5]))
    assert not request.fresh


def test_to_the_last_task_and_best_mean_of_every_evaluation_wins() -> None:
    method, _ = begin()
    # means 1, 5, 5.67, 4.67, 3.33: mark 2 will be rolled back over and still is the best of all
    request = method.send(trace("s", b=[1, 6, 5, 4, 2], a=[1, 4, 6, 5, 4], c=[1, 5, 6, 5, 4]))
    assert (request.start, request.mixture.tasks) == ("s1", ("a", "c"))
    request = method.send(trace("t", b=[6, 1, 1, 1, 1], a=[4, 5, 4, 4, 4], c=[5, 4, 4, 5, 5]))
    assert (request.start, request.mixture.tasks) == ("t0", ("a",))
    verdict = verdict_of(
        method, trace("u", b=[6, 0, 0, 0, 0], a=[4, 4, 9, 8, 7], c=[5, 0, 0, 0, 0])
    )
    assert verdict.snapshot == "s2"
    assert [(d.task, d.peak_mark, d.rolled_back_to) for d in verdict.drops] == [("a", 2, "u2")]
    assert verdict.note == ""


def test_equal_means_do_not_replace_the_earlier_best() -> None:
    method, _ = begin(max_stages=2)
    method.send(trace("s", b=[1, 2, 3, 4, 5], a=[1, 2, 3, 4, 5], c=[1, 2, 3, 4, 5]))
    verdict = verdict_of(method, trace("t", b=[5, 5, 5, 4, 4], a=[5] * 5, c=[5] * 5))
    assert verdict.snapshot == "s4"


def test_max_stages_ends_the_run_and_says_so() -> None:
    method, _ = begin(max_stages=1)
    verdict = verdict_of(
        method, trace("s", b=[1, 5, 4, 3, 2], a=[1, 2, 3, 4, 5], c=[1, 2, 3, 4, 5])
    )
    assert verdict.note == "stopped after 1 stages with tasks still active: a, c"
    assert [drop.task for drop in verdict.drops] == ["b"]


def test_guard_of_twice_the_tasks_plus_two_stages() -> None:
    method, _ = begin()
    for stage in range(7):
        method.send(trace(f"s{stage}.", b=[1, 2, 3, 4, 5], a=[1, 2, 3, 4, 5], c=[1, 2, 3, 4, 5]))
    verdict = verdict_of(
        method, trace("z", b=[1, 2, 3, 4, 5], a=[1, 2, 3, 4, 5], c=[1, 2, 3, 4, 5])
    )
    assert "stopped after 8 stages" in verdict.note


def point(mark: int, **outcomes: str) -> Point:
    return Point(mark, f"s{mark}", {task: Score(text) for task, text in outcomes.items()})


def test_significant_detector_passes_over_noise_and_takes_a_real_fall() -> None:
    # a: best at mark 1, falls by 1 of 8 (noise, p = 1/2); b: best at mark 2, falls by 5 (p = 1/32)
    marks = [
        point(0, b="00000000", a="00000000", c="00000000"),
        point(1, b="11110000", a="11111111", c="10000000"),
        point(2, b="11111111", a="11111110", c="11000000"),
        point(3, b="11111000", a="11111110", c="11100000"),
        point(4, b="11100000", a="11111110", c="11110000"),
    ]
    method, _ = begin(detector="significant")
    request = method.send(Trace(tuple(marks)))
    assert (request.start, request.mixture.tasks) == ("s2", ("a", "c"))
    method, _ = begin(detector="peak")
    assert method.send(Trace(tuple(marks))).mixture.tasks == ("b", "c")
    method, _ = begin(detector="significant", alpha=1 / 32)  # strictly below
    assert method.send(Trace(tuple(marks))).mixture.tasks == ("b", "a", "c")


@pytest.mark.parametrize(
    ("before", "after", "probability"),
    [
        ("1111", "1111", 1),  # no row changed
        ("1111", "0000", Fraction(1, 16)),
        ("1100", "0011", Fraction(11, 16)),  # two lost, two won: P(at least 2 of 4)
        ("11110", "00001", Fraction(6, 32)),  # four lost, one won: (5 + 1) / 32
        ("0000", "1111", 1),
    ],
)
def test_fall_probability_is_the_exact_binomial_tail(
    before: str, after: str, probability: Fraction
) -> None:
    assert fall_probability(Score(before), Score(after)) == float(probability)


def test_only_scores_on_the_same_rows_are_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        fall_probability(Score("111"), Score("11"))


def test_reason_gives_both_counts() -> None:
    method, _ = begin()
    request = method.send(trace("s", b=[1, 5, 4, 3, 2], a=[1, 2, 3, 4, 5], c=[1, 2, 3, 4, 5]))
    assert request.drops[0].reason == "best at mark 1 with 5/10, at the last mark 4 2/10"


def test_defaults_are_the_released_code_s() -> None:
    assert MsftOptions() == MsftOptions(
        budget=3,
        start_counts=True,
        keep_optimizer=False,
        drop_all_tied=False,
        max_stages=None,
        detector="peak",
        alpha=0.05,
    )
    assert next(msft(CLOCK, MsftOptions())).marks == tuple(range(3, 37, 3))
