"""A signal that asks for an end reaches the run whatever has become of its terminal."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from msft_lite.run.stop import StopFlag


def test_an_end_is_asked_for_where_nobody_reads_the_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as of `2>&1 | tee`, which a hang-up ends too
    with os.fdopen(writing, "w") as closed, StopFlag() as stop:
        monkeypatch.setattr(sys, "__stderr__", closed)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
