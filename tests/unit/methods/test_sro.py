"""SRO and Soft SRO against tables worked out by hand: a digit a mark, rows right of ten."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest

from msft_lite.core import ROOT, Clock, Drop, Method, Mixture, Rollout, Verdict
from msft_lite.methods.sro import SroOptions, soft_sro, sro
from tests.unit.methods.tables import reply, verdict_of

# A quarter is 24 + 16 + 8 = 48 rows: 6 steps; of b and a alone 5, of a alone 2.
CLOCK = Clock({"b": 96, "a": 64, "c": 32}, batch_rows=8)
ALL = Mixture.of(["b", "a", "c"])


def searched(b: str, a: str, c: str, *, soft: bool = False) -> tuple[Method, Rollout]:
    """The method after its search, and what it asks for then."""
    method = (soft_sro if soft else sro)(CLOCK, SroOptions(epochs=1))
    search = next(method)
    assert search == Rollout(ROOT, ALL, (6, 12, 18, 24), fresh=True, keep="none")
    return method, method.send(reply("root x1 x2 x3 x4", b=b, a=a, c=c))


def stopped(task: str, mark: int, at: str, search_mark: int) -> Drop:
    return Drop(task, mark, at, f"its best mark in the search was mark {search_mark}")


def test_every_task_stops_at_its_best_mark_of_the_search() -> None:
    # c, last in the list, is best at mark 1; b at 3, the earlier of two, its mark 0 being no best
    # mark; a at 4.
    method, request = searched(b="92477", a="12345", c="25435")
    assert request == Rollout(ROOT, ALL, (6,), fresh=True, keep="best")
    # From mark 1 to 3 without c: two marks of 5 steps.
    request = method.send(reply("root s1", b="12", a="12", c="12"))
    drops = (stopped("c", 1, "s1", 1),)
    assert request == Rollout(
        "s1", Mixture.of(["b", "a"]), (5, 10), fresh=False, drops=drops, keep="best"
    )
    # From mark 3 to 4 a alone: one mark of 2 steps. The drop's mark is that of this roll-out.
    request = method.send(reply("s1 s2 s3", b="256", a="264", c="243"))
    drops = (stopped("b", 2, "s3", 3),)
    assert request == Rollout("s3", Mixture.of(["a"]), (2,), fresh=False, drops=drops, keep="best")
    # Sums over the second training: 3, 6, 15, 13, 14. The search had 14 and more; it is no matter.
    verdict = verdict_of(method, reply("s3 s4", b="64", a="45", c="35"))
    assert verdict == Verdict("s2", (stopped("a", 1, "s4", 4),))


def test_tasks_with_one_best_mark_stop_together_and_training_ends_with_the_last() -> None:
    # a and c at mark 2, b at mark 3: nothing is trained from mark 3 to 4.
    method, request = searched(b="12354", a="12543", c="12543")
    assert request == Rollout(ROOT, ALL, (6, 12), fresh=True, keep="best")
    request = method.send(reply("root s1 s2", b="123", a="123", c="123"))
    drops = (stopped("a", 2, "s2", 2), stopped("c", 2, "s2", 2))
    # Of b alone a quarter is 24 rows: 3 steps.
    assert request == Rollout("s2", Mixture.of(["b"]), (3,), fresh=False, drops=drops, keep="best")
    verdict = verdict_of(method, reply("s2 s3", b="34", a="33", c="32"))
    assert verdict == Verdict("s2", (stopped("b", 1, "s3", 3),))  # 9 and 9: the earlier


def test_tasks_stop_in_the_order_of_their_marks() -> None:
    # b at mark 8, a at 9, c at 1 of 12
    method = sro(CLOCK, SroOptions(epochs=3))
    next(method)
    names = " ".join(f"x{k}" for k in range(13))
    request = method.send(reply(names, b="1111111121111", a="1111111113111", c="1211111111111"))
    assert request.marks == (6,)
    request = method.send(reply("root s1", b="11", a="11", c="11"))
    assert (request.start, request.marks) == ("s1", (5, 10, 15, 20, 25, 30, 35))
    names = " ".join(f"s{k}" for k in range(1, 9))
    request = method.send(reply(names, b="1" * 8, a="1" * 8, c="1" * 8))
    assert (request.start, request.marks) == ("s8", (2,))
    assert request.drops == (stopped("b", 7, "s8", 8),)


def test_all_tasks_with_one_best_mark_are_one_rollout_and_the_base_competes() -> None:
    method, request = searched(b="12222", a="15444", c="13111")
    assert request == Rollout(ROOT, ALL, (6,), fresh=True, keep="best")
    verdict = verdict_of(method, reply("root s1", b="50", a="50", c="50"))
    assert verdict == Verdict(ROOT, tuple(stopped(task, 1, "s1", 1) for task in ("b", "a", "c")))


def test_soft_shares_are_in_proportion_to_best_marks() -> None:
    # b, a, c at 3, 4, 1: 3 * 96 + 4 * 64 + 1 * 32 = 576 rows in quarters, as many as 3 marks of
    # all 192. So c_i / 3 passes, which draws b, a and c with chances 288, 256 and 32 of 576.
    method, request = searched(b="92477", a="12345", c="25435", soft=True)
    shares = (("b", Fraction(1)), ("a", Fraction(4, 3)), ("c", Fraction(1, 3)))
    assert request == Rollout(ROOT, Mixture(shares, iid=True), (6, 12, 18), fresh=True, keep="best")
    # 18 steps of 8 rows are the 576 / 4 = 144 rows that the marks are worth.
    verdict = verdict_of(method, reply("root s1 s2 s3", b="1254", a="1254", c="1265"))
    assert verdict == Verdict("s2")


def test_soft_training_ends_with_its_rows_between_two_marks() -> None:
    # b, a, c at 1, 2, 4: 96 + 128 + 128 = 352 rows in quarters, 11/6 marks: 11 steps of 8 rows.
    method, request = searched(b="19444", a="12544", c="12345", soft=True)
    shares = (("b", Fraction(6, 11)), ("a", Fraction(12, 11)), ("c", Fraction(24, 11)))
    assert request == Rollout(ROOT, Mixture(shares, iid=True), (6, 11), fresh=True, keep="best")
    assert verdict_of(method, reply("root s1 s2", b="911", a="911", c="922")) == Verdict(ROOT)


def test_soft_training_of_one_mark_has_one_mark() -> None:
    _, request = searched(b="19444", a="19444", c="19444", soft=True)
    mixture = Mixture(tuple((task, Fraction(1)) for task in ("b", "a", "c")), iid=True)
    assert request == Rollout(ROOT, mixture, (6,), fresh=True, keep="best")


def test_soft_training_rounds_up_to_a_whole_step() -> None:
    # A quarter of 48 rows is one step. b, a, c at 1, 1, 2: 224 / 192 = 7/6 steps.
    clock = Clock(CLOCK.sizes, batch_rows=48)
    method = soft_sro(clock, SroOptions(epochs=1))
    assert next(method).marks == (1, 2, 3, 4)
    request = method.send(reply("root x1 x2 x3 x4", b="19444", a="19444", c="12544"))
    assert request.marks == (1, 2)
    assert dict(request.mixture.share)["c"] == Fraction(12, 7)


@pytest.mark.parametrize("method", [sro, soft_sro])
def test_the_search_lasts_ten_epochs_unless_told_otherwise(
    method: Callable[[Clock, SroOptions], Method],
) -> None:
    assert next(method(CLOCK, SroOptions())).marks == tuple(range(6, 241, 6))
    assert next(method(CLOCK, SroOptions(epochs=2))).marks == tuple(range(6, 49, 6))
