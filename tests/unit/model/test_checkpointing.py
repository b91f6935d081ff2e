"""Every k-th layer computed again: which ones, the same bits, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from msft_lite.errors import ModelError
from msft_lite.model.checkpointing import recomputed_layers
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss import base_model
from msft_lite.model.memory.step import StepShape, counted, predicted
from msft_lite.model.varlen import keep_rows_apart, keeps_rows_apart
from tests.tiny_models import move_adapter
from tests.unit.model.five_layers import CONFIG, LAYERS, losses_and_gradients, write_model

TUNINGS = {
    "full": ModelSettings("", tuning="full"),
    "full in bfloat16": ModelSettings("", tuning="full", dtype="bfloat16"),
    "lora": ModelSettings("", lora_r=4, lora_dropout=0.3),
    "lora over 4 bits": ModelSettings("", lora_r=4, lora_dropout=0.3, load_in_4bit=True),
}
every_tuning = pytest.mark.parametrize(
    "tuning",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                "bits" in name and find_spec("bitsandbytes") is None,
                reason="bitsandbytes is in the extras alone",
            ),
        )
        for name in TUNINGS
    ],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("five-layers"))


def loaded(settings: ModelSettings, *, packed: bool = True) -> nn.Module:
    """Returns a model whose adapter, if it has one, is no longer at its first values of zero."""
    model = load_model(settings, seed=3)
    assert keeps_rows_apart(base_model(model))
    keep_rows_apart(base_model(model), on=packed)
    move_adapter(model)
    return model.train()


@pytest.mark.parametrize("packed", [True, False])
@every_tuning
def test_no_bit_changes_whatever_is_computed_again(tuning: str, packed: bool, folder: Path) -> None:
    settings = replace(TUNINGS[tuning], name_or_path=str(folder))
    wanted = losses_and_gradients(loaded(settings, packed=packed), packed=packed)
    assert all(gradient.any() for gradient in wanted[1:])
    for every in (True, 2, 3, LAYERS):
        model = loaded(replace(settings, gradient_checkpointing=every), packed=packed)
        found = losses_and_gradients(model, packed=packed)
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("every", "places"),
    [
        (False, []),
        (True, [0, 1, 2, 3, 4]),
        (1, [0, 1, 2, 3, 4]),
        (2, [0, 2, 4]),
        (3, [0, 3]),
        (5, [0]),
    ],
)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_layers_named_run_twice_and_no_others(
    tuning: str, every: bool | int, places: list[int], folder: Path
) -> None:
    model = loaded(replace(TUNINGS[tuning], name_or_path=str(folder), gradient_checkpointing=every))
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    runs = dict.fromkeys(range(LAYERS), 0)

    def count(place: int) -> Any:
        def note(*_: object) -> None:
            runs[place] += 1

        return note

    for place, layer in enumerate(layers):
        layer.register_forward_pre_hook(count(place))
    losses_and_gradients(model, packed=True)
    assert [place for place, number in runs.items() if number == 2] == places
    assert set(runs.values()) <= {1, 2}
    assert recomputed_layers(base_model(model)) == [layers[place] for place in places]


@every_tuning
def test_the_prediction_is_what_a_loaded_model_holds(tuning: str, folder: Path) -> None:
    shape = StepShape(rows=2, length=48, trained_tokens=20, accumulates=True)
    peaks: list[int] = []
    for every in (1, 2, 3, LAYERS, False):
        settings = replace(TUNINGS[tuning], name_or_path=str(folder), gradient_checkpointing=every)
        found = predicted(CONFIG, settings, shape)
        assert found == counted(load_model(settings, seed=1), shape)
        peaks.append(found.tensors)
    assert peaks == sorted(set(peaks))  # the fewer are computed again, the more is held


@pytest.mark.parametrize("every", [0, -1, 6])
def test_a_number_of_layers_that_there_is_not_is_refused(every: int, folder: Path) -> None:
    settings = ModelSettings(str(folder), gradient_checkpointing=every)
    message = f"gradient_checkpointing = {every}: it has 5 layers; take true, or .* 1 to 5"
    with pytest.raises(ModelError, match=message):
        load_model(settings, seed=1)
    with pytest.raises(ModelError, match=message):
        predicted(CONFIG, settings, StepShape(1, 8, 4, accumulates=False))


def test_layers_that_cannot_be_told_apart_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msft_lite.model.checkpointing.GradientCheckpointingLayer", nn.RNN)
    load_model(ModelSettings(str(folder), gradient_checkpointing=True), seed=1)
    with pytest.raises(ModelError, match="cannot be told apart; take true or false"):
        load_model(ModelSettings(str(folder), gradient_checkpointing=2), seed=1)
