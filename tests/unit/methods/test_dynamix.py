"""DynamixSFT worked out by hand: which roll-outs it asks for, and with which chances."""

from __future__ import annotations

from fractions import Fraction
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msft_lite.core import LIVE, ROOT, Clock, Method, Mixture, Point, Rollout, Score, Trace, Verdict
from msft_lite.methods.dynamix import DynamixOptions, chances, dynamix, rewards, tilted
from tests.unit.methods.tables import verdict_of

# A quarter is 12 + 8 + 4 = 24 rows: 3 steps, so an epoch is 12 steps.
CLOCK = Clock({"b": 48, "a": 32, "c": 16}, batch_rows=8)
Losses = dict[str, tuple[int, ...]]
Probe = tuple[Losses, Losses]  # before and after the virtual steps
NO_PROBE: Probe = ({}, {})


def mixture(**millionths: int) -> Mixture:
    """What draws each task's rows with that chance; all sizes together are 96."""
    shares = ((t, Fraction(p * 96, 10**6 * CLOCK.sizes[t])) for t, p in millionths.items())
    return Mixture(tuple(shares), iid=True)


# With estimates of 0: 0.7 times 1/2, 1/3 and 1/6, and a third of 0.3 each.
EVEN = mixture(b=450_000, a=333_333, c=216_667)


def reply(start: str, end: str, probe: Probe = NO_PROBE, **right: str) -> Trace:
    """The trace of one mark; a digit a point and task: rows right of ten; none at an unscored."""

    def point(mark: int, name: str) -> Point:
        counts = {} if name == LIVE else {task: int(digits[mark]) for task, digits in right.items()}
        return Point(mark, name, {t: Score("1" * n + "0" * (10 - n)) for t, n in counts.items()})

    return Trace((point(0, start), point(1, end)), *probe)


def falling(**percent: int) -> Probe:
    """Losses of one row a task, which fall by so much of themselves."""
    return (
        dict.fromkeys(percent, (10**6,)),
        {task: (10**6 - 10**4 * fall,) for task, fall in percent.items()},
    )


def begin(**options: object) -> tuple[Method, Rollout]:
    given = {"epochs": 1, "period": 2, **options}
    method = dynamix(CLOCK, DynamixOptions(**given))  # type: ignore[arg-type]
    return method, next(method)


def test_rollouts_end_at_every_mark_and_every_period_and_say_which() -> None:
    level = falling(b=10, a=10, c=10)  # of equal falls none is rewarded
    method, request = begin()
    # Marks at 3, 6, 9, 12 and probes at 2, 4, 6, 8, 10; the one at 12 would lead nowhere.
    assert request == Rollout(ROOT, EVEN, (2,), fresh=True, score=False, keep="best", audit="probe")
    request = method.send(reply(ROOT, LIVE, level, b="4-", a="4-", c="4-"))
    assert request == Rollout(LIVE, EVEN, (1,), fresh=False, keep="best")
    request = method.send(reply(LIVE, "s1", b="-5", a="-3", c="-2"))
    assert request == Rollout(
        "s1", EVEN, (1,), fresh=False, score=False, keep="best", audit="probe"
    )
    request = method.send(reply("s1", LIVE, level, b="5-", a="3-", c="2-"))
    assert request == Rollout(LIVE, EVEN, (2,), fresh=False, keep="best", audit="probe")
    request = method.send(reply(LIVE, "s2", level, b="-5", a="-5", c="-4"))
    assert request == Rollout(
        "s2", EVEN, (2,), fresh=False, score=False, keep="best", audit="probe"
    )
    request = method.send(reply("s2", LIVE, level, b="5-", a="5-", c="4-"))
    assert request == Rollout(LIVE, EVEN, (1,), fresh=False, keep="best")
    request = method.send(reply(LIVE, "s3", b="-4", a="-4", c="-6"))
    assert request == Rollout(
        "s3", EVEN, (1,), fresh=False, score=False, keep="best", audit="probe"
    )
    request = method.send(reply("s3", LIVE, level, b="4-", a="4-", c="6-"))
    assert request == Rollout(LIVE, EVEN, (2,), fresh=False, keep="best")
    # Sums: 12, 10, 14, 14, 13.
    assert verdict_of(method, reply(LIVE, "s4", b="-5", a="-4", c="-4")) == Verdict("s2")


def test_the_base_competes_though_the_first_rollout_is_not_scored() -> None:
    method, request = begin()
    right, level = "9-", falling(b=1, a=1, c=1)
    for number in range(7):
        end = f"s{number}" if request.score else LIVE
        request = method.send(reply(request.start, end, level, b=right, a=right, c=right))
        right = "88"
    assert verdict_of(method, reply(LIVE, "s7", b="-8", a="-8", c="-8")) == Verdict(ROOT)


def test_a_period_that_is_not_reached_leaves_the_chances_alone() -> None:
    method, request = begin(period=12)  # due with the last step
    for number in range(1, 4):
        assert request == Rollout(
            f"s{number - 1}" if number > 1 else ROOT, EVEN, (3,), fresh=number == 1, keep="best"
        )
        request = method.send(reply(request.start, f"s{number}", b="12", a="12", c="12"))
    assert request == Rollout("s3", EVEN, (3,), fresh=False, keep="best")
    assert verdict_of(method, reply("s3", "s4", b="23", a="23", c="23")) == Verdict("s4")


def test_the_task_that_learns_most_gains_chances_until_the_next_probe() -> None:
    # Falls of 10, 20 and 30 % are rewards 0, 1/2 and 1, which alpha = 0 makes the estimates.
    # exp(Q ln 2) = 2^Q: weights 48, 32 * 1.414214 = 45.254834 and 32 of 125.254834, so
    # 0.7 * 48 / 125.254834 + 0.1 = 0.368253, 0.352911 and 0.278835.
    method, _ = begin(alpha=0.0, beta=log(2))
    probe = falling(b=10, a=20, c=30)
    request = method.send(reply(ROOT, LIVE, probe, b="1-", a="1-", c="1-"))
    learned = mixture(b=368_253, a=352_911, c=278_835)
    assert request.mixture == learned
    request = method.send(reply(LIVE, "s1", b="-1", a="-1", c="-1"))
    assert request.mixture == learned  # there was no probe in between
    # Now a learns least, b most and c in between: weights 96, 32 and 22.627417 of 150.627417.
    probe = falling(b=30, a=10, c=20)
    request = method.send(reply("s1", LIVE, probe, b="1-", a="1-", c="1-"))
    assert request.mixture == mixture(b=546_134, a=248_711, c=205_155)


def test_an_estimate_keeps_nineteen_twentieths_of_its_past() -> None:
    # First rewards 0, 1/2, 1: estimates 0, 0.025, 0.05. Weights by exp(4 Q): 48, 32 e^0.1 =
    # 35.365469 and 16 e^0.2 = 19.542444 of 102.907914.
    method, _ = begin()
    probe = falling(b=10, a=20, c=30)
    request = method.send(reply(ROOT, LIVE, probe, b="1-", a="1-", c="1-"))
    assert request.mixture == mixture(b=426_506, a=340_563, c=232_932)
    method.send(reply(LIVE, "s1", b="-1", a="-1", c="-1"))
    # Then 1, 0, 1/4: estimates 0.05, 0.95 * 0.025 = 0.02375, 0.95 * 0.05 + 0.05 / 4 = 0.06.
    # Weights 48 e^0.2 = 58.627332, 32 e^0.095 = 35.189083, 16 e^0.24 = 20.339986 of 114.156402.
    probe = falling(b=50, a=10, c=20)
    request = method.send(reply("s1", LIVE, probe, b="1-", a="1-", c="1-"))
    assert request.mixture == mixture(b=459_499, a=315_777, c=224_724)


def test_defaults_are_the_source_s() -> None:
    assert DynamixOptions() == DynamixOptions(epochs=10, period=50, beta=4.0, gamma=0.3, alpha=0.95)
    method, request = begin(epochs=2, period=50)  # 24 steps, no probe
    ends = [request.marks[0]]
    for _ in range(7):
        ends.append(method.send(reply("x", "y", b="11", a="11", c="11")).marks[0])
    assert ends == [3] * 8
    assert verdict_of(method, reply("x", "y", b="12", a="11", c="11")) == Verdict("y")


@pytest.mark.parametrize(
    ("gamma", "beta", "expected"),
    [
        (1.0, 4.0, {"b": 1 / 3, "a": 1 / 3, "c": 1 / 3}),
        (0.0, 0.0, {"b": 1 / 2, "a": 1 / 3, "c": 1 / 6}),
        # weights 48, 32 * 4 and 16 * 2 of 208
        (0.0, log(4), {"b": 48 / 208, "a": 128 / 208, "c": 32 / 208}),
        (0.5, log(4), {"b": 24 / 208 + 1 / 6, "a": 64 / 208 + 1 / 6, "c": 16 / 208 + 1 / 6}),
        (0.3, 5000.0, {"b": 0.1, "a": 0.8, "c": 0.1}),  # e^5000 is more than a float can hold
    ],
)
def test_chances_weigh_tasks_by_size_and_estimate_above_a_floor(
    gamma: float, beta: float, expected: dict[str, float]
) -> None:
    options = DynamixOptions(gamma=gamma, beta=beta)
    found = chances(CLOCK, {"b": 0.0, "a": 1.0, "c": 0.5}, options)
    assert found == pytest.approx(expected, rel=1e-12)  # a few roundings of 1e-16 each


def test_rewards_are_the_means_of_the_rows_falls_spread_from_0_to_1() -> None:
    # b: 1/2 and 1/10, mean 0.3 (the mean loss falls by 7/30); a rises by a tenth; c stays.
    before = {"b": (10**6, 2 * 10**6), "a": (10**6, 10**6), "c": (3 * 10**6, 10**6)}
    after = {"b": (500_000, 1_800_000), "a": (1_100_000, 1_100_000), "c": (3 * 10**6, 10**6)}
    found = rewards(Trace((), before, after))
    # -0.1 to 0.3: c's 0 is a quarter of the way. Epsilon moves it by less than 1e-7.
    assert found == pytest.approx({"b": 1.0, "a": 0.0, "c": 0.25}, abs=1e-7)
    assert (found["b"], found["a"]) == (1.0, 0.0)


def test_a_task_with_fewer_rows_than_a_batch_counts_as_much() -> None:
    # b's only row falls by 0.2, a's three by 0.1 each, c's two by 0.3 and 0: the middle.
    before = {"b": (10**6,), "a": (10**6,) * 3, "c": (10**6,) * 2}
    after = {"b": (800_000,), "a": (900_000,) * 3, "c": (700_000, 10**6)}
    found = rewards(Trace((), before, after))
    assert found == pytest.approx({"b": 1.0, "a": 0.0, "c": 0.5}, abs=1e-7)


def test_rows_before_and_after_have_to_match() -> None:
    with pytest.raises(ValueError, match="shorter"):
        rewards(Trace((), {"b": (10**6, 10**6)}, {"b": (10**6,)}))


def test_equal_falls_and_a_task_alone_earn_nothing() -> None:
    assert rewards(Trace((), *falling(b=7, a=7))) == {"b": 0.0, "a": 0.0}
    assert rewards(Trace((), *falling(a=7))) == {"a": 0.0}


def test_a_loss_of_zero_is_divided_by_epsilon() -> None:
    # Epsilon is 0.01 millionths. b: (0 - 1) / 0.01 = -100; a: (1 - 51) / 1.01 = -49.50495; c: 0.
    before, after = {"b": (0,), "a": (1,), "c": (0,)}, {"b": (1,), "a": (51,), "c": (0,)}
    found = rewards(Trace((), before, after))
    assert found == pytest.approx({"b": 0.0, "a": 0.5049505, "c": 1.0}, abs=1e-7)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 5000), min_size=1),
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
    st.floats(0, 1),
    st.floats(0, 100),
)
def test_shares_are_whole_millionths_and_add_up(
    sizes: dict[str, int], estimates: list[float], gamma: float, beta: float
) -> None:
    clock, options = Clock(sizes, 8), DynamixOptions(gamma=gamma, beta=beta)
    chance = chances(clock, dict(zip(sizes, estimates, strict=False)), options)
    found = tilted(clock, chance)
    whole = sum(sizes.values())
    drawn = {task: share * sizes[task] / whole * 10**6 for task, share in found.share}
    assert found.iid
    assert found.tasks == tuple(sizes)
    assert all(millionths.denominator == 1 for millionths in drawn.values())
    # each task is off by half a millionth at most, and floats by far less
    assert abs(sum(drawn.values()) - 10**6) <= Fraction(len(sizes), 2) + Fraction(1, 1000)
    assert all(
        drawn[task] >= int(gamma / len(sizes) * 10**6) and abs(drawn[task] - p * 10**6) < 0.501
        for task, p in chance.items()
    )
