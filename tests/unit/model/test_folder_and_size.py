"""Folders of models, and sizes told from their headers without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Olmo2Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from msft_lite.errors import ModelError
from msft_lite.model.folder import check_folder, local_folder, read_headers
from msft_lite.model.load import capture, load_model
from msft_lite.model.settings import ModelSettings
from msft_lite.model.size import model_size

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
FAMILIES = [Qwen2Config, Qwen3Config, LlamaConfig, Olmo2Config]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_equal_those_of_the_loaded_model(
    family: type[PretrainedConfig], tied: bool, tmp_path: Path
) -> None:
    config = family.from_dict(SHAPE | {"tie_word_embeddings": tied})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    lora = ModelSettings(str(tmp_path), dtype="bfloat16", lora_r=3)
    some = replace(lora, lora_target_modules=("q_proj", "layers.1.mlp.up_proj"))
    for settings in (lora, some, replace(lora, tuning="full")):
        model = load_model(settings, seed=1)
        size = model_size(settings)
        assert size is not None
        weights = capture(model)
        trainable = sum(t.numel() for t in weights.tensors.values())
        adapter = trainable if settings.tuning == "lora" else 0
        assert size.parameters == sum(p.numel() for p in model.parameters()) - adapter
        assert size.trainable_parameters == trainable
        assert size.snapshot_bytes == weights.total_bytes


def test_a_model_on_the_hub_has_no_size_yet() -> None:
    assert model_size(ModelSettings("somebody/some-model")) is None


def test_an_unknown_target_has_no_size(tiny_model_folder: Path) -> None:
    settings = ModelSettings(str(tiny_model_folder), lora_target_modules=("wq",))
    with pytest.raises(ModelError, match="no linear module 'wq'; it has down_proj"):
        model_size(settings)


def test_sizes_need_no_torch(tiny_model_folder: Path) -> None:
    program = (
        "import sys\n"
        "from msft_lite.model.settings import ModelSettings\n"
        "from msft_lite.model.size import model_size\n"
        "print(model_size(ModelSettings(sys.argv[1])).parameters, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tiny_model_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    parameters = sum(header.total_bytes // 4 for header in read_headers(tiny_model_folder).values())
    assert done.stdout.split() == [str(parameters), "False"]


def test_headers_agree_with_the_tensors(tiny_model_folder: Path) -> None:
    headers = read_headers(tiny_model_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {name: header.shape for name, header in headers.items()} == expected
    assert {header.dtype for header in headers.values()} == {"F32"}


@pytest.mark.parametrize("name", ["./nowhere/base", "/nowhere", "~/nowhere/x", "a/b/c"])
def test_a_path_without_a_folder_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        local_folder(name)


@pytest.mark.parametrize("name", ["gpt2", "nobody-here/no-such-model"])
def test_other_names_are_left_to_the_hub(name: str) -> None:
    assert local_folder(name) is None


def test_one_slash_below_an_existing_folder_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_folder("models/base") == Path("models/base")
    with pytest.raises(ModelError, match="did you mean 'models/base'"):
        local_folder("models/bse")


def test_an_index_without_a_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="a JSON object is expected"):
        check_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="no 'weight_map'"):
        check_folder(tmp_path)


def test_a_shard_outside_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    text = '{"weight_map": {"w": "../secret.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    (tmp_path / "secret.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="missing"):
        check_folder(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"\xff\xfe",
        b'{"w": 3}',
        b'{"w": {"dtype": "F32", "shape": [1]}}',
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}',
    ],
)
def test_hostile_headers_are_refused(header: bytes, tmp_path: Path) -> None:
    content = len(header).to_bytes(8, "little") + header + b"\0" * 4
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        read_headers(tmp_path)


def test_a_header_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((1 << 62).to_bytes(8, "little"))
    with pytest.raises(ModelError, match="cannot hold its header"):
        read_headers(tmp_path)
