"""The plain weights of a model: what peft merges, what bitsandbytes unpacks, what has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from msft_lite.errors import ModelError
from msft_lite.model.dense import dense_bytes, dense_tensors
from msft_lite.model.load import ModelSettings, capture, load_model

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {
        "use_rslora": True,
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"q_proj": 3},
    },
    "dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "bias of its own": {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
    "modules saved": {"modules_to_save": ["down_proj"], "target_modules": ["q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def adapted(folder: Path, *, tied: bool = True, **kind: Any) -> PeftModel:
    """A model under an adapter of which every tensor has moved."""
    base = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=tied)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | kind
    torch.manual_seed(5)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    assert isinstance(model, PeftModel)
    return model.eval()


@pytest.fixture
def untied_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.detach() * 0.9)
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path / "untied")
    return tmp_path / "untied"


@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_merged_model_does_what_the_adapted_one_does(untied_folder: Path, kind: str) -> None:
    model = adapted(untied_folder, tied=False, **ADAPTERS[kind])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = dense_tensors(model, merged=True)
    assert tensors.keys() == load_file(untied_folder / "model.safetensors").keys()
    plain = AutoModelForCausalLM.from_pretrained(untied_folder)
    untouched = plain(IDS).logits
    plain.load_state_dict(dict(tensors))
    with torch.no_grad():
        # Products in another order, in float32; the adapter moves logits by tenths and more.
        torch.testing.assert_close(plain(IDS).logits, model(IDS).logits, rtol=0, atol=2e-5)
        assert (untouched - plain(IDS).logits).abs().max() > 0.1
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("kind", sorted(ADAPTERS.keys() - {"bias"}))  # which trains the base's own
def test_without_the_adapter_it_is_the_base_bit_by_bit(untied_folder: Path, kind: str) -> None:
    model = adapted(untied_folder, tied=False, **ADAPTERS[kind])
    stored, found = (
        load_file(untied_folder / "model.safetensors"),
        dense_tensors(model, merged=False),
    )
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_dora", [False, True])
def test_a_4_bit_model_is_unpacked_to_what_it_computes_with(
    tiny_model_folder: Path, dtype: Any, use_dora: bool
) -> None:
    settings = ModelSettings(
        str(tiny_model_folder), dtype=dtype, load_in_4bit=True, lora_r=4, use_dora=use_dora
    )
    model = load_model(settings, seed=1).eval()
    tensors = dense_tensors(model, merged=use_dora)
    assert len(tensors.quantised) == 14  # seven modules in each of two layers
    assert "lm_head.weight" not in tensors  # tied
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=getattr(torch, dtype))
    stored = load_file(tiny_model_folder / "model.safetensors")
    changed = {name for name in stored if not torch.equal(stored[name], tensors[name].float())}
    assert changed >= tensors.quantised
    plain.load_state_dict({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    with torch.no_grad():
        # An untrained adapter changes nothing. In bfloat16 DoRA rounds on its way: logits of 10 by
        # 0.125, four of their last bits.
        tolerance = {"float32": 2e-5, "bfloat16": 0.5 if use_dora else 0}[dtype]
        torch.testing.assert_close(plain(IDS).logits, model(IDS).logits, rtol=0, atol=tolerance)


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_forms_tell_dtype_and_shape_of_every_tensor(
    tiny_model_folder: Path, load_in_4bit: bool
) -> None:
    settings = ModelSettings(str(tiny_model_folder), dtype="bfloat16", load_in_4bit=load_in_4bit)
    tensors = dense_tensors(load_model(settings, seed=1), merged=True)
    for name, tensor in tensors.items():
        form = tensors.forms[name]
        assert (form.shape, form.dtype, form.device.type) == (tensor.shape, tensor.dtype, "meta")
        assert tensor.is_contiguous()
    assert dense_bytes(settings) == sum(tensor.nbytes for tensor in tensors.values())


def test_a_model_tuned_in_full_is_its_own_weights(tiny_model_folder: Path) -> None:
    model = load_model(ModelSettings(str(tiny_model_folder), tuning="full"), seed=1)
    found, wanted = dense_tensors(model, merged=True), capture(model).tensors
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ({"target_modules": ["embed_tokens"]}, "lm_head.weight is tied to model.embed_tokens"),
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight is tied to model.embed_tokens"),
        ({"trainable_token_indices": [3]}, "embed_tokens is a TrainableTokensWrapper"),
        ({"target_parameters": ["mlp.up_proj.weight"], "target_modules": []}, "is a ParamWrapper"),
        ({"alora_invocation_tokens": [1]}, "an adapter of the kind ALoraLinearVariant"),
    ],
    ids=["tied embedding", "tied head", "tokens", "parameters", "activated"],
)
def test_what_no_plain_weights_do_is_refused(
    tiny_model_folder: Path, kind: dict[str, Any], says: str
) -> None:
    model = adapted(tiny_model_folder, **kind)
    with pytest.raises(ModelError, match=f"cannot be merged .*{says}.*torch"):
        dict(dense_tensors(model, merged=True))
