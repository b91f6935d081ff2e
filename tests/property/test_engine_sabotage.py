"""Weights that are not the trainer's stop a run: every fault is put into the real engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from msft_lite.engine.base import EvalEngine
from msft_lite.engine.canary import Canary
from msft_lite.engine.dequantised import DequantisedBase
from msft_lite.engine.merged import MergingEngine
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine
from msft_lite.errors import EngineError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import ModelSettings, capture, load_model
from msft_lite.model.weights import Weights
from tests.both_engines import canary, moved, torch_engine, vllm_settings

NOT_OURS = "the engine's weights are not the trainer's: at snapshot new"
NOT_TAKEN = "the engine did not take the weights of snapshot new"


@dataclass(frozen=True, slots=True)
class Side:
    """What answers, the trainer's model, and the switch for faults."""

    engine: EvalEngine
    model: torch.nn.Module
    fault: Callable[[str], object]


@pytest.fixture(scope="module")
def engines(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmEngine, VllmEngine, Path]]:
    """One for adapters and one for whole models, whose process can be given faults."""
    folder = tmp_path_factory.mktemp("sabotage")
    fault = folder / "fault"
    fault.write_text("")
    lora = adapter_config(load_model(ModelSettings(str(tiny_model_folder)), seed=1))
    with pytest.MonkeyPatch.context() as patch:
        worker = Path(__file__).with_name("sabotaged_worker.py")
        patch.setattr("msft_lite.engine.vllm_engine.WORKER", worker)
        full = replace(
            vllm_settings(tiny_model_folder, folder / "whole.log"),
            environment={**os.environ, "MSFT_LITE_SABOTAGE": str(fault)},
        )
        adapters = VllmEngine(replace(full, log_path=folder / "adapters.log", adapter=lora))
        whole = VllmEngine(full)
    yield adapters, whole, fault
    adapters.close()
    whole.close()


@pytest.fixture(params=["lora", "full", "dora"])
def side(
    request: pytest.FixtureRequest,
    engines: tuple[VllmEngine, VllmEngine, Path],
    tiny_model_folder: Path,
) -> Iterator[Side]:
    adapters, whole, fault = engines
    base = str(tiny_model_folder)
    if request.param == "lora":
        model = load_model(ModelSettings(base), seed=1)
        yield Side(adapters, model, fault.write_text)
    elif request.param == "full":
        model = load_model(ModelSettings(base, tuning="full"), seed=1)
        yield Side(whole, model, fault.write_text)
    else:
        model = load_model(ModelSettings(base, use_dora=True), seed=1)
        yield Side(MergingEngine(whole, model), model, fault.write_text)
    fault.write_text("")


def evaluate(engine: EvalEngine, trainer: TorchEngine, bird: Canary, weights: Weights) -> None:
    """Does what a run does before it asks anything."""
    trainer.swap(weights, "new")
    with engine.awake():
        engine.swap(weights, "new")
        bird.check(engine, "new")


FAULTS = [
    *((kind, "stale prefixes", NOT_OURS) for kind in ("lora", "full", "dora")),
    ("lora", "old adapter", NOT_OURS),
    ("lora", "half an adapter", NOT_OURS),
    ("full", "old weights", NOT_TAKEN),
    ("full", "half the weights", NOT_TAKEN),
    # On a CPU the engine packs what an adapter changes, so no bits of it can be compared.
    ("dora", "old weights", NOT_OURS),
    ("dora", "half the weights", NOT_OURS),
]


@pytest.mark.parametrize(("side", "fault", "says"), FAULTS, indirect=["side"])
def test_a_fault_in_the_engine_stops_the_run(side: Side, fault: str, says: str) -> None:
    trainer, root = torch_engine(side.model), capture(side.model)
    bird = canary(trainer)
    evaluate(side.engine, trainer, bird, moved(root, 1))
    side.fault(fault)
    with pytest.raises(EngineError, match=says):
        evaluate(side.engine, trainer, bird, moved(root, 2))
    side.fault("")
    evaluate(side.engine, trainer, bird, moved(root, 2))


@pytest.mark.parametrize("fault", ["old weights", "half the weights"])
@pytest.mark.parametrize("side", ["full"], indirect=True)
def test_the_canary_sees_it_too_where_no_bits_are_compared(
    side: Side, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, root = torch_engine(side.model), capture(side.model)
    bird = canary(trainer)
    evaluate(side.engine, trainer, bird, moved(root, 1))
    side.fault(fault)
    monkeypatch.setattr("msft_lite.engine.bit_check.BitCheck.check", lambda *_: None)
    with pytest.raises(EngineError, match=NOT_OURS):
        evaluate(side.engine, trainer, bird, moved(root, 2))


@pytest.mark.parametrize("side", ["lora", "full"], indirect=True)
def test_other_weights_than_the_trainers_are_seen(side: Side) -> None:
    trainer, root = torch_engine(side.model), capture(side.model)
    bird = canary(trainer)
    evaluate(side.engine, trainer, bird, moved(root, 1))
    side.engine.swap(moved(root, 2), "new")
    with pytest.raises(EngineError, match=NOT_OURS):
        bird.check(side.engine, "new")


@pytest.mark.parametrize("side", ["lora"], indirect=True)
def test_the_unquantised_base_under_an_adapter_of_the_4_bit_one_is_seen(
    side: Side, tiny_model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    four_bit = load_model(ModelSettings(str(tiny_model_folder), load_in_4bit=True), seed=1)
    trainer = torch_engine(four_bit)
    for weights in (capture(four_bit), moved(capture(four_bit), 1)):
        with pytest.raises(EngineError, match=NOT_OURS):
            evaluate(side.engine, trainer, canary(trainer), weights)
    assert isinstance(side.engine, VllmEngine)
    base = DequantisedBase(four_bit, tiny_model_folder, fallback=tmp_path)
    with pytest.raises(EngineError, match=f"another base .* it has loaded {tiny_model_folder}"):
        base.check(side.engine._ask, side.engine.introduction["model"])
    base.remove()


@pytest.mark.parametrize("side", ["lora"], indirect=True)
def test_a_base_that_was_changed_a_little_is_seen(side: Side, tiny_model_folder: Path) -> None:
    changed = load_model(ModelSettings(str(tiny_model_folder)), seed=1)
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            if name.endswith("v_proj.base_layer.weight"):
                parameter.mul_(1.001)
    trainer = torch_engine(changed)
    with pytest.raises(EngineError, match=NOT_OURS):
        evaluate(side.engine, trainer, canary(trainer), moved(capture(changed), 1))
