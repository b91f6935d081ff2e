"""The two branches against tables worked out by hand: a digit a mark, rows right of ten."""

from __future__ import annotations

import pytest

from msft_lite.core import ROOT, Clock, Drop, Method, Mixture, Rollout, Verdict
from msft_lite.methods.shift import ShiftOptions, shift
from tests.unit.methods.tables import reply, verdict_of

# A quarter is 24 + 16 + 8 = 48 rows: 6 steps; without c 5, without a 4.
CLOCK = Clock({"b": 96, "a": 64, "c": 32}, batch_rows=8)
ALL = Mixture.of(["b", "a", "c"])


def begin(clock: Clock = CLOCK) -> Method:
    method = shift(clock, ShiftOptions(epochs=1))
    next(method)
    return method


def test_from_the_first_peak_with_and_without_its_task() -> None:
    method = shift(CLOCK, ShiftOptions(epochs=1))
    assert next(method) == Rollout(ROOT, ALL, (6, 12, 18, 24), fresh=True)
    # a is best at 4 (mark 0 is no best mark), b at 3, c at 2: c, last in the list, is first.
    request = method.send(reply("root s1 s2 s3 s4", b="12354", a="91234", c="12544"))
    assert request == Rollout("s2", ALL, (6, 12), fresh=True)
    request = method.send(reply("s2 t1 t2", b="333", a="223", c="544"))
    drops = (Drop("c", 0, "s2", "best first, at mark 2 of roll-out 1"),)
    assert request == Rollout("s2", Mixture.of(["b", "a"]), (5, 10), fresh=True, drops=drops)
    # sums: 11, 5, 10, 12, 12; 10, 9, 10; 10, 9, 9
    verdict = verdict_of(method, reply("s2 u1 u2", b="333", a="222", c="544"))
    assert verdict == Verdict("s3")


@pytest.mark.parametrize(
    ("with_c", "without_c", "best"),
    [
        ("96", "78", "t1"),  # the branch with all tasks
        ("76", "98", "u1"),  # the branch without one
        ("79", "98", "t2"),  # equal: the earlier
        ("55", "55", "s4"),  # the first roll-out
        ("66", "66", "s4"),  # equal to it
    ],
)
def test_the_best_mean_of_all_three_rollouts_is_returned(
    with_c: str, without_c: str, best: str
) -> None:
    method = begin()
    # c is best at mark 2; sums 3, 6, 15, 14, 18
    method.send(reply("root s1 s2 s3 s4", b="12346", a="12346", c="12966"))
    method.send(reply("s2 t1 t2", b="3" + with_c, a="3" + with_c, c="9" + with_c))
    last = reply("s2 u1 u2", b="3" + without_c, a="3" + without_c, c="9" + without_c)
    assert verdict_of(method, last) == Verdict(best)


def test_of_equally_early_tasks_the_first_by_name_leaves() -> None:
    method = begin()
    # b and a are best at mark 1; b is first in the list
    request = method.send(reply("root s1 s2 s3 s4", b="15444", a="13222", c="12344"))
    assert request == Rollout("s1", ALL, (6, 12, 18), fresh=True)
    request = method.send(reply("s1 t1 t2 t3", b="5444", a="3222", c="2344"))
    drops = (Drop("a", 0, "s1", "best first, at mark 1 of roll-out 1"),)
    assert request == Rollout("s1", Mixture.of(["b", "c"]), (4, 8, 12), fresh=True, drops=drops)


def test_a_peak_one_mark_before_the_end_has_branches_of_one_mark() -> None:
    method = begin()
    request = method.send(reply("root s1 s2 s3 s4", b="12345", a="12345", c="12354"))
    assert (request.start, request.marks) == ("s3", (6,))
    assert method.send(reply("s3 t1", b="44", a="44", c="54")).marks == (5,)


def test_without_a_peak_before_the_last_mark_there_are_no_branches() -> None:
    verdict = verdict_of(begin(), reply("root s1 s2 s3 s4", b="12345", a="52346", c="61234"))
    assert verdict == Verdict("s4", note="no branches: no task is best before the last mark")


def test_one_task_alone_has_no_branches() -> None:
    verdict = verdict_of(begin(Clock({"a": 64}, 16)), reply("root s1 s2 s3 s4", a="12544"))
    assert verdict == Verdict("s2", note="no branches: there is one task alone")


def test_ten_epochs_unless_told_otherwise() -> None:
    assert next(shift(CLOCK, ShiftOptions())).marks == tuple(range(6, 241, 6))
    assert next(shift(CLOCK, ShiftOptions(epochs=2))).marks == tuple(range(6, 49, 6))
