"""How scores of a metric are written: accuracies in %, losses with their sign turned back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msft_lite.report.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Scale:
    """How values of one kind are written.

    Attributes:
        unit: stands in headings: ``Base %``, ``Base loss``.
        factor: what a value is multiplied by; a loss is recorded with its sign turned.
        digits: behind the point.
        note: what a reader has to know; empty if nothing.
    """

    unit: str
    factor: float
    digits: int
    note: str = ""

    def text(self, value: float) -> str:
        """Returns a value as ``62.5``."""
        return f"{self.factor * value:.{self.digits}f}"

    def interval(self, estimate: Estimate) -> str:
        """Returns a value and its interval as ``62.5 [55.6, 68.9]``."""
        low, high = sorted((self.factor * estimate.low, self.factor * estimate.high))
        return f"{self.text(estimate.value)} [{low:.{self.digits}f}, {high:.{self.digits}f}]"

    def difference(self, estimate: Estimate) -> str:
        """Returns a difference as ``+3.5 [-1.0, +8.0]``."""
        low, high = sorted((self.factor * estimate.low, self.factor * estimate.high))
        value, low_text, high_text = (
            self._signed(x) for x in (self.factor * estimate.value, low, high)
        )
        return f"{value} [{low_text}, {high_text}]"

    def _signed(self, value: float) -> str:
        text = f"{value:+.{self.digits}f}"
        return text[1:] if float(text) == 0 else text


PERCENT = Scale("%", 100.0, 1)
F1 = Scale("F1", 100.0, 1)
LOSS = Scale("loss", -1.0, 4, "The loss is in nats per answer token: lower is better.")
OWN = Scale("score", 1.0, 3)
_SCALES = {"accuracy": PERCENT, "f1": F1, "loss": LOSS}


def scale_of(metrics: Iterable[str]) -> Scale:
    """Returns the scale for values of all of ``metrics``, or for their mean.

    Metrics of several kinds share the plain one, from 0 to 1.
    """
    scales = {_SCALES.get(metric, OWN) for metric in metrics}
    return scales.pop() if len(scales) == 1 else OWN
