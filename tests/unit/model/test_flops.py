"""Rates told from a model against torch's own count of the training step's matrix products.

Agreement is exact: both count the same products. Attention is ``eager`` here, since torch's counter
knows the fused kernels of GPUs and leaves out the one of CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from msft_lite.model.batch import Batch, collate
from msft_lite.model.flops import (
    FlopRates,
    flop_rates,
    model_bytes,
    parameters_without_embedding,
)
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss import answer_losses, evaluating, row_losses

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "qwen2": Qwen2Config.from_dict(SHAPE | {"tie_word_embeddings": True}),
    "llama": LlamaConfig.from_dict(SHAPE),
    "qwen3": Qwen3Config.from_dict(SHAPE | {"head_dim": 8}),  # heads together wider than the model
    "olmo2": Olmo2Config.from_dict(SHAPE),
    "phi3": Phi3Config.from_dict(SHAPE),  # one matrix for queries, keys and values
    "gpt2": GPT2Config.from_dict(
        {
            "vocab_size": 40,
            "n_positions": 16,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 2,
            "bos_token_id": None,
            "eos_token_id": None,
        }
    ),
    "mixtral": MixtralConfig.from_dict(SHAPE | {"num_local_experts": 2}),
}
ROWS, PROMPT_TOKENS, ANSWER_TOKENS = 2, 5, 3
# Operations a token in one layer of SHAPE: 2 x (queries and output 16 x 16, keys and values 16 x 8,
# three matrices of the feed-forward part 16 x 24).
LAYER = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24)


@dataclass(frozen=True, slots=True)
class Counted:
    """What torch counted in one training step."""

    forward: int
    backward: int


def saved(family: str, folder: Path) -> ModelSettings:
    """Returns settings of a random model of ``family`` saved in ``folder``."""
    AutoModelForCausalLM.from_config(FAMILIES[family]).save_pretrained(folder)
    return ModelSettings(str(folder), lora_r=4, attn_implementation="eager")


def tuned(settings: ModelSettings, tuning: str) -> ModelSettings:
    """Returns ``settings`` tuned in full or, by the names of its targets, with an adapter."""
    if tuning == "full":
        return replace(settings, tuning="full")
    targets = "all-linear" if tuning == "all-linear" else tuple(tuning.split())
    return replace(settings, tuning="lora", lora_target_modules=targets)


def rates_of(settings: ModelSettings) -> tuple[torch.nn.Module, FlopRates]:
    model = load_model(settings, seed=1)
    rates = flop_rates(model)
    assert rates is not None
    return model, rates


def batch_of(rows: int) -> Batch:
    row = (tuple(range(PROMPT_TOKENS)), tuple(range(ANSWER_TOKENS)))
    return collate([row] * rows, pad_id=0, device="cpu")


def counted(model: torch.nn.Module) -> Counted:
    """Counts the products of one training step on rows of equal length."""
    model.train()
    with FlopCounterMode(display=False) as counter:
        loss = row_losses(model, batch_of(ROWS)).sum()
        forward = counter.get_total_flops()
        loss.backward()
    return Counted(forward, counter.get_total_flops() - forward)


def told(rates: FlopRates) -> Counted:
    """Returns a training step's products: a frozen head's gradient is made in the forward pass."""
    early = 0 if rates.head_recompute else ROWS * rates.head_backward * ANSWER_TOKENS
    return Counted(told_forward(rates) + early, told_backward(rates) + told_again(rates) - early)


def told_forward(rates: FlopRates) -> int:
    tokens = PROMPT_TOKENS + ANSWER_TOKENS
    return ROWS * (
        rates.body_forward * tokens
        + rates.head_forward * ANSWER_TOKENS
        + rates.attention_forward * tokens**2
    )


def told_backward(rates: FlopRates) -> int:
    tokens = PROMPT_TOKENS + ANSWER_TOKENS
    return ROWS * (
        rates.body_backward * tokens
        + rates.head_backward * ANSWER_TOKENS
        + rates.attention_backward * tokens**2
    )


def told_again(rates: FlopRates) -> int:
    tokens = PROMPT_TOKENS + ANSWER_TOKENS
    return ROWS * (
        rates.body_recompute * tokens
        + rates.head_recompute * ANSWER_TOKENS
        + rates.attention_recompute * tokens**2
    )


@pytest.mark.parametrize("gradient_checkpointing", [False, True, 2, 3])
@pytest.mark.parametrize(
    "tuning",
    ["full", "all-linear", "q_proj v_proj", "v_proj", "down_proj", "layers.1.self_attn.k_proj"],
)
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3", "olmo2"])
def test_a_training_step_is_counted_exactly(
    family: str, tuning: str, gradient_checkpointing: bool | int, tmp_path: Path
) -> None:
    settings = tuned(saved(family, tmp_path), tuning)
    model, rates = rates_of(replace(settings, gradient_checkpointing=gradient_checkpointing))
    layers = range(0, 3, int(gradient_checkpointing)) if gradient_checkpointing else ()
    first = int(tuning.startswith("layers.1"))  # below it nothing needs a gradient
    again = sum(layer >= first for layer in layers)
    assert 3 * rates.attention_recompute == again * rates.attention_forward
    with set_checkpoint_early_stop(False):
        found = counted(model)
    assert found == told(rates)


@pytest.mark.parametrize("family", ["phi3", "gpt2"])
@pytest.mark.parametrize("tuning", ["full", "all-linear"])
def test_fused_and_transposed_matrices_are_counted_exactly(
    family: str, tuning: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model, rates = rates_of(tuned(saved(family, tmp_path), tuning))  # peft warns of GPT-2's layers
    assert counted(model) == told(rates)


def test_fused_queries_keys_and_values_count_one_layer_too_much_at_most(tmp_path: Path) -> None:
    model, rates = rates_of(tuned(saved("phi3", tmp_path), "down_proj"))
    # Nothing below the first layer's attention is trained, yet its gradient is counted.
    surplus = ROWS * 2 * 4 * 16 * (PROMPT_TOKENS + ANSWER_TOKENS) ** 2
    assert counted(model).backward == told(rates).backward - surplus


def test_a_forward_pass_alone_is_counted_exactly(tmp_path: Path) -> None:
    model, rates = rates_of(tuned(saved("llama", tmp_path), "all-linear"))
    with FlopCounterMode(display=False) as counter, evaluating(model):
        answer_losses(model, batch_of(ROWS))
    assert counter.get_total_flops() == told_forward(rates)


def test_the_last_product_of_a_layer_is_not_computed_again(tmp_path: Path) -> None:
    settings = replace(tuned(saved("llama", tmp_path), "full"), gradient_checkpointing=True)
    model, rates = rates_of(settings)
    spared = ROWS * (PROMPT_TOKENS + ANSWER_TOKENS) * 3 * 2 * 24 * 16  # down_proj of three layers
    assert counted(model).backward == told(rates).backward - spared


def test_layers_of_a_models_own_code_leave_the_rates_unknown(tmp_path: Path) -> None:
    model = load_model(tuned(saved("llama", tmp_path), "full"), seed=1)
    model.get_submodule("model").gradient_checkpointing = True  # type: ignore[assignment]
    assert flop_rates(model) is None


def test_packed_rows_are_counted_exactly(tmp_path: Path) -> None:
    """One call of attention a row computes what the rows' squared lengths say."""
    settings = replace(tuned(saved("llama", tmp_path), "all-linear"), attn_implementation=None)
    model, rates = rates_of(settings)
    row = (tuple(range(PROMPT_TOKENS)), tuple(range(ANSWER_TOKENS)))
    batch = collate([row] * ROWS, pad_id=0, device="cpu", packed=True)
    # torch's counter leaves out the CPU's fused attention, so that all but it is compared.
    dense = replace(rates, attention_forward=0, attention_backward=0)
    with FlopCounterMode(display=False) as counter:
        row_losses(model.train(), batch).sum().backward()
    assert counter.get_total_flops() == told(dense).forward + told(dense).backward


def test_rates_of_full_tuning_worked_out_by_hand(tmp_path: Path) -> None:
    _, rates = rates_of(tuned(saved("llama", tmp_path), "full"))
    assert rates == FlopRates(
        body_forward=3 * LAYER,
        body_backward=2 * 3 * LAYER,
        head_forward=2 * 16 * 40,
        head_backward=2 * 2 * 16 * 40,
        head_recompute=2 * 16 * 40,
        attention_forward=3 * 4 * 16,
        attention_backward=2 * 3 * 4 * 16,
        body_recompute=0,
        attention_recompute=0,
    )


@pytest.mark.parametrize(("gradient_checkpointing", "again"), [(False, 0), (True, 3), (2, 2)])
def test_rates_of_an_adapter_worked_out_by_hand(
    gradient_checkpointing: bool | int, again: int, tmp_path: Path
) -> None:
    settings = tuned(saved("llama", tmp_path), "q_proj v_proj")
    _, rates = rates_of(replace(settings, gradient_checkpointing=gradient_checkpointing))
    down, up = 2 * 16 * 4, 2 * (16 + 8) * 4  # A of one projection, B of both: operations a token
    adapter = 2 * down + up
    # The first layer's input gets no gradient: not through the three projections, not through the
    # two A, and its keys, which nothing trained has touched, none.
    spared = 2 * (16 * 16 + 2 * 16 * 8) + 2 * down
    assert rates == FlopRates(
        body_forward=3 * (LAYER + adapter),
        body_backward=3 * (LAYER + 2 * adapter) - spared,
        head_forward=2 * 16 * 40,
        head_backward=2 * 16 * 40,
        head_recompute=0,
        attention_forward=3 * 4 * 16,
        attention_backward=2 * 3 * 4 * 16 - 2 * 16,
        body_recompute=again * (LAYER + adapter),
        attention_recompute=again * 4 * 16,
    )


@pytest.mark.parametrize("tuning", ["full", "all-linear"])
def test_telling_leaves_the_model_as_it_was(tuning: str, tmp_path: Path) -> None:
    settings = replace(tuned(saved("llama", tmp_path), tuning), lora_dropout=0.5)
    model = load_model(settings, seed=1).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.default_generator.get_state()
    flop_rates(model)
    assert torch.equal(torch.default_generator.get_state(), state)
    assert model.training
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_mixture_of_experts_has_no_rates(tmp_path: Path) -> None:
    model = load_model(tuned(saved("mixtral", tmp_path), "full"), seed=1)
    assert flop_rates(model) is None


def test_latent_attention_has_no_rates(tmp_path: Path) -> None:
    settings = tuned(saved("llama", tmp_path), "full")
    model = load_model(settings, seed=1)
    model.config.kv_lora_rank = 8
    assert flop_rates(model) is None


def test_a_layer_that_only_some_tokens_pass_leaves_the_rates_unknown(tmp_path: Path) -> None:
    model = load_model(tuned(saved("llama", tmp_path), "full"), seed=1)
    model.get_submodule("model.layers.0").add_module("expert", torch.nn.Linear(2, 2))  # never asked
    assert flop_rates(model) is None
    model = load_model(tuned(saved("llama", tmp_path), "full"), seed=1)
    gate = model.get_submodule("model.layers.0.mlp.gate_proj")
    gate.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, :1],))  # the first token
    assert flop_rates(model) is None


@pytest.mark.parametrize("tuning", ["full", "all-linear"])
@pytest.mark.parametrize(("family", "biases"), [("qwen2", 16 + 8 + 8), ("llama", 0)])
def test_sizes_worked_out_by_hand(family: str, biases: int, tuning: str, tmp_path: Path) -> None:
    settings = tuned(saved(family, tmp_path), tuning)
    # Half of a layer's operations, its biases, its two norms; the last norm; the head, tied or not.
    without = 3 * (LAYER // 2 + biases + 2 * 16) + 16 + 40 * 16
    embedding = 0 if family == "qwen2" else 40 * 16
    for dtype, number_bytes in (("float32", 4), ("bfloat16", 2)):
        model = load_model(replace(settings, dtype=dtype), seed=1)
        assert parameters_without_embedding(model) == without
        assert model_bytes(model) == number_bytes * (without + embedding)


def test_positions_that_are_looked_up_are_left_out(tmp_path: Path) -> None:
    model = load_model(tuned(saved("gpt2", tmp_path), "full"), seed=1)
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert parameters_without_embedding(model) == whole - 16 * 16  # 16 positions; the head is tied
    assert model_bytes(model) == 4 * whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bits_count_as_the_numbers_they_stand_for(dtype: str, tiny_model_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")  # in the extras alone
    settings = replace(ModelSettings(str(tiny_model_folder), lora_r=4), dtype=dtype)
    whole, rates = rates_of(settings)
    quantised, quantised_rates = rates_of(replace(settings, load_in_4bit=True))
    assert quantised_rates == rates
    assert parameters_without_embedding(quantised) == parameters_without_embedding(whole)
    assert model_bytes(quantised) == model_bytes(whole)
