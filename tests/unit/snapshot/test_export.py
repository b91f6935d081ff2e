from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from msft_lite.errors import StorageError
from msft_lite.model.weights import Weights
from msft_lite.snapshot.export import export_best

IDS = torch.tensor([[5, 17, 200, 3, 42, 96]])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def base_model(
    folder: Path, *, tied: bool = True, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 0.5)
    return model.eval()


def adapted(folder: Path) -> PeftModel:
    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base_model(folder), settings)
    return model.eval()


def changed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors of the same names and dtypes that differ from the live model's."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: (t + torch.randn(t.shape, generator=generator).to(t.dtype) / 8).detach().contiguous()
        for name, t in tensors.items()
    }


def adapter_weights(model: PeftModel) -> Weights:
    return Weights("adapter", changed(get_peft_model_state_dict(model)))


def full_weights(model: PreTrainedModel, *, without: tuple[str, ...] = ()) -> Weights:
    state = {n: t for n, t in model.state_dict().items() if n not in without}
    return Weights("full", changed(state))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model_folder)


def test_an_adapter_loads_in_peft_with_identical_logits(
    tiny_model_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    live = adapted(tiny_model_folder)
    weights = adapter_weights(live)
    export_best(weights, tmp_path / "best", model=live, tokenizer=tokenizer)
    loaded = PeftModel.from_pretrained(base_model(tiny_model_folder), tmp_path / "best").eval()

    assert not torch.equal(logits(loaded), logits(live))  # the live model holds other weights
    set_peft_model_state_dict(live, dict(weights.tensors))
    assert torch.equal(logits(loaded), logits(live))
    assert names(tmp_path) == ["best"]


def test_an_adapter_keeps_its_dtype_and_names_its_base(
    tiny_model_folder: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tiny_model_folder.parent)
    live = adapted(Path(tiny_model_folder.name))  # given relative to the working folder
    weights = Weights(
        "adapter", {n: t.bfloat16() for n, t in adapter_weights(live).tensors.items()}
    )
    export_best(weights, tmp_path / "best", model=live, tokenizer=tokenizer)

    config = json.loads((tmp_path / "best" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model_folder.resolve())
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    assert config["inference_mode"] is True
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
    header = (tmp_path / "best" / "adapter_model.safetensors").read_bytes()[8:4000]
    assert b'"BF16"' in header
    assert b'"F32"' not in header


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_full_model_loads_in_transformers_with_identical_logits(
    tied: bool,
    dtype: torch.dtype,
    tiny_model_folder: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    live = base_model(tiny_model_folder, tied=tied, dtype=dtype)
    weights = full_weights(live, without=("lm_head.weight",) if tied else ())
    export_best(weights, tmp_path / "best", model=live, tokenizer=tokenizer)
    loading: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "best", output_loading_info=True)
    loaded, information = loading

    assert not any(information.values())  # no missing, unexpected or mismatched tensor
    assert loaded.dtype == dtype
    assert loaded.config.tie_word_embeddings is tied
    live.load_state_dict(dict(weights.tensors), strict=False)
    live.tie_weights()
    assert torch.equal(logits(loaded.eval()), logits(live))


@pytest.mark.parametrize("frozen", ["model.embed_tokens.weight", "model.norm.weight"])
def test_frozen_tensors_are_taken_from_the_model(
    frozen: str, tiny_model_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    live = base_model(tiny_model_folder)
    weights = full_weights(live, without=(frozen, "lm_head.weight"))
    export_best(weights, tmp_path / "best", model=live, tokenizer=tokenizer)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "best")
    live.load_state_dict(dict(weights.tensors), strict=False)
    assert torch.equal(logits(loaded.eval()), logits(live))


def test_a_tied_head_captured_under_its_other_name_is_not_doubled(
    tiny_model_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    live = base_model(tiny_model_folder)
    weights = full_weights(live, without=("lm_head.weight",))
    export_best(weights, tmp_path / "best", model=live, tokenizer=tokenizer)
    content = (tmp_path / "best" / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert header.keys() == weights.tensors.keys()


def test_the_live_model_stays_as_it_is(
    tiny_model_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    for live in (adapted(tiny_model_folder), base_model(tiny_model_folder)):
        is_adapted = isinstance(live, PeftModel)
        weights = adapter_weights(live) if is_adapted else full_weights(live)
        before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
        configs = [copy.deepcopy(live.config.to_dict())]
        configs += [copy.deepcopy(live.peft_config["default"].to_dict())] if is_adapted else []
        export_best(weights, tmp_path / "best", model=live, tokenizer=tokenizer)
        after = live.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        now = [live.config.to_dict()]
        now += [live.peft_config["default"].to_dict()] if is_adapted else []
        assert now == configs


def test_the_tokenizer_comes_along(
    tiny_model_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    live = adapted(tiny_model_folder)
    export_best(adapter_weights(live), tmp_path / "best", model=live, tokenizer=tokenizer)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "best")
    text = "Q: sort 3 1 2\nA: #### 1 2 3"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.eos_token == tokenizer.eos_token


def test_an_earlier_export_is_replaced_as_a_whole(
    tiny_model_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    best = tmp_path / "best"
    for leftover in ("best.tmp", "best.old"):  # of a killed process
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "half").write_text("")
    full = base_model(tiny_model_folder)
    export_best(full_weights(full), best, model=full, tokenizer=tokenizer)
    assert "model.safetensors" in names(best)
    live = adapted(tiny_model_folder)
    export_best(adapter_weights(live), best, model=live, tokenizer=tokenizer)
    assert "model.safetensors" not in names(best)
    assert "adapter_model.safetensors" in names(best)
    assert names(tmp_path) == ["best"]


@pytest.mark.parametrize("failing", ["fsync", "rename", "mkdir"])
def test_a_fault_leaves_the_earlier_export(
    failing: str,
    tiny_model_folder: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = tmp_path / "best"
    live = adapted(tiny_model_folder)
    weights = adapter_weights(live)
    export_best(weights, best, model=live, tokenizer=tokenizer)
    before = {path.name: path.read_bytes() for path in best.iterdir()}
    real = vars(os)[failing]

    def full(*arguments: object) -> object:
        if failing == "rename" and not str(arguments[0]).endswith(".tmp"):
            return real(*arguments)  # only the second of the two renames fails
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(StorageError, match=f"free some room .* msft-lite resume {tmp_path}$"):
            export_best(adapter_weights(live), best, model=live, tokenizer=tokenizer)
    assert names(tmp_path) == ["best"]
    assert {path.name: path.read_bytes() for path in best.iterdir()} == before


def test_a_tokenizer_that_cannot_be_saved_is_a_storage_error(
    tiny_model_folder: Path,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_folder: Path) -> None:
        raise Exception("No space left on device (os error 28)")

    live = adapted(tiny_model_folder)
    monkeypatch.setattr(tokenizer, "save_pretrained", failing)
    with pytest.raises(StorageError, match=r"cannot save the tokenizer: No space left"):
        export_best(adapter_weights(live), tmp_path / "best", model=live, tokenizer=tokenizer)
    assert names(tmp_path) == []


def test_a_link_under_one_of_its_names_goes_and_not_what_it_leads_to(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    run = tmp_path / "run"
    run.mkdir()
    (run / "best").symlink_to(elsewhere)
    model = base_model(tiny_model_folder)
    weights = Weights("full", {"model.norm.weight": torch.ones(64)})
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    export_best(weights, run / "best", model=model, tokenizer=tokenizer)
    assert names(run) == ["best"]
    assert names(elsewhere) == ["mine"]
