"""The check that the engine runs the trainer's weights, made after every swap.

Nearly everything that can go wrong between two implementations of a model is silent: an adapter
that is not applied, a stale prefix cache, a tied head that stays old, another base. In float32 all
of it is seen on a few fixed probes, as rounding alone moves log probabilities by millionths.

In half precision it sees less. Rounding there moves them by 0.012 in the mean, and by 0.04 on an
unlucky set of probes; full tuning at a learning rate of 1e-5 moves them by 0.005 to 0.010 from one
mark to the next. So one swap that the engine missed passes unseen, and so does an adapter that has
hardly learned; what moves them by a tenth does not, and a trained adapter moved them by 2.5.
That a swap of full weights arrived is therefore checked bit by bit too, see `bit_check`; an adapter
answers under a number of its own, which the engine does not have if the swap was missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msft_lite.engine.base import EvalEngine, Prompt
from msft_lite.errors import EngineError

PROBE_NEW_TOKENS = 16
LogProbabilities = Callable[
    [Sequence[tuple[tuple[int, ...], tuple[int, ...]]]], Sequence[Sequence[float]]
]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far apart trainer and engine are: absolute differences of log probabilities."""

    mean: float
    largest: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The differences that rounding may make.

    The first check is held against the ceilings; every later one against ``factor`` times the
    first, though never against less than the floors or more than the ceilings.
    """

    mean_floor: float
    mean_ceiling: float
    largest_floor: float
    largest_ceiling: float
    factor: float = 4.0

    def limits(self, first: Agreement | None) -> tuple[float, float]:
        """Returns the largest mean and the largest single difference that pass."""
        if first is None:
            return self.mean_ceiling, self.largest_ceiling
        return (
            min(self.mean_ceiling, max(self.mean_floor, self.factor * first.mean)),
            min(self.largest_ceiling, max(self.largest_floor, self.factor * first.largest)),
        )


# Measured between vLLM and transformers on small models. float32: 4e-6 at most.
FLOAT32 = Tolerance(mean_floor=1e-4, mean_ceiling=1e-4, largest_floor=1e-3, largest_ceiling=1e-3)
# On a GPU kernels of attention may multiply in TF32, 10 bits instead of 23. Not yet measured on a
# GPU: an estimate, therefore wide, and narrowed by the first check.
FLOAT32_CUDA = Tolerance(
    mean_floor=2e-3, mean_ceiling=1e-2, largest_floor=2e-2, largest_ceiling=1e-1
)
# bfloat16, about what separates the sdpa and eager attention of transformers. Of 96 sets of probes
# the mean was 0.01 in the middle and 0.04 at most, the largest 0.07 and 0.32, and of 1,500 tokens
# together 0.78. An alarm ends a run, so the floors are twice that: a false one would be worse than
# what they let through.
HALF = Tolerance(mean_floor=0.08, mean_ceiling=0.15, largest_floor=0.75, largest_ceiling=1.5)


def tolerance_of(dtype: str, device: str = "cpu") -> Tolerance:
    """Returns the tolerance for the rounding of trainer and engine.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: as torch names it, ``cuda:0`` say.
    """
    if dtype != "float32":
        return HALF
    return FLOAT32_CUDA if device.startswith("cuda") else FLOAT32


class Canary:
    """Fixed probes that go through engine and trainer after every swap.

    The engine completes each probe as it completes any prompt, so through its prefix cache: give
    probes of 64 tokens and more, or a stale cache stays hidden behind its block size.
    """

    def __init__(
        self,
        probes: Sequence[tuple[int, ...]],
        *,
        tolerance: Tolerance,
        log_probabilities: LogProbabilities,
    ) -> None:
        """Keeps the probes.

        Args:
            probes: token ids of prompts.
            log_probabilities: the trainer's own, by a plain forward pass, of the continuation in
                each (prompt, continuation), under the weights that the engine was just given.
        """
        self._probes = [Prompt(ids, PROBE_NEW_TOKENS) for ids in probes]
        self._tolerance = tolerance
        self._log_probabilities = log_probabilities
        self._first: Agreement | None = None

    def check(self, engine: EvalEngine, label: str) -> Agreement:
        """Returns the agreement under the weights ``label``.

        Raises:
            EngineError: engine and trainer differ by more than rounding.
        """
        completions = engine.complete(self._probes, log_probabilities=True)
        pairs = zip(self._probes, completions, strict=True)
        expected = self._log_probabilities([(probe.ids, one.ids) for probe, one in pairs])
        agreement = _compare(expected, [one.log_probabilities for one in completions])
        mean_limit, largest_limit = self._tolerance.limits(self._first)
        # Written so that NaN fails.
        if not (agreement.mean <= mean_limit and agreement.largest <= largest_limit):
            raise EngineError(
                f"the engine's weights are not the trainer's: at snapshot {label} their log "
                f"probabilities of {agreement.tokens} tokens differ by {agreement.mean:.2g} in the "
                f"mean (limit {mean_limit:.2g}) and by {agreement.largest:.2g} at most (limit "
                f"{largest_limit:.2g}). No score of this engine can be trusted: use the torch "
                f"engine, or another version than this of {engine.name}"
            )
        self._first = self._first or agreement
        return agreement


def _compare(expected: Sequence[Sequence[float]], found: Sequence[Sequence[float]]) -> Agreement:
    differences = [
        abs(ours - theirs)
        for one, other in zip(expected, found, strict=True)
        for ours, theirs in zip(one, other, strict=True)
    ]
    if not differences or any(math.isnan(difference) for difference in differences):
        return Agreement(math.nan, math.nan, len(differences))
    return Agreement(sum(differences) / len(differences), max(differences), len(differences))
