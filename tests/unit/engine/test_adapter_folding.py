from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from msft_lite.engine.adapter import Scaling, fold
from msft_lite.errors import EngineError

PLAIN = {"r": 8, "lora_alpha": 16}
NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def adapter_tensors(folder: Path, **config: Any) -> tuple[dict[str, torch.Tensor], Any]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", **config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(generator=generator)
    return get_peft_model_state_dict(adapted, save_embedding_layers=False), adapted


@pytest.mark.parametrize(
    "config",
    [
        {"r": 8, "lora_alpha": 32},
        {"r": 7, "lora_alpha": 3, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 9}},
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {"layers.0.self_attn.v_proj": 5}},
        {
            "r": 4,
            "lora_alpha": 8,
            "use_rslora": True,
            "rank_pattern": {"^model.layers.0.mlp.up_proj": 6},
            "alpha_pattern": {"up_proj": 1},
        },
    ],
)
def test_a_folded_adapter_is_what_peft_adds_to_the_weights(
    tiny_model_folder: Path, config: dict[str, Any]
) -> None:
    tensors, adapted = adapter_tensors(tiny_model_folder, **config)
    scaling = Scaling.of(adapted.peft_config["default"].to_dict())
    folded = fold(tensors, scaling)
    assert folded.keys() == tensors.keys()
    for name, module in adapted.named_modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        a, b = folded[f"{name}.lora_A.weight"], folded[f"{name}.lora_B.weight"]
        assert a.shape[0] == b.shape[1] == scaling.widest_rank
        # Folding multiplies before the product instead of after it: rounding only.
        torch.testing.assert_close(b @ a, module.get_delta_weight("default"))


def test_the_rank_given_to_the_engine_is_one_that_it_knows() -> None:
    assert Scaling.of(PLAIN).engine_rank == 8
    assert Scaling.of(PLAIN | {"rank_pattern": {"q_proj": 9}}).engine_rank == 16
    assert Scaling.of(PLAIN | {"r": 300}).engine_rank == 320
    with pytest.raises(EngineError, match="512 at most, not 513"):
        _ = Scaling.of(PLAIN | {"r": 513}).engine_rank


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": None}, "r = None"),
        ({"rank_pattern": 3}, "rank_pattern = 3"),
    ],
)
def test_what_cannot_be_folded_is_refused(extra: dict[str, Any], says: str) -> None:
    with pytest.raises(EngineError, match=says):
        Scaling.of(PLAIN | extra)


def test_a_tensor_that_is_no_matrix_of_the_adapter_is_refused_by_name() -> None:
    scaling = Scaling.of(PLAIN)
    with pytest.raises(EngineError, match="lora_embedding_A"):
        fold({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(8, 2)}, scaling)
    with pytest.raises(EngineError, match="lora_A.weight has rank 4, .* says 8"):
        fold({NAME.format("A"): torch.ones(4, 64)}, scaling)
