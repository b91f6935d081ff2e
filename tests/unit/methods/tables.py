"""Replies to methods as tables, and how a method is brought to its end."""

from __future__ import annotations

import pytest

from msft_lite.core import Method, Point, Score, Trace, Verdict


def reply(snapshots: str, **columns: str) -> Trace:
    """A trace of the marks named; a digit a mark and task: rows right of ten."""
    return Trace(
        tuple(
            Point(k, name, {t: Score("1" * int(d[k]) + "0" * (10 - int(d[k]))) for t, d in table})
            for table in [list(columns.items())]
            for k, name in enumerate(snapshots.split())
        )
    )


def verdict_of(method: Method, last: Trace) -> Verdict:
    """What the method returns once it is sent its last reply."""
    with pytest.raises(StopIteration) as done:
        method.send(last)
    return done.value.value
