"""Ends a run at a safe point on Ctrl-C or a termination signal."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = (
    b"\nstopping at the next mark, where everything is saved; once more to stop at once "
    b"(the work since the last mark is then repeated)\n"
)


class StopFlag:
    """A context in which the first signal asks for an end and the second one forces it.

    Attributes:
        requested: whether a signal has come.
    """

    def __init__(self) -> None:
        """Takes no signal yet."""
        self.requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopFlag:
        """Takes over the signals."""
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not by print: the signal may have come in the middle of one, which cannot be entered
        # twice.
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, NOTICE)
