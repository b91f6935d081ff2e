"""DynamixSFT: a bandit over tasks, rewarded by how much one step on a task lowers its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import exp

from msft_lite.core import (
    MILLION,
    ROOT,
    Clock,
    Method,
    Mixture,
    Point,
    Rollout,
    Trace,
    Verdict,
    best_point,
)

EPSILON = 1e-8  # nats; inferred


@dataclass(frozen=True, slots=True)
class DynamixOptions:
    """Options of `dynamix`; the defaults are the source's.

    Attributes:
        epochs: length, in rows drawn: as many as `sft` draws in that many epochs.
        period: optimizer steps between probes, T.
        beta: how strongly estimates tilt the chances (5 for 8B models in the paper).
        gamma: share of rows that are drawn from all tasks alike.
        alpha: weight of an estimate's past.
    """

    epochs: int = 10
    period: int = 50
    beta: float = 4.0
    gamma: float = 0.3
    alpha: float = 0.95


def dynamix(clock: Clock, options: DynamixOptions) -> Method:
    """Draws every row from a task chosen by `chances`, which follow from probes of all tasks.

    Every ``period`` steps, of every task one mini-batch is taken: the mean over its rows of
    (before - after) / (before + epsilon), where a virtual step on the batch turns each row's loss
    from before into after, is brought to 0 to 1 over the tasks and is the reward that moves the
    task's estimate. Returns the checkpoint with the best mean score.

    Source: Shin et al., DynamixSFT, arXiv 2508.12116, with the constants that Koh et al., arXiv
    2603.21606, use. Inferred: estimates start at 0, epsilon is 1e-8, a probe's batch is as large
    as a training batch and its step is one of the training's optimizer, and a probe that is due
    with the last step is left out, as nothing would follow from it.
    """
    interval = clock.steps_per_mark(Mixture.of(clock.tasks))
    total = interval * clock.epochs(options.epochs)
    estimates = dict.fromkeys(clock.tasks, 0.0)
    seen: list[Point] = []
    head, now = ROOT, 0
    while now < total:
        until = min((now // edge + 1) * edge for edge in (options.period, interval))
        is_probed = until % options.period == 0 and until < total
        trace = yield Rollout(
            head,
            tilted(clock, chances(clock, estimates, options)),
            (until - now,),
            fresh=now == 0,
            score=until % interval == 0,
            keep="best",
            audit="probe" if is_probed else "none",
        )
        seen.extend(trace.points)
        head, now = trace.end.snapshot, until
        if is_probed:
            reward = rewards(trace)
            estimates = {
                task: options.alpha * old + (1 - options.alpha) * reward[task]
                for task, old in estimates.items()
            }
    return Verdict(best_point(seen).snapshot)


def chances(
    clock: Clock, estimates: Mapping[str, float], options: DynamixOptions
) -> dict[str, float]:
    """Returns p_k = (1 - gamma) softmax_k(beta Q_k, weighted by the tasks' sizes) + gamma / K."""
    highest = max(estimates.values())  # so that no exponential overflows
    weights = {
        task: clock.sizes[task] * exp(options.beta * (estimates[task] - highest))
        for task in clock.tasks
    }
    whole, floor = sum(weights.values()), options.gamma / len(weights)
    return {t: (1 - options.gamma) * weight / whole + floor for t, weight in weights.items()}


def tilted(clock: Clock, chance: Mapping[str, float]) -> Mixture:
    """Returns the mixture that draws each task's rows with its chance, to within a millionth."""
    whole = sum(clock.sizes.values())
    return Mixture(
        tuple(
            (task, Fraction(round(chance[task] * MILLION) * whole, MILLION * clock.sizes[task]))
            for task in clock.tasks
        ),
        iid=True,
    )


def rewards(probe: Trace) -> dict[str, float]:
    """Returns each probed task's relative fall of the loss, from 0 for the least to 1."""
    falls = {task: _mean_fall(before, probe.after[task]) for task, before in probe.before.items()}
    least, most = min(falls.values()), max(falls.values())
    return {
        task: (fall - least) / (most - least) if most > least else 0.0
        for task, fall in falls.items()
    }


def _mean_fall(before: tuple[int, ...], after: tuple[int, ...]) -> float:
    pairs = zip(before, after, strict=True)
    falls = [(then - now) / (then + EPSILON * MILLION) for then, now in pairs]
    return sum(falls) / len(falls)
