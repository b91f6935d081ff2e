"""Law 8: rows laid one after another give what padded ones and single ones give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from msft_lite.data.task import Example
from msft_lite.model.batch import collate_examples
from msft_lite.model.load import ModelSettings, load_model, trainable_parameters
from msft_lite.model.loss import base_model, log_probabilities, row_losses
from msft_lite.model.packing import takes_packed_rows
from msft_lite.model.varlen import keep_rows_apart
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer
from tests.tiny_models import move_adapter

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.3,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config.from_dict(SHAPE),
    "llama": LlamaConfig.from_dict(SHAPE),
    "qwen3": Qwen3Config.from_dict(SHAPE | {"head_dim": 8}),
    "olmo2": Olmo2Config.from_dict(SHAPE),
    "mistral, a window": MistralConfig.from_dict(SHAPE | {"sliding_window": 4}),
    "qwen2, windows in one layer": Qwen2Config.from_dict(
        SHAPE | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    ),
}
ROWS = [
    Example("a", 0, (5, 6, 7), (8, 9, 3)),
    Example("a", 1, (1,), (2,)),
    Example("a", 2, (9, 8, 7, 6, 5, 4), (3, 2, 1, 2, 3), ((1, 3),)),
    Example("a", 3, (11, 12), (13, 14, 15, 16)),
]


@cache
def saved(family: str, folder: Path) -> Path:
    place = folder / family.replace(" ", "-")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def loaded(path: Path, tuning: str, *, checkpointing: bool = False) -> torch.nn.Module:
    """Returns a model whose adapter, if it has one, is no longer at its first values of zero."""
    settings = ModelSettings(str(path), lora_r=4, gradient_checkpointing=checkpointing)
    model = load_model(replace(settings, tuning=tuning), seed=3)
    move_adapter(model)
    return model.train()


def losses_of(model: torch.nn.Module, rows: list[Example], *, packed: bool) -> torch.Tensor:
    return row_losses(model, collate_examples(rows, pad_id=0, device="cpu", packed=packed))


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(trainable_parameters(model).values())))


def assert_near(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    most = max(float(other.detach().abs().max()) for other in wanted)
    for one, other in zip(found, wanted, strict=True):
        # float32 sums in another order; relative to the tensor's largest number, or for one that
        # is zero but for rounding to the largest of all
        atol = max(1e-5 * float(other.detach().abs().max()), 1e-6 * most)
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_padded_is_alone(
    family: str, tuning: str, checkpointing: bool, folder: Path
) -> None:
    """Law 8, for the loss of every row and the gradient that each row alone brings."""
    model = loaded(saved(family, folder), tuning, checkpointing=checkpointing)
    assert takes_packed_rows(model)
    packed = losses_of(model, ROWS, packed=True)
    keep_rows_apart(base_model(model), on=False)
    padded = losses_of(model, ROWS, packed=False)
    assert_near([packed], [padded])
    for place, row in enumerate(ROWS):
        keep_rows_apart(base_model(model), on=False)
        alone = losses_of(model, [row], packed=False)
        wanted = gradients(model, alone.sum())
        keep_rows_apart(base_model(model))
        packed = losses_of(model, ROWS, packed=True)
        assert_near([packed[place]], [alone[0]])
        assert_near(gradients(model, packed[place]), wanted)


def test_a_row_is_the_same_bits_whatever_lies_beside_it(folder: Path) -> None:
    model = loaded(saved("qwen2", folder), "full")
    others = [replace(row, answer=tuple((3 * t + 1) % 40 for t in row.answer)) for row in ROWS]
    first = losses_of(model, ROWS, packed=True)
    second = losses_of(model, [*others[:2], ROWS[2], others[3]], packed=True)
    assert first[2] == second[2]
    assert first[0] != second[0]


@pytest.mark.parametrize("family", ["mistral, a window", "qwen2, windows in one layer"])
def test_a_window_matters_and_is_honoured(family: str, folder: Path) -> None:
    """A token five places back is beyond a window of four."""
    model = loaded(saved(family, folder), "full")
    long = Example("a", 0, tuple(range(1, 20)), (3,))
    wide = loaded(saved(family, folder), "full")
    owners: list[Any] = [wide.config, *wide.modules()]
    for owner in owners:
        if vars(owner).get("sliding_window"):
            owner.sliding_window = 64
    packed = losses_of(model, [long, ROWS[0]], packed=True)
    assert_near([packed[:1]], [losses_of(model, [long], packed=False)])
    assert abs(packed[0] - losses_of(wide, [long, ROWS[0]], packed=True)[0]) > 1e-3


@pytest.fixture
def trainers(folder: Path) -> Iterator[tuple[Trainer, Trainer]]:
    """One trainer that packs, and one that pads."""
    settings = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=3, adam_epsilon=1e-2)
    models = [loaded(saved("llama", folder), "lora") for _ in range(2)]
    keep_rows_apart(base_model(models[1]), on=False)
    yield tuple(Trainer(model, settings, seed=1, pad_id=0) for model in models)  # type: ignore


def test_trainers_that_pack_and_pad_agree(trainers: tuple[Trainer, Trainer]) -> None:
    packing, padding = trainers
    assert packing.losses(ROWS) == pytest.approx(padding.losses(ROWS), rel=1e-5)
    pairs = [((1, 2, 3), (4, 5)), ((1,), (2,)), ((3, 4), ()), ((7, 8, 9, 10), (11, 12, 13))]
    for one, other in zip(
        packing.log_probabilities(pairs), padding.log_probabilities(pairs), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-5)
    first, second = packing.step(ROWS), padding.step(ROWS)
    assert first.losses["a"].loss_sum == pytest.approx(second.losses["a"].loss_sum, rel=1e-5)
    assert first.gradient_norm == pytest.approx(second.gradient_norm, rel=1e-4)
    tensors = packing.capture().tensors, padding.capture().tensors
    assert_near(list(tensors[0].values()), list(tensors[1].values()))


def test_generation_is_as_without_packing(folder: Path) -> None:
    """Padded on the left and with a cache, as the torch engine runs it: the very same bits."""
    model = loaded(saved("mistral, a window", folder), "full").eval()
    ids = torch.tensor([[0, 0, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    found = []
    for on in (True, False):
        keep_rows_apart(base_model(model), on=on)
        with torch.no_grad():
            start = model(input_ids=ids[:, :5], attention_mask=mask[:, :5], use_cache=True)
            rest = model(
                input_ids=ids[:, 5:], attention_mask=mask, past_key_values=start.past_key_values
            )
        found.append(rest.logits)
    assert torch.equal(*found)


def test_log_probabilities_come_back_in_the_order_given(folder: Path) -> None:
    model = loaded(saved("llama", folder), "full")
    pairs = [((1,), (2,)), ((3, 4, 5), (6, 7)), ((8, 9), (10, 11, 12)), ((1,), (3,))]
    together = log_probabilities(model, pairs, batch_rows=2)
    for pair, values in zip(pairs, together, strict=True):
        assert values == pytest.approx(log_probabilities(model, [pair])[0], rel=1e-5)
