"""Ends a run at a safe point on Ctrl-C or a termination signal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """A context in which the first signal asks for an end and the second one forces it.

    Attributes:
        requested: whether a signal has come.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Takes the function that tells the user what happens next."""
        self.requested = False
        self._say = say
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
        self._say(
            "stopping at the next mark, where everything is saved; "
            "once more to stop at once (the work since the last mark is then repeated)"
        )
