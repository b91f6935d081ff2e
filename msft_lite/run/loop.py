"""The whole control loop of every method."""

from __future__ import annotations

from collections.abc import Callable

from msft_lite.core import Method, Record, Rollout, Trace, Verdict


def drive(method: Method, execute: Callable[[Rollout], Trace], record: Record) -> Verdict:
    """Runs ``method`` to its end, answering from ``record`` what it already holds.

    Only the method can end the loop: a StopIteration out of ``execute`` is an error like any
    other and is not mistaken for a verdict.
    """
    reply: Trace | None = None
    while True:
        try:
            request = next(method) if reply is None else method.send(reply)
        except StopIteration as done:
            record.conclude(done.value)
            return done.value
        reply = record.recall(request) or execute(request)
