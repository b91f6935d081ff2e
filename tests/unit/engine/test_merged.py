"""An adapter that reaches an engine of full weights merged, and leaves the trainer as it was."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch

from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.merged import MergingEngine
from msft_lite.errors import EngineError
from msft_lite.model.dense import dense_tensors
from msft_lite.model.load import ModelSettings, apply, capture, load_model
from msft_lite.model.weights import Weights


class FullEngine:
    """An engine that keeps what it is given."""

    name = "full"
    notices: tuple[str, ...] = ("a notice",)

    def __init__(self) -> None:
        self.given: dict[str, torch.Tensor] = {}
        self.label = ""
        self.closed = 0

    def ready(self) -> bool:
        return True

    def awake(self) -> AbstractContextManager[None]:
        return nullcontext()

    def swap(self, weights: Weights, label: str) -> None:
        assert weights.kind == "full"
        self.given, self.label = dict(weights.tensors), label

    def complete(
        self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
    ) -> list[Completion]:
        return [Completion(prompt.ids, (0.5,) * log_probabilities) for prompt in prompts]

    def close(self) -> None:
        self.closed += 1


def moved(weights: Weights) -> Weights:
    torch.manual_seed(3)
    return Weights(
        weights.kind, {n: t + 0.1 * torch.randn_like(t) for n, t in weights.tensors.items()}
    )


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_the_engine_gets_the_merge_of_the_given_weights(
    tiny_model_folder: Path, load_in_4bit: bool
) -> None:
    if load_in_4bit:
        pytest.importorskip("bitsandbytes")
    settings = ModelSettings(str(tiny_model_folder), use_dora=True, load_in_4bit=load_in_4bit)
    model, inner = load_model(settings, seed=1), FullEngine()
    before, given = capture(model), moved(capture(model))
    MergingEngine(inner, model).swap(given, "s1")
    after = capture(model)
    assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)
    apply(model, given)
    wanted = dense_tensors(model, merged=True)
    assert inner.given.keys() == wanted.keys()
    assert all(torch.equal(inner.given[name], wanted[name]) for name in wanted)
    assert inner.label == "s1"


def test_the_rest_is_the_engines(tiny_model_folder: Path) -> None:
    model, inner = (
        load_model(ModelSettings(str(tiny_model_folder), use_dora=True), seed=1),
        FullEngine(),
    )
    engine = MergingEngine(inner, model)
    assert (engine.name, engine.notices, engine.ready()) == ("full", ("a notice",), True)
    with engine.awake():
        assert engine.complete([Prompt((1, 2), 3)]) == [Completion((1, 2))]
        answer = engine.complete([Prompt((1,), 3)], log_probabilities=True)
        assert answer == [Completion((1,), (0.5,))]
    engine.close()
    assert inner.closed == 1


def test_weights_of_another_adapter_are_refused(tiny_model_folder: Path) -> None:
    model, inner = (
        load_model(ModelSettings(str(tiny_model_folder), use_dora=True), seed=1),
        FullEngine(),
    )
    lora = capture(load_model(ModelSettings(str(tiny_model_folder)), seed=1))
    with pytest.raises(EngineError, match=r"s1 does not fit .* only the model has .*magnitude"):
        MergingEngine(inner, model).swap(lora, "s1")
    assert inner.given == {}
