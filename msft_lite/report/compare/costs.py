"""What a run took, as far as its ledger says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msft_lite.report.story import Story


@dataclass(frozen=True, slots=True)
class Costs:
    """What one run took, or several in the mean; None where no ledger row says it.

    Attributes:
        training_flops: model FLOPs of every optimizer step, rolled-back ones too.
        recompute_flops: of activations that were computed a second time, counted apart.
        probe_flops: FLOPs of losses that a method asked for beside its steps.
        evaluation_flops: FLOPs of reading and generating to score.
        evaluations: snapshots scored.
        seconds: by kind.
        peak_disk_bytes: most that snapshots and crash copy held at an evaluation.
        copies: bytes held over bytes of one model, in the mean over the evaluations.
    """

    training_flops: float | None
    recompute_flops: float | None
    probe_flops: float | None
    evaluation_flops: float | None
    trained_tokens: float
    evaluations: float
    seconds: Mapping[str, float]
    peak_disk_bytes: float | None
    copies: float | None

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def spent_flops(self) -> float | None:
        """FLOPs of steps and probes together; None where either is unknown."""
        if self.training_flops is None or self.probe_flops is None:
            return None
        return self.training_flops + self.probe_flops


CostReader = Callable[[Story], Costs]


def costs_of(story: Story) -> Costs:
    """Returns what ``story`` took; of an old ledger without rates or sizes some of it is None."""
    totals = story.totals()
    flops = totals.flops
    return Costs(
        training_flops=None if flops is None else float(flops.model),
        recompute_flops=None if flops is None else float(flops.recompute),
        probe_flops=None if flops is None else float(flops.probe),
        evaluation_flops=None if flops is None else float(flops.evaluation),
        trained_tokens=float(totals.spending.trained.tokens),
        evaluations=float(totals.evaluations),
        seconds=totals.spending.seconds,
        peak_disk_bytes=float(totals.disk_bytes) if totals.disk_bytes else None,
        copies=totals.copies,
    )


def mean_costs(costs: Sequence[Costs]) -> Costs:
    """Returns the mean of every number, unknown where one of them is."""
    kinds = sorted({kind for each in costs for kind in each.seconds})
    return Costs(
        training_flops=_known_mean(each.training_flops for each in costs),
        recompute_flops=_known_mean(each.recompute_flops for each in costs),
        probe_flops=_known_mean(each.probe_flops for each in costs),
        evaluation_flops=_known_mean(each.evaluation_flops for each in costs),
        trained_tokens=_mean([each.trained_tokens for each in costs]),
        evaluations=_mean([each.evaluations for each in costs]),
        seconds={kind: _mean([c.seconds.get(kind, 0.0) for c in costs]) for kind in kinds},
        peak_disk_bytes=_known_mean(each.peak_disk_bytes for each in costs),
        copies=_known_mean(each.copies for each in costs),
    )


def _known_mean(values: Iterable[float | None]) -> float | None:
    given = list(values)
    known = [value for value in given if value is not None]
    return _mean(known) if len(known) == len(given) else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
