"""When the engine sleeps: its tensors are compared only while they are there and mean something."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from msft_lite.engine import vllm_engine
from msft_lite.engine.bit_check import Ask
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import EngineError
from msft_lite.model.weights import Weights

ADAPTER = {"r": 4, "lora_alpha": 4}
LAYER = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


class Sleeper:
    """Stands in for the engine's process on a GPU, whose memory goes when it sleeps."""

    def __init__(self, level: int, loaded: Mapping[str, torch.Tensor]) -> None:
        self.level = level
        self.tensors: dict[str, torch.Tensor] | None = None  # it sleeps when it has started
        self.backup = dict(loaded) if level == 1 else {n: t * 0 - 1 for n, t in loaded.items()}
        self.takes_weights = True

    def tell(self, request: Mapping[str, object], **_: object) -> None:
        assert request["operation"] == "start"

    def answer(self, *_: object, **__: object) -> dict[str, object]:
        return {"model": "loaded", "own_weights": "none were offered"}

    def has_answer(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def ask(self, request: Mapping[str, Any], *_: object, **__: object) -> dict[str, object]:
        match request["operation"]:
            case "wake":
                self.tensors = dict(self.backup)
            case "sleep":
                self.backup, self.tensors = self.tensors or self.backup, None
            case "weights" if self.takes_weights:
                self.tensors = load_file(Path(request["folder"]) / "model.safetensors")
            case "digests":
                assert self.tensors is not None, "read in its sleep"
                return {"digests": {name: digest(self.tensors[name]) for name in request["shapes"]}}
            case "held":
                return {"names": list(request["shapes"])}
        return {}


def digest(tensor: torch.Tensor) -> list[str]:
    return ["float32", hashlib.sha256(tensor.numpy().tobytes()).hexdigest()]


class Base:
    """Stands in for the dequantised base, whose check reads tensors of the engine."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def check(self, ask: Ask, loaded_from: object) -> str:
        ask({"operation": "digests", "shapes": {"model.norm.weight": [64]}})
        self.events.append(f"checked {loaded_from}")
        return ""

    def remove(self) -> None:
        self.events.append("removed")


@pytest.fixture
def settings(tiny_model_folder: Path, tmp_path: Path) -> VllmSettings:
    return VllmSettings(tiny_model_folder, "float32", 64, (0,), tmp_path / "engine.log")


@pytest.fixture
def sleeper(settings: VllmSettings, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Sleeper]:
    def made(level: int) -> Sleeper:
        process = Sleeper(level, load_file(settings.model_folder / "model.safetensors"))
        monkeypatch.setattr(vllm_engine, "WorkerProcess", lambda *_, **__: process)
        return process

    return made


@pytest.mark.parametrize("level", [1, 2])
def test_full_weights_are_compared_bit_by_bit_after_any_sleep(
    level: int, settings: VllmSettings, sleeper: Callable[[int], Sleeper]
) -> None:
    process = sleeper(level)
    engine = VllmEngine(replace(settings, sleep_level=level))
    base = load_file(settings.model_folder / "model.safetensors")
    for number in range(3):
        weights = Weights("full", {name: tensor + number for name, tensor in base.items()})
        with engine.awake():
            engine.swap(weights, f"s{number}")
    assert engine.notices == ()
    process.takes_weights = False
    with pytest.raises(EngineError, match="did not take the weights"), engine.awake():
        engine.swap(Weights("full", base), "missed")


def test_the_dequantised_base_is_checked_once_when_it_is_there(
    settings: VllmSettings, sleeper: Callable[[int], Sleeper]
) -> None:
    sleeper(1)
    base: Any = Base()
    engine = VllmEngine(replace(settings, sleep_level=1, adapter=ADAPTER), base=base)
    assert engine.ready()
    assert base.events == ["removed"]
    adapter = {LAYER.format("A"): torch.ones(4, 64), LAYER.format("B"): torch.ones(64, 4)}
    for number in range(2):
        with engine.awake():
            engine.swap(Weights("adapter", adapter), f"s{number}")
    assert base.events == ["removed", "checked loaded"]
