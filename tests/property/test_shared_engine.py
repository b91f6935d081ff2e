"""Law 9 with one copy of the weights: vLLM computes with the trainer's memory, swap after swap."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from msft_lite.engine import shared_weights
from msft_lite.engine.base import Completion
from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.engine.shared_weights import SharedWeights
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import EngineError, EngineLostError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import apply, capture
from msft_lite.model.weights import Weights
from tests.both_engines import answers, assert_same, moved, prompts, torch_engine, vllm_settings
from tests.tiny_models import random_model

EOS_ID = 146
CASES = [("qwen2", "full"), ("qwen2", "lora"), ("llama", "full"), ("llama", "lora")]
full = pytest.mark.parametrize("pair", [CASES[0], CASES[2]], indirect=True, ids="-".join)
once = pytest.mark.parametrize("pair", CASES[:1], indirect=True, ids="-".join)


def saved_model(kind: str, folder: Path) -> Path:
    """A model with tied (Qwen2) or untied (Llama) embeddings, its norms and biases random too."""
    model = random_model(kind, tied=kind == "qwen2")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.1)
    model.save_pretrained(folder)
    return folder


@dataclass
class Pair:
    """A trainer's model and an engine that shares its weights."""

    folder: Path
    model: PreTrainedModel | PeftModel
    settings: VllmSettings
    engine: VllmEngine

    def answers_of_trainer(self) -> list[Completion]:
        return answers(torch_engine(self.model, eos_id=EOS_ID))


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    kind, tuning = request.param
    folder = saved_model(kind, tmp_path_factory.mktemp("model"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapter = None
    if tuning == "lora":
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=12, target_modules="all-linear"))
        adapter = adapter_config(model)
    log = tmp_path_factory.mktemp("log") / "engine.log"
    settings = replace(
        vllm_settings(folder, log, eos_id=EOS_ID),
        adapter=adapter,
        shared=SharedWeights(model, CheckpointNames.of(folder), torch.device("cpu")),
        must_share=True,
    )
    engine = VllmEngine(settings)
    yield Pair(folder, model, settings, engine)
    engine.close()


def test_it_answers_as_an_engine_that_was_started_on_the_exported_weights(
    pair: Pair, tmp_path: Path
) -> None:
    snapshot = moved(capture(pair.model), 1, 0.02)
    apply(pair.model, snapshot)
    pair.engine.swap(snapshot, "s1")
    exported = pair.folder
    if pair.settings.adapter is None:
        exported = tmp_path / "exported"
        pair.model.save_pretrained(str(exported))
    own = replace(pair.settings, model_folder=exported, shared=None, must_share=False)
    fresh = VllmEngine(own)
    try:
        if pair.settings.adapter is not None:
            fresh.swap(snapshot, "s1")
        assert pair.engine.shares_weights
        assert not fresh.shares_weights
        assert_same(answers(pair.engine), answers(fresh))
    finally:
        fresh.close()


def test_swap_after_swap_it_answers_as_the_trainer(pair: Pair) -> None:
    root, seen = capture(pair.model), []
    for number, weights in enumerate([root, moved(root, 2, 0.03), moved(root, 3, 0.03), root]):
        apply(pair.model, weights)
        pair.engine.swap(weights, f"s{number}")
        seen.append(answers(pair.engine))
        assert_same(seen[-1], pair.answers_of_trainer())
    assert seen[0] == seen[-1]
    assert len({tuple(one.ids for one in found) for found in seen}) == len(seen) - 1
    assert pair.engine.notices == ()


def test_no_weight_of_the_base_is_held_twice(pair: Pair) -> None:
    maps = Path(f"/proc/{pair.engine.process_id}/maps").read_text()
    assert "memfd:msft-lite-weights" in maps
    assert "/dev/shm/msft-lite" not in maps
    name = "model.layers.1.input_layernorm.weight"
    request = {"operation": "digests", "shapes": {name: [64]}}
    before = pair.engine._ask(request)
    base = shared_weights.base_parameters(pair.model)
    kept = {name: parameter.detach().clone() for name, parameter in base.items()}
    with torch.no_grad():
        for parameter in base.values():
            parameter.mul_(1.1)
        assert pair.engine._ask(request) != before
        pair.engine.swap(capture(pair.model), "changed")
        assert_same(answers(pair.engine), pair.answers_of_trainer())
        for name, parameter in base.items():
            parameter.copy_(kept[name])
    assert pair.engine._ask(request) == before
    pair.engine.swap(capture(pair.model), "root")


@full
def test_a_full_swap_moves_no_byte_and_forgets_what_was_cached(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, alone, cached, sent = capture(pair.model), [prompts()[0]], [], []
    ask = pair.engine._ask

    def told(request: dict[str, object], tensors: bytes = b"") -> dict[str, object]:
        sent.append((request["operation"], len(tensors)))
        return ask(request, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(pair.engine, "_ask", told)
        patch.delattr("msft_lite.engine.vllm_engine.weights_folder")
        for _ in range(2):
            pair.engine.swap(snapshot, "root")
            for _ in range(2):
                (answer,) = pair.engine.complete(alone)
                cached.append(answer.cached_tokens)
    assert cached == [0, 96, 0, 96]
    assert sum(count for _, count in sent) == 0
    assert "weights" not in [operation for operation, _ in sent]


@full
def test_a_snapshot_that_the_trainer_does_not_hold_is_refused(pair: Pair) -> None:
    root = capture(pair.model)
    name = "model.layers.1.self_attn.k_proj.weight"
    other = root.tensors[name].clone()
    other[-1, -1] = torch.nextafter(other[-1, -1], torch.tensor(9.0))
    with pytest.raises(EngineError, match=r"k_proj\.weight that trainer and engine share is not"):
        pair.engine.swap(Weights("full", {**root.tensors, name: other}), "s2")
    pair.engine.swap(root, "s1")


@once
def test_an_engine_that_dies_takes_nothing_along_and_the_next_one_adopts_again(pair: Pair) -> None:
    snapshot = capture(pair.model)
    pair.engine.swap(snapshot, "s1")
    wanted = answers(pair.engine)
    os.kill(pair.engine.process_id, signal.SIGKILL)
    with pytest.raises(EngineLostError):
        pair.engine.complete(prompts())
    after = capture(pair.model)
    assert all(torch.equal(after.tensors[n], t) for n, t in snapshot.tensors.items())
    assert_same(pair.answers_of_trainer(), wanted)
    second = VllmEngine(pair.settings)
    try:
        second.swap(snapshot, "s1")
        assert second.shares_weights
        assert_same(answers(second), wanted)
    finally:
        second.close()


@pytest.fixture(scope="module")
def misfit(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, VllmSettings]:
    """A trainer that lays its embedding out in another way than vLLM."""
    folder = saved_model("qwen2", tmp_path_factory.mktemp("model"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_weights, "VOCABULARY_ROWS", 1)
        shared = SharedWeights(model, CheckpointNames.of(folder), torch.device("cpu"))
    log = tmp_path_factory.mktemp("log") / "engine.log"
    return model, replace(vllm_settings(folder, log, eos_id=EOS_ID), shared=shared)


def test_where_it_cannot_share_it_says_why_and_holds_a_copy(
    misfit: tuple[PreTrainedModel, VllmSettings],
) -> None:
    # vLLM on a CPU takes part in going to sleep and waking up, though its memory stays.
    model, settings = misfit
    engine = VllmEngine(replace(settings, sleep_level=2))
    refused = VllmEngine(replace(settings, must_share=True))
    try:
        for seed in (1, 2):
            snapshot = moved(capture(model), seed, 0.02)
            apply(model, snapshot)
            with engine.awake():
                engine.swap(snapshot, f"s{seed}")
                found = engine.complete(prompts(), log_probabilities=True)
            assert_same(found, answers(torch_engine(model, eos_id=EOS_ID)))
        assert not engine.shares_weights
        (notice,) = engine.notices
        assert "vllm holds a copy of the weights" in notice
        assert "[257, 64] in the trainer and torch.float32 [320, 64] in vLLM" in notice
        with pytest.raises(EngineError, match=r"set engine\.share_weights = false"):
            refused.swap(snapshot, "s2")
    finally:
        engine.close()
        refused.close()
