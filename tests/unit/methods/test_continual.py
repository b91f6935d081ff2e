"""Continual fine-tuning against a table worked out by hand: a digit a mark, rows right of ten."""

from __future__ import annotations

from msft_lite.core import ROOT, Clock, Mixture, Rollout, Verdict
from msft_lite.methods.continual import ContinualOptions, continual
from tests.unit.methods.tables import reply, verdict_of

# A quarter is 24, 8 and 40 rows: 2, 1 and 3 steps. The list is in no order of names.
CLOCK = Clock({"b": 96, "a": 32, "c": 160}, batch_rows=16)


def test_each_task_in_list_order_from_the_best_of_the_one_before() -> None:
    method = continual(CLOCK, ContinualOptions(epochs=1))
    assert next(method) == Rollout(ROOT, Mixture.of(["b"]), (2, 4, 6, 8), fresh=True)
    # b is best at marks 2 and 3: the earlier; that c is best elsewhere is no matter.
    request = method.send(reply("root s1 s2 s3 s4", b="13554", a="44433", c="22231"))
    assert request == Rollout("s2", Mixture.of(["a"]), (1, 2, 3, 4), fresh=True)
    # a only gets worse: c starts where a started.
    request = method.send(reply("s2 t1 t2 t3 t4", b="56544", a="43321", c="24333"))
    assert request == Rollout("s2", Mixture.of(["c"]), (3, 6, 9, 12), fresh=True)
    # c ends at its best mark, 3. Sums of the tasks, over all three roll-outs:
    # 7 9 11 11 8, 11 13 11 10 8, 11 9 10 12 13: the best mean is t1, which led nowhere.
    verdict = verdict_of(method, reply("s2 u1 u2 u3 u4", b="53333", a="43334", c="23466"))
    assert verdict == Verdict("t1", last="u3")


def test_the_last_task_may_end_where_it_started() -> None:
    method = continual(Clock({"b": 64, "a": 64}, batch_rows=16), ContinualOptions(epochs=1))
    next(method)
    assert method.send(reply("root s1 s2 s3 s4", b="12345", a="55555")).start == "s4"
    verdict = verdict_of(method, reply("s4 t1 t2 t3 t4", b="54321", a="54321"))
    assert verdict == Verdict("s4", last="s4")


def test_a_first_task_that_training_harms_hands_on_the_base() -> None:
    method = continual(Clock({"b": 64, "a": 64}, batch_rows=16), ContinualOptions(epochs=1))
    next(method)
    assert method.send(reply("root s1 s2 s3 s4", b="54321", a="12345")).start == ROOT


def test_ten_passes_over_each_task_unless_told_otherwise() -> None:
    assert next(continual(CLOCK, ContinualOptions())).marks == tuple(range(2, 81, 2))
    assert next(continual(CLOCK, ContinualOptions(epochs=2))).marks == tuple(range(2, 17, 2))
