from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest

from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.canary import FLOAT32, FLOAT32_CUDA, HALF, Agreement, Canary, tolerance_of
from msft_lite.errors import EngineError
from msft_lite.model.weights import Weights

PROBES = [(1, 2, 3), (4, 5)]
TRUTH = -1.0


class OffBy:
    """An engine whose log probabilities are wrong by what is set."""

    name = "off"
    notices: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.errors: tuple[float, float] = (0.0, 0.0)

    def ready(self) -> bool:
        return True

    def awake(self) -> AbstractContextManager[None]:
        return nullcontext()

    def swap(self, weights: Weights, label: str) -> None:
        pass

    def complete(
        self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
    ) -> list[Completion]:
        assert log_probabilities
        assert [prompt.ids for prompt in prompts] == PROBES
        values = tuple(TRUTH + error for error in self.errors)
        return [Completion((7, 8), values) for _ in prompts]

    def close(self) -> None:
        pass


def trainer(
    sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> list[list[float]]:
    assert [prompt for prompt, _ in sequences] == PROBES
    return [[TRUTH] * len(continuation) for _, continuation in sequences]


def canary(dtype: str) -> Canary:
    return Canary(PROBES, tolerance=tolerance_of(dtype), log_probabilities=trainer)


def test_the_agreement_is_returned() -> None:
    engine = OffBy()
    engine.errors = (1e-5, -3e-5)
    agreement = canary("float32").check(engine, "root")
    assert agreement.tokens == 4
    assert agreement.mean == pytest.approx(2e-5)
    assert agreement.largest == pytest.approx(3e-5)


@pytest.mark.parametrize("errors", [(0.002, 0.0), (0.0003, 0.0003), (math.nan, 0.0), (math.inf, 0)])
def test_in_float32_more_than_rounding_is_refused(errors: tuple[float, float]) -> None:
    engine = OffBy()
    engine.errors = errors
    with pytest.raises(EngineError, match="not the trainer's: at snapshot s4 .* of 4 tokens"):
        canary("float32").check(engine, "s4")


def test_in_half_precision_the_first_check_sets_the_limit() -> None:
    engine, bird = OffBy(), canary("bfloat16")
    engine.errors = (0.04, 0.0)
    bird.check(engine, "root")
    engine.errors = (0.08, 0.07)
    bird.check(engine, "s1")
    engine.errors = (0.09, 0.09)
    with pytest.raises(EngineError, match=r"by 0.09 in the mean \(limit 0.08\)"):
        bird.check(engine, "s2")


@pytest.mark.parametrize(("errors", "limit"), [((1.1, -1.1), "0.15"), ((0.2, 0.2), "0.15")])
def test_a_first_check_above_the_ceiling_is_refused(
    errors: tuple[float, float], limit: str
) -> None:
    engine = OffBy()
    engine.errors = errors
    with pytest.raises(EngineError, match=f"limit {limit}"):
        canary("bfloat16").check(engine, "root")


def test_float32_on_a_gpu_may_multiply_with_fewer_bits() -> None:
    assert tolerance_of("float32") == tolerance_of("float32", "cpu") == FLOAT32
    assert tolerance_of("float32", "cuda") == tolerance_of("float32", "cuda:1") == FLOAT32_CUDA
    assert tolerance_of("bfloat16", "cuda") == tolerance_of("bfloat16") == HALF
    assert FLOAT32_CUDA.limits(None) == (1e-2, 1e-1)
    assert FLOAT32_CUDA.limits(Agreement(1e-6, 1e-6, 9)) == (2e-3, 2e-2)


def test_limits_stay_between_floor_and_ceiling() -> None:
    assert HALF.limits(None) == (0.15, 1.5)
    assert HALF.limits(Agreement(0.0, 0.0, 9)) == (0.08, 0.75)
    assert HALF.limits(Agreement(0.03, 0.2, 9)) == (0.12, 0.8)
    assert HALF.limits(Agreement(0.1, 0.9, 9)) == (0.15, 1.5)
    assert FLOAT32.limits(Agreement(5e-5, 5e-4, 9)) == FLOAT32.limits(None) == (1e-4, 1e-3)


def test_without_a_token_nothing_is_proved() -> None:
    empty = Canary([], tolerance=HALF, log_probabilities=lambda _: [])

    class Silent(OffBy):
        def complete(
            self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
        ) -> list[Completion]:
            return []

    with pytest.raises(EngineError, match="of 0 tokens"):
        empty.check(Silent(), "root")
