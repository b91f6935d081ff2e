"""A signal that asks for an end reaches the run whatever has become of its terminal."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from msft_lite.run.stop import SIGNALS, StopFlag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_forces(number: signal.Signals) -> None:
    with StopFlag() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_the_first_signal_ends_what_need_not_be_saved() -> None:
    reached = False
    with StopFlag() as stop:
        with pytest.raises(KeyboardInterrupt), stop.raising():
            signal.raise_signal(signal.SIGTERM)
            reached = True
        assert stop.requested
    assert not reached


def test_a_signal_that_came_before_ends_it_too() -> None:
    reached = False
    with StopFlag() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), stop.raising():
            reached = True
    assert not reached


def test_after_it_a_signal_asks_again() -> None:
    with StopFlag() as stop:
        with stop.raising():
            pass
        signal.raise_signal(signal.SIGINT)
        assert stop.requested


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopFlag():
        assert signal.getsignal(signal.SIGTERM) != before[SIGNALS.index(signal.SIGTERM)]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_end_is_asked_for_where_nobody_reads_the_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as of `2>&1 | tee`, which a hang-up ends too
    with os.fdopen(writing, "w") as closed, StopFlag() as stop:
        monkeypatch.setattr(sys, "__stderr__", closed)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
