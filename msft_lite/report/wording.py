"""How numbers, places and foreign texts are written, in the terminal and in Markdown alike."""

from __future__ import annotations

import re

from msft_lite.report.story import Mark, Standing

_MINUTE, _HOUR = 60, 3600
_SIZES = ("bytes", "KiB", "MiB", "GiB", "TiB")


def visible(text: str) -> str:
    """Returns ``text`` on one line; control characters are spelt out so that none acts."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.replace("\n", " ")
    )


def markdown_text(text: str) -> str:
    """Returns ``text`` so that Markdown shows it as it is: no markup, link, HTML or table cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", visible(text))


def percent(value: float) -> str:
    """Returns a share as ``62.5``."""
    return f"{100 * value:.1f}"


def counted(number: float, noun: str) -> str:
    """Returns a number of things as ``1 task``, ``1,200 steps`` or ``0.25 epochs``."""
    return f"{number:,g} {noun}" if number == 1 else f"{number:,.12g} {noun}s"


def duration(seconds: float) -> str:
    """Returns a time as ``8.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds < _MINUTE - 0.05:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"


def size(size_bytes: int) -> str:
    """Returns an amount of memory as ``1.5 GiB``."""
    amount, unit = float(size_bytes), 0
    while amount >= 1024 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_SIZES[unit]}" if unit else f"{size_bytes} bytes"


def bytes_text(count: int) -> str:
    """Returns ``count`` bytes with three digits and a decimal unit."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def place(mark: Mark | None) -> str:
    """Returns where a mark stands, as ``roll-out 2, mark 5``; None is a dash."""
    if mark is None:
        return "-"
    return "base" if mark.path.steps == 0 else f"roll-out {mark.n}, mark {mark.k}"


def short_place(mark: Mark | None) -> str:
    """Returns where a mark stands, for a narrow column, as ``r2 m5``; None is a dash."""
    if mark is None:
        return "-"
    return "base" if mark.path.steps == 0 else f"r{mark.n} m{mark.k}"


def standing_text(standing: Standing) -> str:
    """Returns what became of a task, in words."""
    if standing.word != "dropped":
        return standing.word
    return f"dropped, peak r{standing.n} m{standing.mark}"
