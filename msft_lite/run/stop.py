"""Ends a run at a safe point on Ctrl-C, a termination signal or a terminal that is closed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STREAMS = (1, 2)
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
        self._terminals: tuple[int, ...] = ()

    def __enter__(self) -> StopFlag:
        """Takes over the signals; SIGHUP stays ignored where it is, as `nohup` wants it."""
        self._terminals = tuple(number for number in STREAMS if os.isatty(number))
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
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
        if number == signal.SIGHUP:
            self._leave_terminal()
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not by print: the signal may have come in the middle of one, which cannot be entered
        # twice.
        with contextlib.suppress(OSError):  # nobody may be there to read it
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, NOTICE)

    def _leave_terminal(self) -> None:
        """Sends to nowhere what would be printed on a terminal that is gone, and fail."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)
