"""Instance-dependent early stopping: rows whose loss has stopped bending are left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from msft_lite.core import (
    MILLION,
    ROOT,
    Clock,
    Method,
    Mixture,
    Point,
    Rollout,
    RowId,
    Verdict,
    best_point,
)

Losses = Mapping[str, Sequence[int]]  # of every training row, per task, in millionths


@dataclass(frozen=True, slots=True)
class IesOptions:
    """Options of `ies`.

    Attributes:
        epochs: length; an epoch passes over the rows that are not mastered.
        delta: a row is mastered while its loss bends less, in nats (1e-3 to 1e-1 were swept).
    """

    epochs: int = 10
    delta: float = 0.01


def ies(clock: Clock, options: IesOptions) -> Method:
    """Trains every epoch on the rows that are not mastered; returns the best mean checkpoint.

    Row i is mastered after epoch t if |L_t - 2 L_(t-1) + L_(t-2)| < delta, L being its mean loss
    of an answer token. After every epoch that is computed anew for every row, left out or not, so
    rows come back. One optimizer goes through.

    Source: Yuan et al., ICLR 2025, arXiv 2502.07547, Algorithm 1, without smoothing. Ours: losses
    are taken after an epoch without dropout, so the first row can be left out in the fourth epoch;
    training ends early when so few rows are left that an optimizer step might get none.
    """
    mixture = Mixture.of(clock.tasks)
    head = ROOT
    seen: list[Point] = []
    past: list[Losses] = []
    for epoch in range(1, options.epochs + 1):
        trace = yield Rollout(
            head,
            mixture,
            clock.marks(mixture, clock.marks_per_epoch),
            fresh=epoch == 1,
            keep="best",
            audit="pool" if epoch < options.epochs else "none",
        )
        seen.extend(trace.points)
        head = trace.end.snapshot
        past = [*past[-2:], trace.after]
        mixture = Mixture(mixture.share, skip=frozenset(mastered(past, options.delta)))
        if mixture.skip and not has_rows_for_every_step(clock, mixture):
            note = f"ended after {epoch} epochs, as next to all rows were mastered"
            return Verdict(best_point(seen).snapshot, note=note)
    return Verdict(best_point(seen).snapshot)


def has_rows_for_every_step(clock: Clock, mixture: Mixture) -> bool:
    """Returns whether every optimizer step of ``mixture`` is sure to get a row."""
    left = clock.rows_left(mixture).values()
    return sum(rows // clock.marks_per_epoch for rows in left) >= clock.steps_per_mark(mixture)


def mastered(past: Sequence[Losses], delta: float) -> Iterator[RowId]:
    """Yields the rows whose losses after the last three epochs bend by less than ``delta``.

    Args:
        past: losses after the latest epochs, the last one last; nothing is mastered before three.
        delta: in nats.
    """
    if len(past) < 3:
        return
    before, middle, now = past[-3:]
    limit = Fraction(str(delta)) * MILLION
    for task, rows in now.items():
        for row, loss in enumerate(rows):
            if abs(loss - 2 * middle[task][row] + before[task][row]) < limit:
                yield task, row
