"""Loading models and tokenizers, and every way in which a folder can be unfit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants as hub_constants
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, Gemma2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM

from msft_lite.errors import ModelError, SnapshotError
from msft_lite.model.load import (
    ModelSettings,
    adapter_config,
    apply,
    base_weights,
    capture,
    load_model,
    load_tokenizer,
    resolve_device,
    trainable_parameters,
)
from msft_lite.model.weights import Weights


@pytest.fixture
def lora(tiny_model_folder: Path) -> ModelSettings:
    return ModelSettings(str(tiny_model_folder), lora_r=4, lora_alpha=8)


@pytest.fixture
def full(lora: ModelSettings) -> ModelSettings:
    return replace(lora, tuning="full")


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "models" / "tiny"))


def equal(first: Weights, second: Weights) -> bool:
    return first.tensors.keys() == second.tensors.keys() and all(
        torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors
    )


def test_lora_trains_a_float32_adapter_over_a_frozen_bfloat16_base(lora: ModelSettings) -> None:
    model = load_model(replace(lora, dtype="bfloat16"), seed=1)
    trained = trainable_parameters(model)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert all(".lora_A.weight" in n or ".lora_B.weight" in n for n in trained)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, seven linear modules


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_tuning_trains_every_parameter_in_its_dtype(
    full: ModelSettings, dtype: torch.dtype
) -> None:
    model = load_model(replace(full, dtype=str(dtype).removeprefix("torch.")), seed=1)
    assert all(p.requires_grad and p.dtype == dtype for p in model.parameters())


def test_the_adapter_depends_on_the_seed_and_nothing_else(lora: ModelSettings) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = capture(load_model(lora, seed=1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(12)
    assert equal(first, capture(load_model(lora, seed=1)))
    assert not equal(first, capture(load_model(lora, seed=2)))


def test_an_adapter_is_captured_under_the_names_of_peft(lora: ModelSettings) -> None:
    model = load_model(lora, seed=1)
    weights = capture(model)
    expected = get_peft_model_state_dict(model)
    assert weights.kind == "adapter"
    assert list(weights.tensors) == list(expected)
    assert all(torch.equal(weights.tensors[n], expected[n]) for n in expected)


def test_full_weights_are_captured_under_the_names_of_the_files(full: ModelSettings) -> None:
    weights = capture(load_model(full, seed=1))
    stored = load_file(Path(full.name_or_path) / "model.safetensors")
    assert weights.kind == "full"
    assert weights.tensors.keys() == stored.keys()  # tied: no lm_head.weight
    assert all(torch.equal(weights.tensors[n], stored[n]) for n in stored)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_weights_equal_those_of_a_fresh_model(full: ModelSettings, dtype: str) -> None:
    settings = replace(full, dtype=dtype)
    assert equal(base_weights(settings), capture(load_model(settings, seed=1)))


def test_captured_tensors_share_no_memory_and_go_back_bitwise(lora: ModelSettings) -> None:
    model = load_model(lora, seed=1)
    kept = capture(model)
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.add_(1)
    assert not equal(kept, capture(model))
    apply(model, kept)
    assert equal(kept, capture(model))
    assert equal(kept, capture(load_model(lora, seed=1)))


def test_apply_names_the_first_tensor_that_does_not_fit(lora: ModelSettings) -> None:
    model = load_model(lora, seed=1)
    kept = capture(model)
    name, tensor = next(iter(kept.tensors.items()))
    others = {n: t + 1 for n, t in kept.tensors.items() if n != name}
    cases = {
        "is missing": others,
        "'extra' is not in the model": {**kept.tensors, "extra": tensor},
        r"float32 \[1\], the model has float32 \[4, 64\]": {**others, name: torch.zeros(1)},
        "is bfloat16": {**others, name: tensor.bfloat16()},
    }
    for message, tensors in cases.items():
        with pytest.raises(SnapshotError, match=message) as caught:
            apply(model, Weights("adapter", tensors))
        assert ("extra" if "extra" in tensors else name) in str(caught.value)
    with pytest.raises(SnapshotError, match="full weights"):
        apply(model, Weights("full", kept.tensors))
    assert equal(kept, capture(model))


def test_the_adapter_config_is_plain_json(lora: ModelSettings) -> None:
    model = load_model(replace(lora, lora_target_modules=("v_proj", "q_proj")), seed=1)
    config = adapter_config(model)
    assert json.loads(json.dumps(config)) == config
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")


def test_a_model_tuned_in_full_has_no_adapter_config(full: ModelSettings) -> None:
    with pytest.raises(ModelError, match="no adapter"):
        adapter_config(load_model(full, seed=1))


def test_the_tokenizer_pads_with_its_end_where_it_has_no_padding(
    lora: ModelSettings, folder: Path
) -> None:
    assert load_tokenizer(lora).pad_token_id == 0
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    assert load_tokenizer(ModelSettings(str(folder))).pad_token == "<|end|>"


@pytest.mark.parametrize(("model_type", "end"), [("qwen2", "'<.endoftext.>'"), ("olmo2", "None")])
def test_a_tokenizer_without_an_end_is_refused(folder: Path, model_type: str, end: str) -> None:
    edit_json(folder / "config.json", model_type=model_type)
    edit_json(folder / "tokenizer_config.json", eos_token=None, pad_token=None)
    with pytest.raises(ModelError, match=f"no end-of-text token .*257.*eos_token is {end}"):
        load_tokenizer(ModelSettings(str(folder)))


CHAT = [{"role": "user", "content": "2 + 2?"}]
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


@pytest.mark.parametrize("own", [None, "own {{ messages[0].content }}"])
def test_a_chat_template_takes_the_place_of_the_tokenizers_own(
    lora: ModelSettings, folder: Path, own: str | None
) -> None:
    path = folder / "given.jinja"
    path.write_text(TEMPLATE)
    edit_json(folder / "tokenizer_config.json", chat_template=own)
    settings = ModelSettings(str(folder), chat_template=path)
    assert load_tokenizer(settings).apply_chat_template(CHAT, tokenize=False) == "<user>2 + 2?"
    assert load_tokenizer(replace(settings, chat_template=None)).chat_template == own


def test_a_chat_template_may_refuse_some_conversations(folder: Path) -> None:
    path = folder / "given.jinja"
    path.write_text("{{ raise_exception('a system message is needed') }}")
    assert load_tokenizer(ModelSettings(str(folder), chat_template=path)).chat_template


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\n{% for message in messages %}",
            r"given\.jinja, line 2: no Jinja template: Unexpected",
        ),
        (b"\xff", r"given\.jinja: not UTF-8 text"),
        (None, r"given\.jinja: cannot be read: No such file"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused(
    folder: Path, content: bytes | None, message: str
) -> None:
    path = folder / "given.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=f"data.chat_template: .*{message}"):
        load_tokenizer(ModelSettings(str(folder), chat_template=path))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(ModelSettings(str(folder)))


def test_a_broken_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="tokenizer in .* cannot be loaded"):
        load_tokenizer(ModelSettings(str(folder)))


def test_a_missing_folder_suggests_the_one_beside_it(folder: Path) -> None:
    wrong = folder.with_name("tinny")
    with pytest.raises(ModelError, match=f"does not exist; did you mean '{folder}'"):
        load_model(ModelSettings(str(wrong)), seed=1)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match="is a file"):
        load_model(ModelSettings(str(folder / "model.safetensors")), seed=1)


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_broken_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not readable as JSON"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="perpetuum")
    with pytest.raises(ModelError, match="perpetuum"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_a_masked_language_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a causal language model.*BertForMaskedLM"):
        load_model(ModelSettings(str(tmp_path)), seed=1)


def test_logits_changed_after_the_head_are_refused(tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=8,
        final_logit_softcapping=0.01,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="changes its logits"):
        load_model(ModelSettings(str(tmp_path)), seed=1)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only as pytorch_model\.bin, a pickle"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        load_model(ModelSettings(str(folder)), seed=1)


@pytest.mark.parametrize("kept_bytes", [0, 7, 100, -1])
def test_a_cut_weights_file_is_refused(folder: Path, kept_bytes: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_a_garbled_header_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[9] = 0
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged safetensors file: its header"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_missing_tensors_are_not_made_up(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, the first is 'model\.norm\.weight'"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_tensors_of_another_shape_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", intermediate_size=96)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(ModelSettings(str(folder)), seed=1)


def test_shards_are_read_and_a_missing_one_is_named(full: ModelSettings, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(full.name_or_path)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    settings = replace(full, name_or_path=str(tmp_path))
    assert equal(base_weights(settings), base_weights(full))
    shard = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(ModelError, match=r"model-\d+-of-\d+\.safetensors: missing"):
        load_model(settings, seed=1)


def test_an_unreachable_hub_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    settings = ModelSettings("nobody-here/no-such-model")
    for load in (lambda: load_model(settings, seed=1), lambda: load_tokenizer(settings)):
        with pytest.raises(ModelError, match="no folder here, and the Hugging Face hub did not"):
            load()


def test_an_unknown_target_module_lists_the_known_ones(lora: ModelSettings) -> None:
    settings = replace(lora, lora_target_modules=("q_proj", "gate_prj"))
    with pytest.raises(ModelError, match="'gate_prj'; it has down_proj,.*did you mean 'gate_proj'"):
        load_model(settings, seed=1)
    with pytest.raises(ModelError, match="'lm_head'"):
        load_model(replace(lora, lora_target_modules=("lm_head",)), seed=1)
    with pytest.raises(ModelError, match="is empty"):
        load_model(replace(lora, lora_target_modules=()), seed=1)


def test_a_rank_must_be_positive(lora: ModelSettings) -> None:
    with pytest.raises(ModelError, match="lora_r = 0"):
        load_model(replace(lora, lora_r=0), seed=1)


def test_an_unknown_attention_is_refused(lora: ModelSettings) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(replace(lora, attn_implementation="flash_attention_9"), seed=1)


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ModelError, match="'cuda0' is unknown.*did you mean 'cuda'"):
        resolve_device("cuda0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_gpu_is_refused(lora: ModelSettings) -> None:
    with pytest.raises(ModelError, match="no CUDA device"):
        load_model(replace(lora, device="cuda"), seed=1)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_checkpointing_is_switched_on(lora: ModelSettings, tuning: str) -> None:
    model = load_model(replace(lora, tuning=tuning, gradient_checkpointing=True), seed=1)
    flags = [
        m.gradient_checkpointing for m in model.modules() if "gradient_checkpointing" in vars(m)
    ]
    assert flags
    assert all(flags)


def edit_json(path: Path, **changes: object) -> None:
    """Sets keys of a JSON file; None removes one."""
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: item for key, item in value.items() if item is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
