"""From values to places on a picture: spans, round ticks, and the axes of a panel."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from msft_lite.report.page.svg import Element, Place, line, words

PANEL_WIDTH, PANEL_HEIGHT = 360.0, 232.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 348.0, 34.0, 188.0
_STEPS = (1.0, 2.0, 5.0, 10.0)
_CHARACTER_WIDTH = 0.56  # of the size of the letters: a mean of sans-serif faces, rather wide


@dataclass(frozen=True, slots=True)
class Span:
    """Maps values ``low`` to ``high`` linearly onto places ``begin`` to ``end``."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Returns the place of ``value``."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


@dataclass(frozen=True, slots=True)
class Frame:
    """The rectangle that curves are drawn in."""

    x: Span
    y: Span

    def at(self, x: float, y: float) -> Place:
        """Returns the place of a pair of values."""
        return self.x.at(x), self.y.at(y)


def padded(values: Iterable[float], *, share: float = 0.06) -> tuple[float, float]:
    """Returns lowest and highest of ``values`` with some room; never an empty stretch."""
    found = tuple(values) or (0.0, 1.0)
    low, high = min(found), max(found)
    room = (high - low) * share or abs(high) * share or 0.5
    return low - room, high + room


def panel_frame(x: tuple[float, float], y: tuple[float, float]) -> Frame:
    """Returns the frame of a panel for those ranges; the range of ``x`` may be empty."""
    x_high = x[1] if x[1] > x[0] else x[0] + 1.0
    room = 0.02 * (x_high - x[0])
    return Frame(
        Span(x[0] - room, x_high + room, _LEFT, _RIGHT),
        Span(y[0], y[1], _BOTTOM, _TOP),
    )


def round_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Returns at most ``most`` + 1 multiples of 1, 2 or 5 times a power of ten, from low to high.

    Where a stretch is so short beside its values that no two ticks differ, it is the one tick.
    """
    size = (high - low) / most
    power = 10.0 ** math.floor(math.log10(size))
    step = next(power * factor for factor in _STEPS if power * factor >= size * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(k * step for k in range(first, last + 1)) or (low,)


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Returns the ticks as texts, all with as many digits behind the point as they need."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    texts = [f"{tick:,.{digits}f}" for tick in ticks]
    return [text[1:] if text.startswith("-") and float(text) == 0 else text for text in texts]


def text_width(text: str, size: float) -> float:
    """Returns about how wide ``text`` is drawn; wide scripts are counted double."""
    return sum(2.0 if ord(c) > 0x2E7F else 1.0 for c in text) * size * _CHARACTER_WIDTH


def panel_axes(
    frame: Frame,
    *,
    x_label: str,
    y_label: str,
    y_ticks: tuple[float, ...] = (),
    x_texts: dict[float, str] | None = None,
) -> list[Element]:
    """Returns grid lines, ticks with their numbers, and what the axes mean.

    Args:
        frame: where values lie.
        x_label: quantity and unit along the bottom.
        y_label: quantity and unit, written over the axis so that it needs no turned head.
        y_ticks: values to mark; without them round ones are chosen.
        x_texts: what stands at which value; without it round numbers are chosen.
    """
    left, right, bottom = frame.x.begin, frame.x.end, frame.y.begin
    y_ticks = y_ticks or round_ticks(frame.y.low, frame.y.high, 5)
    if x_texts is None:
        x_ticks = round_ticks(max(0.0, frame.x.low), frame.x.high, 8)
        x_texts = dict(zip(x_ticks, tick_texts(x_ticks), strict=True))
    parts = [words((2, 11), y_label, "axis-label")]
    for value, text in zip(y_ticks, tick_texts(y_ticks), strict=True):
        y = frame.y.at(value)
        parts.append(line((left, y), (right, y), "grid"))
        parts.append(words((left - 5, y + 3.5), text, "tick", anchor="end"))
    parts.append(line((left, bottom), (right, bottom), "axis"))
    for value, text in x_texts.items():
        x = frame.x.at(value)
        parts.append(line((x, bottom), (x, bottom + 4), "axis"))
        parts.append(words((x, bottom + 15), text, "tick", anchor="middle"))
    middle = (left + right) / 2
    parts.append(words((middle, bottom + 32), x_label, "axis-label", anchor="middle"))
    return parts
