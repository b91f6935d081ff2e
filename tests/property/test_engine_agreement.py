"""Law 9: the vLLM and torch engines give the same greedy tokens in float32, swap after swap."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.handover import weights_folder
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine
from msft_lite.errors import EngineError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import capture
from msft_lite.model.weights import Weights
from tests.both_engines import (
    answers,
    assert_same,
    canary,
    moved,
    prompts,
    torch_engine,
    vllm_settings,
)

EOS_ID = 146  # a token that the random model does generate, so that some texts end early
ADAPTER = LoraConfig(
    r=8,
    lora_alpha=12,
    use_rslora=True,
    target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"],
    rank_pattern={"v_proj": 4, "layers.1.mlp.down_proj": 11},
    alpha_pattern={"gate_proj": 5},
)


@pytest.fixture(scope="module")
def adapted(tiny_model_folder: Path) -> PeftModel:
    return get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_folder), ADAPTER)


@pytest.fixture(scope="module")
def dense(tiny_model_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model_folder)


@pytest.fixture(scope="module")
def engines(
    tiny_model_folder: Path, adapted: PeftModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmEngine, VllmEngine]]:
    """Two engines that start side by side: one for adapters, one for full weights."""
    logs = tmp_path_factory.mktemp("logs")
    config = adapter_config(adapted)
    full = vllm_settings(tiny_model_folder, logs / "full.log", eos_id=EOS_ID)
    adapters = VllmEngine(replace(full, log_path=logs / "adapter.log", adapter=config))
    full = VllmEngine(full)
    yield adapters, full
    adapters.close()
    full.close()


def reference(model: torch.nn.Module) -> TorchEngine:
    return torch_engine(model, eos_id=EOS_ID)


def test_the_prompts_end_both_ways(dense: PreTrainedModel) -> None:
    found = reference(dense).complete(prompts())
    ended = [one.ids[-1] == EOS_ID for one in found]
    assert any(ended)
    assert not all(ended)


def test_adapters_agree_swap_after_swap(
    engines: tuple[VllmEngine, VllmEngine], adapted: PeftModel
) -> None:
    vllm, trainer = engines[0], reference(adapted)
    root = capture(adapted)
    assert_same(answers(vllm), answers(trainer))  # before any swap: the base
    bird, seen = canary(trainer), []
    for number, weights in enumerate([root, *(moved(root, n, 0.05) for n in range(3)), root]):
        for engine in (vllm, trainer):
            engine.swap(weights, f"s{number}")
        assert bird.check(vllm, f"s{number}").largest < 1e-4
        seen.append(answers(vllm))
        assert_same(seen[-1], answers(trainer))
    assert seen[0] == seen[-1]
    assert len({tuple(one.ids for one in found) for found in seen}) == len(seen) - 1


def test_full_weights_with_a_tied_head_agree_swap_after_swap(
    engines: tuple[VllmEngine, VllmEngine], dense: PreTrainedModel
) -> None:
    vllm, trainer = engines[1], reference(dense)
    root = capture(dense)
    assert "lm_head.weight" not in root.tensors
    bird, seen = canary(trainer), []
    for number, weights in enumerate([moved(root, 1, 0.02), moved(root, 2, 0.02), root]):
        for engine in (vllm, trainer):
            engine.swap(weights, f"s{number}")
        bird.check(vllm, f"s{number}")
        seen.append(answers(vllm))
        assert_same(seen[-1], answers(trainer))
    assert len({tuple(one.ids for one in found) for found in seen}) == len(seen)
    assert not list(Path("/dev/shm").glob("msft-lite-weights-*"))
    assert vllm.notices == ()


@pytest.mark.parametrize("which", [0, 1], ids=["adapter", "full"])
def test_candidates_weigh_the_same_beside_texts_that_are_written(
    engines: tuple[VllmEngine, VllmEngine],
    adapted: PeftModel,
    dense: PreTrainedModel,
    which: int,
) -> None:
    vllm, model = engines[which], (adapted, dense)[which]
    trainer = reference(model)
    mixed = [
        Prompt(prompt.ids, 1, (66, 67, 68, 69)[: 2 + place % 3]) if place % 2 else prompt
        for place, prompt in enumerate(prompts())
    ]
    for seed in (3, 4):
        for engine in (vllm, trainer):
            engine.swap(moved(capture(model), seed, 0.05), f"s{seed}")
        found, wanted = vllm.complete(mixed), trainer.complete(mixed)
        assert [len(one.log_probabilities) for one in found[1::2]] == [3, 2, 4] * 4
        assert_same(found, wanted)
        likeliest = [max(range(len(v)), key=v.__getitem__) for v in weighed(found)]
        assert likeliest == [max(range(len(v)), key=v.__getitem__) for v in weighed(wanted)]
        assert len(set(likeliest)) > 1
    assert max(one.cached_tokens for one in found[1:12:2]) == 96


def weighed(found: Sequence[Completion]) -> list[tuple[float, ...]]:
    return [one.log_probabilities for one in found if not one.ids]


def test_full_weights_that_did_not_arrive_are_seen_where_the_canary_is_blind(
    engines: tuple[VllmEngine, VllmEngine],
    dense: PreTrainedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vllm, trainer, root = engines[1], reference(dense), capture(dense)
    stale, fresh = moved(root, 8, 0.02), moved(moved(root, 8, 0.02), 9, 1e-7)
    vllm.swap(stale, "s1")
    trainer.swap(fresh, "s2")
    canary(trainer).check(vllm, "s2")

    @contextmanager
    def unchanged(_: object, *, fallback: Path) -> Iterator[Path]:
        with weights_folder(stale.tensors, fallback=fallback) as folder:
            yield folder

    with monkeypatch.context() as patch:
        patch.setattr("msft_lite.engine.vllm_engine.weights_folder", unchanged)
        with pytest.raises(EngineError, match="did not take the weights of snapshot s2: tensor"):
            vllm.swap(fresh, "s2")
    vllm.swap(fresh, "s2")
    # The same where the request itself is lost: the worker keeps the weights that it has.
    with monkeypatch.context() as patch:
        ask = vllm._ask
        patch.setattr(vllm, "_ask", lambda r: {} if r["operation"] == "weights" else ask(r))
        with pytest.raises(EngineError, match=r"snapshot s1: tensor model\.embed_tokens"):
            vllm.swap(stale, "s1")


@pytest.mark.parametrize("which", [0, 1], ids=["adapter", "full"])
def test_the_prefix_cache_is_used_and_forgotten_at_a_swap(
    engines: tuple[VllmEngine, VllmEngine],
    adapted: PeftModel,
    dense: PreTrainedModel,
    which: int,
) -> None:
    vllm, weights = engines[which], capture((adapted, dense)[which])
    alone = [prompts()[0]]
    cached = []
    for _ in range(2):
        vllm.swap(weights, "root")
        for _ in range(2):
            (answer,) = vllm.complete(alone)
            cached.append(answer.cached_tokens)
    assert cached == [0, 96, 0, 96]


def test_the_canary_sees_an_engine_with_other_weights(
    engines: tuple[VllmEngine, VllmEngine], adapted: PeftModel, dense: PreTrainedModel
) -> None:
    for vllm, model in zip(engines, (adapted, dense), strict=True):
        trainer, root = reference(model), capture(model)
        # A thousandth of a weight's spread: a late training step with a small learning rate.
        for spread in (0.05, 0.005):
            trainer.swap(moved(root, 5, spread), "s1")
            vllm.swap(moved(root, 5, spread), "s1")
            canary(trainer).check(vllm, "s1")
            vllm.swap(moved(root, 6, spread), "s2")
            with pytest.raises(EngineError, match="not the trainer's: at snapshot s1"):
                canary(trainer).check(vllm, "s1")


def test_the_canary_sees_an_adapter_that_is_not_applied(
    engines: tuple[VllmEngine, VllmEngine], adapted: PeftModel
) -> None:
    vllm, trainer, root = engines[0], reference(adapted), capture(adapted)
    bird = canary(trainer)
    vllm.swap(root, "root")
    bird.check(vllm, "root")
    trainer.swap(moved(root, 7, 0.05), "s1")  # and the engine keeps the untrained one
    with pytest.raises(EngineError, match="not the trainer's: at snapshot s1"):
        bird.check(vllm, "s1")


def test_weights_of_another_kind_or_model_are_refused(
    engines: tuple[VllmEngine, VllmEngine], adapted: PeftModel, dense: PreTrainedModel
) -> None:
    with pytest.raises(EngineError, match="holds full weights"):
        engines[0].swap(capture(dense), "s1")
    with pytest.raises(EngineError, match="holds an adapter"):
        engines[1].swap(capture(adapted), "s1")
    tensors = dict(capture(dense).tensors)
    norm = tensors.pop("model.norm.weight")
    with pytest.raises(EngineError, match=r"misses the tensor model\.norm\.weight"):
        engines[1].swap(Weights("full", tensors), "s1")
    tensors |= {"model.norm.weight": norm, "model.norm.bias": norm}
    with pytest.raises(EngineError, match=r"unknown tensor model\.norm\.bias"):
        engines[1].swap(Weights("full", tensors), "s1")


def test_the_trainer_never_imports_vllm(engines: tuple[VllmEngine, VllmEngine]) -> None:
    assert engines[0].introduction["vllm"]
    assert "vllm" not in sys.modules
