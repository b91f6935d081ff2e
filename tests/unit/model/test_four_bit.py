"""A base in 4 bits: what is quantised, what trains, and that evaluation leaves it alone."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("bitsandbytes")  # in the extras alone

from bitsandbytes.functional import QuantState, dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft import AutoPeftModelForCausalLM, PeftModel

from msft_lite.data.task import Example
from msft_lite.errors import ModelError
from msft_lite.model.four_bit import weight_count
from msft_lite.model.load import (
    ModelSettings,
    base_weights,
    capture,
    load_model,
    load_tokenizer,
    trainable_parameters,
)
from msft_lite.snapshot.export import export_best
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

ROWS = [Example("ab"[row % 2], row, (1, 2 + row, 3), (9 + row, 5, 0)) for row in range(4)]
TRAIN = TrainSettings(learning_rate=1e-2, per_device_train_batch_size=2)
PROBE = [((1, 2, 3), (4, 5)), ((7,), (2, 9, 1))]


@pytest.fixture
def four_bit(tiny_model_folder: Path) -> ModelSettings:
    return ModelSettings(str(tiny_model_folder), lora_r=4, lora_alpha=8, load_in_4bit=True)


def trainer_of(settings: ModelSettings) -> Trainer:
    return Trainer(load_model(settings, seed=1), TRAIN, seed=20, pad_id=0)


def quantised(model: torch.nn.Module) -> dict[str, Linear4bit]:
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit)
    }


def state_of(layer: Linear4bit) -> QuantState:
    assert isinstance(layer.weight, Params4bit)
    assert layer.weight.quant_state is not None
    return layer.weight.quant_state


def dense(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the weights that the quantised layers stand for."""
    return {
        name: dequantize_4bit(layer.weight.data, state_of(layer))
        for name, layer in quantised(model).items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_are_in_4_bits_but_for_embedding_norms_and_head(
    four_bit: ModelSettings, dtype: torch.dtype
) -> None:
    model = load_model(replace(four_bit, dtype=str(dtype).removeprefix("torch.")), seed=1)
    layers = quantised(model)
    assert len(layers) == 2 * 7  # two layers, seven linear modules
    assert not any("head" in name or "embed" in name for name in layers)
    for layer in layers.values():
        state = state_of(layer)
        assert (state.quant_type, state.nested, layer.compute_dtype) == ("nf4", True, dtype)
    frozen = [p for p in model.parameters() if not p.requires_grad and p.dtype != torch.uint8]
    assert {p.dtype for p in frozen} == {dtype}


def test_weights_are_rounded_by_no_more_than_half_a_step(
    four_bit: ModelSettings,
) -> None:
    """NF4's widest gap is 0.304 of a block's largest weight: at most half of it is lost."""
    plain = base_weights(replace(four_bit, tuning="full", load_in_4bit=False)).tensors
    for name, found in dense(load_model(four_bit, seed=1)).items():
        weight = plain[f"{name.removesuffix('.base_layer')}.weight"]
        largest = weight.reshape(-1, 64).abs().amax(dim=1, keepdim=True)
        error = (found - weight).reshape(-1, 64).abs()
        # The scales are quantised too, to 8 bits: another 2 % of the largest.
        assert (error <= (0.304 / 2 + 0.02) * largest).all()
        assert error.max() > 0


def test_only_the_adapter_trains_and_is_captured(four_bit: ModelSettings) -> None:
    model = load_model(four_bit, seed=1)
    plain = load_model(replace(four_bit, load_in_4bit=False), seed=1)
    assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
    first, second = capture(model).tensors, capture(plain).tensors
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(map(weight_count, model.parameters())) == sum(map(weight_count, plain.parameters()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_loss_falls_and_the_base_stays(
    four_bit: ModelSettings, dtype: str, checkpointing: bool
) -> None:
    model = load_model(replace(four_bit, dtype=dtype, gradient_checkpointing=checkpointing), seed=1)
    trainer, before = Trainer(model, TRAIN, seed=20, pad_id=0), dense(model)
    losses = [sum(loss.loss_sum for loss in trainer.step(ROWS).losses.values()) for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]
    after = dense(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_checkpointing_changes_no_gradient(four_bit: ModelSettings) -> None:
    plain, checkpointed = (
        trainer_of(replace(four_bit, gradient_checkpointing=flag)) for flag in (False, True)
    )
    assert plain.step(ROWS) == checkpointed.step(ROWS)
    assert same_weights(plain, checkpointed)


def same_weights(first: Trainer, second: Trainer) -> bool:
    one, other = first.capture().tensors, second.capture().tensors
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rollback(four_bit: ModelSettings, dtype: str) -> None:
    """Law 2: training from a snapshot does not depend on what ran before the restore."""
    settings = replace(four_bit, dtype=dtype, lora_dropout=0.3)
    clean, used = trainer_of(settings), trainer_of(settings)
    start = clean.capture()
    clean.renew("key")
    expected = [clean.step(ROWS) for _ in range(3)]

    used.renew("another")
    for _ in range(4):
        used.step(ROWS[::-1])
    used.load(start)
    used.renew("key")
    assert [used.step(ROWS) for _ in range(3)] == expected
    assert same_weights(clean, used)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluation_neither_changes_the_base_nor_later_training(
    four_bit: ModelSettings, dtype: str
) -> None:
    """Law 6, where bitsandbytes would pack the layers anew (CPUs with AVX512-BF16)."""
    settings = replace(four_bit, dtype=dtype)
    model = load_model(settings, seed=1)
    evaluated, straight = Trainer(model, TRAIN, seed=20, pad_id=0), trainer_of(settings)
    before = dense(model)
    first = evaluated.log_probabilities(PROBE)
    after = dense(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert evaluated.log_probabilities(PROBE) == first
    assert [evaluated.step(ROWS) for _ in range(2)] == [straight.step(ROWS) for _ in range(2)]
    assert same_weights(evaluated, straight)


def test_an_exported_adapter_loads_over_the_unquantised_base(
    four_bit: ModelSettings, tmp_path: Path
) -> None:
    model = load_model(four_bit, seed=1)
    trainer = Trainer(model, TRAIN, seed=20, pad_id=0)
    trainer.step(ROWS)
    weights = trainer.capture()
    assert isinstance(model, PeftModel)
    export_best(weights, tmp_path / "best", model=model, tokenizer=load_tokenizer(four_bit))
    config = json.loads((tmp_path / "best" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == four_bit.name_or_path
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "best", is_trainable=True)
    assert quantised(loaded) == {}
    found = capture(loaded).tensors
    assert all(torch.equal(found[name], weights.tensors[name]) for name in weights.tensors)


def test_full_tuning_is_refused(four_bit: ModelSettings) -> None:
    with pytest.raises(ModelError, match="weights of 4 bits cannot be trained; use lora"):
        load_model(replace(four_bit, tuning="full"), seed=1)


def test_a_missing_bitsandbytes_says_what_to_install(
    four_bit: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # import raises ImportError
    with pytest.raises(ModelError, match="needs bitsandbytes, .*pip install bitsandbytes"):
        load_model(four_bit, seed=1)


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_a_base_that_is_stored_quantised_is_refused(
    four_bit: ModelSettings, tmp_path: Path, load_in_4bit: bool
) -> None:
    folder = Path(shutil.copytree(four_bit.name_or_path, tmp_path / "stored"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    settings = replace(four_bit, name_or_path=str(folder), load_in_4bit=load_in_4bit)
    with pytest.raises(ModelError, match=r"stored quantised \(gptq\); name the model"):
        load_model(settings, seed=1)
