"""Instance-dependent early stopping against losses worked out by hand, in millionths of a nat."""

from __future__ import annotations

import pytest

from msft_lite.core import (
    ROOT,
    Clock,
    Method,
    Mixture,
    Point,
    Rollout,
    RowId,
    Score,
    Trace,
    Verdict,
)
from msft_lite.methods.ies import IesOptions, Losses, ies, mastered

# A quarter is 1 + 10 = 11 rows: 3 steps.
CLOCK = Clock({"b": 4, "a": 40}, batch_rows=4)
WHOLE = Mixture.of(["b", "a"])
# Rows b0 to b3 after epochs 1, 2, 3, ... and how they bend, L3 - 2 L2 + L1:
B1 = [1_000_000, 1_000_000, 1_000_000, 1_000_000]
B2 = [900_000, 900_000, 900_000, 900_000]
B3 = [810_000, 809_999, 790_001, 790_000]  # 10000, 9999, -9999, -10000
# After epoch 4 they bend by 0, 20000, 0 and 10001: b0 and b2 are mastered, b1 comes back.
B4 = [720_000, 739_998, 680_002, 690_001]
BENT = [[0] * 40, [0] * 40, [50_000] * 40, [0] * 40]  # no row of a is mastered in any epoch
HALF = [0] * 20 + [50_000] * 20  # after epoch 3 rows a0 to a19 are


def reply(epoch: int, b: list[int], a: list[int], *, right: str = "11111") -> Trace:
    """The trace of an epoch; a digit a mark: rows right of ten, of b and a alike."""
    names = [f"s{4 * (epoch - 1) + k}" for k in range(5)]
    points = (
        Point(k, ROOT if name == "s0" else name, {t: score(right[k]) for t in ("b", "a")})
        for k, name in enumerate(names)
    )
    return Trace(tuple(points), after={"b": tuple(b), "a": tuple(a)})


def score(digit: str) -> Score:
    return Score("1" * int(digit) + "0" * (10 - int(digit)))


def skipping(*rows: RowId) -> Mixture:
    return Mixture(WHOLE.share, skip=frozenset(rows))


def verdict_of(method: Method, last: Trace) -> Verdict:
    with pytest.raises(StopIteration) as done:
        method.send(last)
    return done.value.value


def after_two_epochs(epochs: int, clock: Clock = CLOCK, delta: float = 0.01) -> Method:
    """The method that has asked for epoch 3."""
    method = ies(clock, IesOptions(epochs=epochs, delta=delta))
    next(method)
    method.send(reply(1, B1, BENT[0]))
    method.send(reply(2, B2, BENT[1]))
    return method


def test_rows_leave_in_the_fourth_epoch_and_come_back() -> None:
    marks = (3, 6, 9, 12)
    method = ies(CLOCK, IesOptions(epochs=5))
    assert next(method) == Rollout(ROOT, WHOLE, marks, fresh=True, keep="best", audit="pool")
    asked = Rollout("s4", WHOLE, marks, fresh=False, keep="best", audit="pool")
    assert method.send(reply(1, B1, BENT[0], right="11132")) == asked
    asked = Rollout("s8", WHOLE, marks, fresh=False, keep="best", audit="pool")
    assert method.send(reply(2, B2, BENT[1], right="24111")) == asked
    # b1, b2 and half of a are mastered: ceil(2 / 4) + 20 / 4 = 6 rows in a quarter, 2 steps.
    left_out = skipping(("b", 1), ("b", 2), *(("a", row) for row in range(20)))
    asked = Rollout("s12", left_out, (2, 4, 6, 8), fresh=False, keep="best", audit="pool")
    assert method.send(reply(3, B3, HALF)) == asked
    # a20 to a39 bend by -100000, a0 to a19 by 0 once more: as many rows, and steps, as before.
    left_out = skipping(("b", 0), ("b", 2), *(("a", row) for row in range(20)))
    asked = Rollout("s16", left_out, (2, 4, 6, 8), fresh=False, keep="best")
    assert method.send(reply(4, B4, BENT[3], right="11114")) == asked
    # Means 1 1 1 3 2, 2 4 1 1 1, 1 1 1 1 1, 1 1 1 1 4, 4 3 3 3 3: the earliest 4.
    assert verdict_of(method, reply(5, [], [], right="43333")) == Verdict("s5")


def test_nothing_is_mastered_before_three_epochs() -> None:
    still = {"b": (5, 5), "a": (7,)}
    assert list(mastered([still], 0.1)) == []
    assert list(mastered([still, still], 0.1)) == []
    assert list(mastered([still, still, still], 0.1)) == [("b", 0), ("b", 1), ("a", 0)]


def test_only_the_last_three_epochs_count() -> None:
    past: list[Losses] = [{"a": (loss,)} for loss in (999_999, 0, 0, 0)]
    assert list(mastered(past, 1e-6)) == [("a", 0)]
    past = [{"a": (loss,)} for loss in (0, 0, 0, 999_999)]
    assert list(mastered(past, 0.1)) == []


@pytest.mark.parametrize(
    ("losses", "bend"),
    [
        ((300, 200, 100), 0),  # a straight fall is no bend, however steep
        ((300, 200, 200), 100),
        ((200, 300, 200), -200),
        ((100, 100, 400), 300),
        ((400, 100, 100), 300),
    ],
)
def test_a_row_is_mastered_while_its_loss_bends_by_less_than_delta(
    losses: tuple[int, ...], bend: int
) -> None:
    past: list[Losses] = [{"b": (10**6 * k * k, loss)} for k, loss in enumerate(losses)]
    assert list(mastered(past, (abs(bend) + 1) / 10**6)) == [("b", 1)]
    if bend:
        assert list(mastered(past, abs(bend) / 10**6)) == []


@pytest.mark.parametrize("delta", [0.001, 0.01, 0.1, 1e-05, 0.003])
def test_a_bend_of_exactly_delta_is_not_below_it(delta: float) -> None:
    limit = round(delta * 10**6)
    past: list[Losses] = [{"a": (0, 0)}, {"a": (0, 0)}, {"a": (limit, limit - 1)}]
    assert list(mastered(past, delta)) == [("a", 1)]


def test_training_ends_when_all_rows_are_mastered() -> None:
    method = after_two_epochs(epochs=9)
    verdict = verdict_of(method, reply(3, [800_000] * 4, [0] * 40, right="11311"))
    note = "ended after 3 epochs, as next to all rows were mastered"
    assert verdict == Verdict("s10", note=note)


@pytest.mark.parametrize(("left", "goes_on"), [(16, True), (15, False), (4, True), (3, False)])
def test_training_ends_before_a_step_could_be_without_a_row(left: int, goes_on: bool) -> None:
    # Batches of one row: 16 rows are 4 a quarter for 4 steps; 15 are 3 or 4, and 4 steps again.
    method = after_two_epochs(epochs=9, clock=Clock({"b": 4, "a": 40}, batch_rows=1))
    last = reply(3, [800_000] * 4, [50_000] * left + [0] * (40 - left))
    if goes_on:
        assert method.send(last).marks == tuple(left // 4 * k for k in range(1, 5))
    else:
        assert "ended after 3 epochs" in verdict_of(method, last).note


def test_rows_of_all_tasks_together_fill_the_steps() -> None:
    # b's 4 rows are 1 a quarter; with a's 3, which may be none, one step is sure of a row.
    method = after_two_epochs(epochs=9)
    request = method.send(reply(3, [500_000] * 4, [50_000] * 3 + [0] * 37))
    assert request.marks == (1, 2, 3, 4)


def test_training_ends_where_rounding_could_leave_a_step_without_a_row() -> None:
    # b's 3 rows come 1, 1, 0, 1 a quarter and a's 5 come 1, 2, 1, 1: 8 rows would do for the 8
    # steps of four quarters, but the third has 1 row for 2 steps.
    method = after_two_epochs(epochs=9, clock=Clock(CLOCK.sizes, batch_rows=2))
    last = reply(3, [500_000] * 3 + [800_000], [50_000] * 5 + [0] * 35)
    assert "ended after 3 epochs" in verdict_of(method, last).note


def test_a_list_of_tasks_too_small_for_that_is_not_taken_for_mastered() -> None:
    # 2 and 3 rows may draw none in a quarter, each for itself; together they always draw one.
    method = ies(Clock({"b": 2, "a": 3}, batch_rows=8), IesOptions(epochs=2))
    assert next(method).marks == (1, 2, 3, 4)
    request = method.send(reply(1, [0, 0], [0, 0, 0]))
    assert request == Rollout("s4", WHOLE, (1, 2, 3, 4), fresh=False, keep="best")
    assert verdict_of(method, reply(2, [], [], right="12111")) == Verdict("s5")


def test_after_the_last_epoch_nothing_is_measured_or_ended_early() -> None:
    method = ies(CLOCK, IesOptions(epochs=3, delta=100.0))
    next(method)
    method.send(reply(1, B1, BENT[0]))
    assert method.send(reply(2, B2, BENT[1])).audit == "none"
    assert verdict_of(method, reply(3, [], [], right="11112")) == Verdict("s12")


def test_defaults_are_the_source_s() -> None:
    assert IesOptions() == IesOptions(epochs=10, delta=0.01)
    method = ies(CLOCK, IesOptions())
    requests = [next(method)]
    for epoch in range(1, 10):  # a's rows bend to and fro
        requests.append(method.send(reply(epoch, [epoch**2 * 10**5] * 4, [epoch % 2 * 10**5] * 40)))
    assert [request.audit for request in requests] == ["pool"] * 9 + ["none"]
    assert {request.mixture for request in requests} == {WHOLE}
    assert verdict_of(method, reply(10, [], [])) == Verdict(ROOT)
