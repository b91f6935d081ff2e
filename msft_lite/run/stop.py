"""Ends a run soon and safely on Ctrl-C, a termination signal or a terminal that is closed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STREAMS = (1, 2)
NOTICE = (
    b"\nstopping after the step in progress, once everything is saved; once more to stop at once "
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
        self._raises = False
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

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Lets the first signal end what is done in the context, where nothing has to be saved.

        Raises:
            KeyboardInterrupt: a signal came, or had come before.
        """
        self._raises = True
        try:
            if self.requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
        is_first, self.requested = not self.requested, True
        if is_first:
            # Not by print: the signal may have come in the middle of one, which cannot be entered
            # twice.
            with contextlib.suppress(OSError):  # nobody may be there to read it
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, NOTICE)
        if self._raises or not is_first:
            raise KeyboardInterrupt

    def _leave_terminal(self) -> None:
        """Sends to nowhere what would be printed on a terminal that is gone, and fail."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)
