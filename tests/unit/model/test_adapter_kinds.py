"""Rank-stabilised adapters and DoRA: what is trained, saved and restored is what peft has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from msft_lite.data.task import Example
from msft_lite.engine.adapter import Scaling
from msft_lite.errors import EngineError
from msft_lite.model.load import (
    ModelSettings,
    adapter_config,
    apply,
    capture,
    load_model,
    load_tokenizer,
)
from msft_lite.model.loss import log_probabilities
from msft_lite.model.size import model_size
from msft_lite.snapshot.export import export_best
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

ROWS = [Example("ab"[row % 2], row, (1, 2 + row, 3), (9 + row, 5, 0)) for row in range(4)]
TRAIN = TrainSettings(learning_rate=1e-2, per_device_train_batch_size=2)
PROBE = [((1, 2, 3), (4, 5)), ((7,), (2, 9, 1))]
KINDS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "both": {"use_rslora": True, "use_dora": True},
    "dora-4bit": {"use_dora": True, "load_in_4bit": True},
}


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, tiny_model_folder: Path) -> ModelSettings:
    plain = ModelSettings(str(tiny_model_folder), lora_r=4, lora_alpha=8)
    return replace(plain, **KINDS[request.param])


def trained(settings: ModelSettings, steps: int = 2) -> tuple[PeftModel, Trainer]:
    model = load_model(settings, seed=1)
    assert isinstance(model, PeftModel)
    trainer = Trainer(model, TRAIN, seed=20, pad_id=0)
    for _ in range(steps):
        trainer.step(ROWS)
    return model, trainer


def test_names_and_tensors_are_those_that_peft_saves(settings: ModelSettings) -> None:
    model, trainer = trained(settings)
    saved, captured = get_peft_model_state_dict(model), trainer.capture().tensors
    assert set(captured) == set(saved)
    assert all(torch.equal(captured[name], saved[name]) for name in saved)
    magnitudes = [name for name in captured if name.endswith(".lora_magnitude_vector")]
    assert len(magnitudes) == (14 if settings.use_dora else 0)  # seven modules in two layers


def test_a_roll_back_gives_the_same_steps_again(settings: ModelSettings) -> None:
    model, trainer = trained(settings)
    start = capture(model)
    outcomes = []
    for _ in range(2):
        apply(model, start)
        trainer.renew("1")
        outcomes.append(([trainer.step(ROWS) for _ in range(2)], trainer.capture().tensors))
    (steps, weights), (again, same) = outcomes
    assert steps == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert any(not torch.equal(weights[name], start.tensors[name]) for name in weights)


def test_the_export_is_the_model_that_was_trained(settings: ModelSettings, tmp_path: Path) -> None:
    settings = replace(settings, load_in_4bit=False)
    model, trainer = trained(settings)
    export_best(
        trainer.capture(), tmp_path / "best", model=model, tokenizer=load_tokenizer(settings)
    )
    base = AutoModelForCausalLM.from_pretrained(settings.name_or_path)
    loaded = PeftModel.from_pretrained(base, tmp_path / "best")
    expected, found = (log_probabilities(one, PROBE) for one in (model, loaded))
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_the_size_told_before_is_the_size_trained(settings: ModelSettings) -> None:
    size = model_size(settings)
    assert size is not None
    captured = capture(load_model(settings, seed=1))
    assert size.snapshot_bytes == captured.total_bytes


def test_ranks_are_stabilised_by_their_root(tiny_model_folder: Path) -> None:
    """8 / sqrt(4) = 4 in the trained model and in what the engine is given."""
    settings = ModelSettings(str(tiny_model_folder), lora_r=4, lora_alpha=8, use_rslora=True)
    model = load_model(settings, seed=1)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    assert {layer.scaling["default"] for layer in layers} == {4.0}
    assert Scaling.of(adapter_config(model)).factor("model.layers.0.mlp.up_proj") == 4.0


def test_dora_is_not_given_to_vllm_as_an_adapter(tiny_model_folder: Path) -> None:
    settings = ModelSettings(str(tiny_model_folder), lora_r=4, lora_alpha=8, use_dora=True)
    with pytest.raises(EngineError, match="use_dora = True cannot be given to vLLM as an adapter"):
        Scaling.of(adapter_config(load_model(settings, seed=1)))
