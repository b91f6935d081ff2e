"""The dequantised base on its way to an engine, and the check that it arrived."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

pytest.importorskip("bitsandbytes")  # in the extras alone

from msft_lite.engine.dequantised import DequantisedBase
from msft_lite.engine.handover import LOCK_NAME
from msft_lite.errors import EngineError
from msft_lite.model.dense import dense_tensors
from msft_lite.model.folder import INDEX_FILE, read_headers
from msft_lite.model.load import ModelSettings, load_model

LAYER = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> torch.nn.Module:
    settings = ModelSettings(str(tiny_model_folder), dtype="bfloat16", load_in_4bit=True)
    return load_model(settings, seed=1)


@pytest.fixture
def base(
    model: torch.nn.Module,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> DequantisedBase:
    monkeypatch.setattr("msft_lite.engine.handover._has_room", lambda *_: False)
    return DequantisedBase(model, tiny_model_folder, fallback=tmp_path)


class Held:
    """An engine that holds ``tensors``, as its process would tell."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __call__(self, request: Mapping[str, object]) -> Mapping[str, object]:
        shapes = request["shapes"]
        assert isinstance(shapes, Mapping)
        here = {name: self.tensors[name] for name in shapes if name in self.tensors}
        if request["operation"] == "held":
            return {"names": list(here)}
        return {"digests": {name: _digest(tensor) for name, tensor in here.items()}}


def _digest(tensor: torch.Tensor) -> list[str]:
    content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype).removeprefix("torch."), hashlib.sha256(content).hexdigest()]


def test_it_is_a_model_folder_of_the_weights_that_are_multiplied_with(
    base: DequantisedBase, model: torch.nn.Module, tiny_model_folder: Path
) -> None:
    wanted = dense_tensors(model, merged=False)
    found = load_file(base.folder / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    config = (base.folder / "config.json").read_text()
    assert config == (tiny_model_folder / "config.json").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(base.folder)
    assert isinstance(loaded, PreTrainedModel)


def test_it_goes_and_stays_gone(base: DequantisedBase) -> None:
    assert (base.folder / LOCK_NAME).exists()
    for _ in range(2):
        base.remove()
        assert not base.folder.exists()


def test_the_next_one_removes_what_a_killed_run_left(
    base: DequantisedBase, model: torch.nn.Module, tiny_model_folder: Path, tmp_path: Path
) -> None:
    left = tmp_path / "msft-lite-weights-left"
    left.mkdir()
    (left / LOCK_NAME).touch()  # nobody holds its lock
    DequantisedBase(model, tiny_model_folder, fallback=tmp_path).remove()
    assert list(tmp_path.iterdir()) == [base.folder]


def test_a_large_one_is_written_in_shards(
    model: torch.nn.Module,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("msft_lite.engine.handover._has_room", lambda *_: False)
    monkeypatch.setattr("msft_lite.engine.handover.SHARD_BYTES", 100_000)
    base = DequantisedBase(model, tiny_model_folder, fallback=tmp_path)
    placed = json.loads((base.folder / INDEX_FILE).read_text())["weight_map"]
    wanted = dense_tensors(model, merged=False)
    assert placed.keys() == wanted.keys() == read_headers(base.folder).keys()
    assert len(set(placed.values())) > 1
    for file in set(placed.values()):
        assert (base.folder / file).stat().st_size < 110_000
    for name, file in placed.items():
        with safe_open(base.folder / file, framework="pt") as opened:
            assert torch.equal(opened.get_tensor(name), wanted[name])
    base.remove()


def test_an_engine_that_holds_its_layers_unpacked_is_compared_bit_by_bit(
    base: DequantisedBase, model: torch.nn.Module, tiny_model_folder: Path
) -> None:
    folder, right = str(base.folder), dense_tensors(model, merged=False)
    assert base.check(Held({LAYER: right[LAYER]}), folder) == ""
    stored = load_file(tiny_model_folder / "model.safetensors")
    wrong = {LAYER: stored[LAYER].bfloat16()}
    with pytest.raises(EngineError, match=r"another base .*down_proj\.weight is the unquantised"):
        base.check(Held(wrong), folder)
    for packed in ({}, {LAYER: right[LAYER].T.contiguous().view(right[LAYER].shape)}):
        assert "log probabilities alone" in base.check(Held(packed), folder)


def test_an_engine_that_loaded_another_folder_is_refused(
    base: DequantisedBase, tiny_model_folder: Path
) -> None:
    with pytest.raises(EngineError, match=f"another base .* has loaded {tiny_model_folder}"):
        base.check(Held({}), str(tiny_model_folder))


def test_another_models_base_is_refused(
    model: torch.nn.Module, tiny_model_folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_model_folder, tmp_path / "other"))
    stored = load_file(other / "model.safetensors")
    save_file({name: stored[name] for name in stored if name != LAYER}, other / "model.safetensors")
    with pytest.raises(EngineError, match=rf"unknown tensor {LAYER}.* another model"):
        DequantisedBase(model, tmp_path / "other", fallback=tmp_path)
