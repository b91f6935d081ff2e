"""How a command ends: errors become one message on standard error and an exit code."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from msft_lite.errors import Interrupted, MsftError
from msft_lite.run.stop import SIGNALS

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130
BUG_FRAMES = 4


@contextmanager
def told_errors() -> Iterator[None]:
    """Turns errors into one message on standard error and an exit code.

    A user's error ends with code 2, an interruption with 130, anything else is a bug: 1.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as error:
        for number in SIGNALS:  # the process ends by itself; a further one would only garble that
            signal.signal(number, signal.SIG_IGN)
        _say(str(error) or "interrupted", "yellow")
        raise typer.Exit(INTERRUPTED) from None
    except MsftError as error:
        _say(f"error: {error}", "red")
        raise typer.Exit(USER_ERROR) from None
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise
    except Exception as error:
        frames = "".join(traceback.format_exception(error, limit=-BUG_FRAMES))
        _say(f"{frames}This is a bug in msft-lite. Please report it with the lines above.", "red")
        raise typer.Exit(BUG) from None


def _say(text: str, colour: str) -> None:
    # Neither wrapped nor marked up: paths and values must stay whole, brackets and all.
    Console(stderr=True).print(text, style=colour, soft_wrap=True, markup=False, highlight=False)
