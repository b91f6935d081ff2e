"""The answer-only loss against the plain one on full logits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Olmo2Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from msft_lite.data.task import Example
from msft_lite.errors import ModelError
from msft_lite.model.batch import collate, collate_examples
from msft_lite.model.load import ModelSettings, load_model, trainable_parameters
from msft_lite.model.loss import (
    answer_losses,
    answer_states,
    check_head,
    evaluating,
    log_probabilities,
    output_head,
    row_losses,
)

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "initializer_range": 0.5,
}
ROWS = [((5, 6, 7), (8, 9)), ((1,), (2, 3, 4, 5)), ((9, 8, 7, 6, 5), (4,))]


def plain_loss(
    model: torch.nn.Module, prompt: tuple[int, ...], answer: tuple[int, ...]
) -> torch.Tensor:
    """Returns the summed loss of one unpadded row from full logits and -100 labels."""
    ids = torch.tensor([[*prompt, *answer]])
    labels = torch.tensor([-100] * len(prompt) + list(answer))
    logits = model(input_ids=ids).logits[0].float()
    return functional.cross_entropy(logits[:-1], labels[1:], reduction="sum", ignore_index=-100)


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("family", [Qwen2Config, Qwen3Config, LlamaConfig, Olmo2Config])
def test_it_equals_cross_entropy_on_full_logits(
    family: type[PretrainedConfig], tuning: str, tmp_path: Path
) -> None:
    config = family.from_dict(SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(replace(ModelSettings(str(tmp_path)), tuning=tuning), seed=3)
    losses = row_losses(model, collate(ROWS, pad_id=0, device="cpu"))
    expected = torch.stack([plain_loss(model, *row) for row in ROWS])
    # Padded and unpadded rows may take other kernels: a few units in the last place of float32.
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(losses.sum(), list(trainable_parameters(model).values()))
    wanted = torch.autograd.grad(expected.sum(), list(trainable_parameters(model).values()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> torch.nn.Module:
    return load_model(ModelSettings(str(tiny_model_folder), tuning="full"), seed=1).eval()


def test_the_batch_points_at_the_tokens_before_each_answer_token() -> None:
    batch = collate([((5, 6), (7, 8)), ((1,), (2,))], pad_id=0, device="cpu")
    assert batch.ids.tolist() == [[5, 6, 7, 8], [1, 2, 0, 0]]
    assert batch.positions.tolist() == [1, 2, 4]
    assert batch.targets.tolist() == [7, 8, 2]
    assert batch.counts == (2, 1)


@pytest.mark.parametrize(
    ("silent", "spoken"),
    [
        ((), (0, 1, 2, 3, 4)),
        (((1, 3),), (0, 3, 4)),
        (((0, 1), (2, 4)), (1, 4)),
        (((3, 5),), (0, 1, 2)),
        (((1, 2), (2, 3)), (0, 3, 4)),
    ],
)
def test_silent_stretches_carry_no_loss(
    model: torch.nn.Module, silent: tuple[tuple[int, int], ...], spoken: tuple[int, ...]
) -> None:
    answer = (8, 9, 10, 11, 12)
    rows = [Example("t", 0, (5, 6), answer, silent), Example("t", 1, (1, 2, 3, 4), (5, 6, 7, 8, 9))]
    batch = collate_examples(rows, pad_id=0, device="cpu")
    assert batch.counts == (len(spoken), 5)
    assert rows[0].trained_tokens == len(spoken)
    assert batch.targets[: len(spoken)].tolist() == [answer[place] for place in spoken]
    whole = answer_losses(model, collate([(rows[0].prompt, answer)], pad_id=0, device="cpu"))
    # in a batch with a longer row: another kernel may round otherwise
    torch.testing.assert_close(
        row_losses(model, batch)[0], whole[list(spoken)].sum(), rtol=1e-5, atol=1e-6
    )


def test_only_answer_positions_reach_the_head(model: torch.nn.Module) -> None:
    batch = collate(ROWS, pad_id=0, device="cpu")
    states = answer_states(model, batch)
    assert states.shape == (7, 16 * 4)
    logits = model(input_ids=batch.ids).logits.flatten(0, 1)[batch.positions]
    torch.testing.assert_close(output_head(model)(states), logits, rtol=1e-5, atol=1e-5)


def test_padding_is_of_no_effect(model: torch.nn.Module) -> None:
    zeros = row_losses(model, collate(ROWS, pad_id=0, device="cpu"))
    others = row_losses(model, collate(ROWS, pad_id=33, device="cpu"))
    assert torch.equal(zeros, others)


def test_prompt_tokens_carry_no_loss(model: torch.nn.Module) -> None:
    one = answer_losses(model, collate([((5, 6, 7), (8,))], pad_id=0, device="cpu"))
    logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].float()
    assert one.shape == (1,)
    torch.testing.assert_close(one[0], torch.logsumexp(logits, 0) - logits[8])


def test_log_probabilities_are_the_negative_losses(model: torch.nn.Module) -> None:
    values = log_probabilities(model, [*ROWS, ((3, 4), ())], batch_rows=2)
    assert [len(row) for row in values] == [2, 4, 1, 0]
    for (prompt, answer), row in zip(ROWS, values[:3], strict=True):
        expected = -plain_loss(model, prompt, answer).item()
        assert math.isclose(sum(row), expected, rel_tol=1e-5)
    assert log_probabilities(model, []) == []
    assert log_probabilities(model, [((1,), ())]) == [()]


def test_log_probabilities_put_the_training_mode_back(tiny_model_folder: Path) -> None:
    settings = ModelSettings(str(tiny_model_folder), lora_dropout=0.5, dtype="bfloat16")
    dropped = load_model(settings, seed=1)
    for training in (True, False):
        dropped.train(training)
        first = log_probabilities(dropped, ROWS)
        assert first == log_probabilities(dropped, ROWS)
        assert all(module.training is training for module in dropped.modules())


def test_evaluating_ends_when_its_body_fails(model: torch.nn.Module) -> None:
    model.train()
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise RuntimeError("on purpose")
    assert model.training
    assert torch.is_grad_enabled()
    model.eval()


def test_a_bfloat16_loss_is_float32(tiny_model_folder: Path) -> None:
    settings = ModelSettings(str(tiny_model_folder), tuning="full", dtype="bfloat16")
    losses = answer_losses(load_model(settings, seed=1), collate(ROWS, pad_id=0, device="cpu"))
    assert losses.dtype == torch.float32


def test_other_modules_are_refused() -> None:
    with pytest.raises(ModelError, match="Linear is not a model of transformers"):
        check_head(torch.nn.Linear(1, 1))
