"""Which models may take packed rows, and how batches are laid out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
)
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral

from msft_lite.errors import ModelError, OutOfMemory
from msft_lite.model.batch import as_given, collate, in_batches
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss import base_model, hidden_states
from msft_lite.model.packing import batch_line, packing_problem, takes_packed_rows
from msft_lite.model.varlen import NAME, keep_rows_apart

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


@pytest.fixture
def lora(tiny_model_folder: Path) -> ModelSettings:
    return ModelSettings(str(tiny_model_folder), lora_r=4)


def saved(config: object, folder: Path) -> ModelSettings:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return ModelSettings(str(folder), tuning="full")


def test_packed_rows_lie_one_after_another() -> None:
    rows = [((5, 6), (7, 8)), ((1,), (2,)), ((3, 4), (5,))]
    batch = collate(rows, pad_id=0, device="cpu", packed=True)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 1, 2, 3, 4, 5]]
    assert batch.positions.tolist() == [1, 2, 4, 7]
    assert batch.targets.tolist() == [7, 8, 2, 5]
    assert batch.counts == (2, 1, 1)
    assert batch.bounds is not None
    assert batch.bounds.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2]]
    assert batch.bounds.ends.tolist() == [0, 4, 6, 9]
    assert batch.bounds.ends.dtype == torch.int32
    assert batch.bounds.lengths == (4, 2, 3)


def test_batches_go_from_long_to_short_and_results_go_back() -> None:
    rows = [((1,), (2,)), ((1, 2, 3), (4,)), ((1,), (2, 3)), ((5,), (6,)), ((1, 2), (3, 4))]
    batches = in_batches(rows, 2)
    assert batches == [[1, 4], [2, 0], [3]]
    assert as_given(["b", "e", "c", "a", "d"], batches) == ["a", "b", "c", "d", "e"]
    assert in_batches([], 2) == []


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_usual_model_takes_packed_rows(lora: ModelSettings, tuning: str, dtype: str) -> None:
    settings = replace(lora, tuning=tuning, dtype=dtype)
    model = load_model(settings, seed=1)
    assert takes_packed_rows(model)
    assert batch_line(model, settings) == "batches: rows one after another, no padding"


def test_the_proof_leaves_the_model_as_it_was(lora: ModelSettings) -> None:
    model = load_model(replace(lora, padding_free=False, lora_dropout=0.5), seed=1).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    assert packing_problem(model) is None
    assert torch.equal(state, torch.get_rng_state())
    assert not takes_packed_rows(model)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_rows_are_padded_where_the_settings_say_so(lora: ModelSettings) -> None:
    for settings, why in (
        (replace(lora, padding_free=False), "padded, as train.padding_free is false"),
        (replace(lora, attn_implementation="sdpa"), "padded, as model.attn_implementation is sdpa"),
        (replace(lora, attn_implementation="eager"), "model.attn_implementation is eager"),
    ):
        model = load_model(settings, seed=1)
        assert not takes_packed_rows(model)
        assert why in batch_line(model, settings)


class Forgetful(modeling_llama.LlamaAttention):
    """Takes what says where rows begin, and does not hand it on."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, **kwargs):
        return super().forward(hidden_states, position_embeddings, attention_mask)


class Mixing(modeling_llama.LlamaMLP):
    """Gives every token a part of the one before it, whichever row that is of."""

    def forward(self, x):
        return super().forward(x + 0.5 * functional.pad(x, (0, 0, 1, 0))[:, :-1])


@pytest.fixture
def llama(tmp_path: Path) -> ModelSettings:
    return saved(LlamaConfig.from_dict(SHAPE), tmp_path)


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("LlamaAttention", Forgetful, "its layers are not told where rows begin"),
        ("LlamaMLP", Mixing, "a row gives something else beside others than alone"),
    ],
)
def test_a_model_that_mixes_rows_is_found_out(
    llama: ModelSettings, name: str, other: type, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_llama, name, other)
    model = load_model(llama, seed=1)
    assert isinstance(model, LlamaForCausalLM)
    assert not takes_packed_rows(model)
    assert reason in batch_line(model, llama)
    with pytest.raises(ModelError, match=f"train.padding_free: .*{reason}.*rows are padded"):
        load_model(replace(llama, padding_free=True), seed=1)


def test_a_small_leak_is_found_out(llama: ModelSettings) -> None:
    """A thousandth of the tolerance for rounding: the bits of a row show what lay before it."""
    model = load_model(replace(llama, padding_free=False), seed=1)

    def leak(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor):
        return output + 1e-6 * output.cumsum(1) if output.shape[1] > 8 else output

    model.get_submodule("model.norm").register_forward_hook(leak)
    assert packing_problem(model) == "a row depends on the rows before it"


class Unbounded(modeling_mistral.MistralAttention):
    """Says nothing of the window that the mask of padded rows has."""

    def forward(self, *args, **kwargs):
        window, self.config.sliding_window = self.config.sliding_window, None
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.config.sliding_window = window


def test_a_window_that_is_not_handed_on_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although no row of the proof is as long as the window of 64."""
    settings = saved(MistralConfig.from_dict(SHAPE | {"sliding_window": 64}), tmp_path)
    assert takes_packed_rows(load_model(settings, seed=1))
    monkeypatch.setattr(modeling_mistral, "MistralAttention", Unbounded)
    model = load_model(settings, seed=1)
    assert packing_problem(model) == "a row gives something else beside others than alone"


def test_memory_that_runs_out_in_the_proof_is_no_reason_to_pad(
    llama: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("too little")

    model = load_model(replace(llama, padding_free=False), seed=1)
    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", full)
    with pytest.raises(OutOfMemory, match="trying packed rows on the model: .* on cpu"):
        packing_problem(model)


def test_other_layers_than_attention_are_refused(lora: ModelSettings) -> None:
    model = load_model(replace(lora, padding_free=False), seed=1)
    base_model(model).config.layer_types = ["full_attention", "linear_attention"]
    assert packing_problem(model) == "it has layers of the kind 'linear_attention'"


def test_windows_are_as_before_after_the_proof(tmp_path: Path) -> None:
    config = Gemma3TextConfig.from_dict(SHAPE | {"head_dim": 8, "sliding_window": 6})
    model = load_model(saved(config, tmp_path), seed=1)
    assert takes_packed_rows(model)
    windows = {vars(m)["sliding_window"] for m in model.modules() if "sliding_window" in vars(m)}
    assert windows - {None} == {6}
    assert model.config.sliding_window == 6


class Shapes(TorchDispatchMode):
    """Notes the last two dimensions of whatever an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.seen.add(tuple(result.shape[-2:]))
        return result


def test_nothing_of_all_tokens_squared_is_made(tmp_path: Path) -> None:
    """Of 21 tokens; of the row of 9, which is longer than the window of 4, a mask is."""
    config = Qwen2Config.from_dict(
        SHAPE | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    )
    model = load_model(saved(config, tmp_path), seed=1)
    rows = [((1, 2), (3,)), ((1,), tuple(range(8))), ((1, 2), tuple(range(7)))]
    with Shapes() as shapes:
        hidden_states(model, collate(rows, pad_id=0, device="cpu", packed=True)).sum().backward()
    assert (21, 21) not in shapes.seen
    assert (9, 9) in shapes.seen
    keep_rows_apart(base_model(model), on=False)
    row = [((1, 2), tuple(range(19)))]
    with Shapes() as shapes:
        hidden_states(model, collate(row, pad_id=0, device="cpu"))
    assert (21, 21) in shapes.seen


def test_packed_rows_in_a_model_that_wants_padding_are_an_error(lora: ModelSettings) -> None:
    model = load_model(replace(lora, padding_free=False), seed=1)
    batch = collate([((1, 2), (3,)), ((4,), (5,))], pad_id=0, device="cpu", packed=True)
    with pytest.raises(ModelError, match="in a model that wants padding"):
        hidden_states(model, batch)


def test_packed_rows_without_their_bounds_are_an_error(lora: ModelSettings) -> None:
    model = load_model(lora, seed=1)
    batch = collate([((1, 2), (3,)), ((4,), (5,))], pad_id=0, device="cpu", packed=True)
    assert hidden_states(model, batch).shape == (1, 5, 64)
    with pytest.raises(ModelError, match="not told where rows begin"):
        model(input_ids=batch.ids, attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool))


def test_attention_dropout_is_as_configured(tmp_path: Path) -> None:
    config = Qwen2Config.from_dict(SHAPE | {"attention_dropout": 0.5})
    model = load_model(saved(config, tmp_path), seed=1)
    assert takes_packed_rows(model)
    batch = collate([((1, 2), (3,)), ((4,), (5, 6))], pad_id=0, device="cpu", packed=True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        found = []
        for training in (True, True, False, False):
            model.train(training)
            torch.manual_seed(len(found))
            found.append(hidden_states(model, batch))
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])


def test_the_attention_in_use_is_not_saved(lora: ModelSettings, tmp_path: Path) -> None:
    model = load_model(replace(lora, tuning="full"), seed=1)
    model.config.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
