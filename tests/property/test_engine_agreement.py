"""Law 9: the vLLM and torch engines give the same greedy tokens in float32, swap after swap."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from msft_lite.engine.base import Completion, EvalEngine, Prompt
from msft_lite.engine.canary import FLOAT32, Canary
from msft_lite.engine.handover import weights_folder
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import EngineError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import capture
from msft_lite.model.weights import Weights

EOS_ID = 146  # a token that the random model does generate, so that some texts end early
ADAPTER = LoraConfig(
    r=8,
    lora_alpha=12,
    use_rslora=True,
    target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"],
    rank_pattern={"v_proj": 4, "layers.1.mlp.down_proj": 11},
    alpha_pattern={"gate_proj": 5},
)


def prompts() -> list[Prompt]:
    """Prompts that share their first 96 tokens, as those with the same shots do, and others."""
    draw = random.Random(11)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, 257) for _ in range(count))

    shots = ids(96)
    shared = [Prompt(shots + ids(draw.randint(1, 50)), 16) for _ in range(12)]
    return shared + [Prompt(ids(draw.randint(1, 120)), draw.randint(1, 24)) for _ in range(12)]


def settings(folder: Path, log: Path, adapter: object = None) -> VllmSettings:
    return VllmSettings(
        model_folder=folder,
        dtype="float32",
        max_model_len=256,
        eos_ids=(EOS_ID,),
        log_path=log,
        adapter=adapter,  # pyright: ignore[reportArgumentType]
        threads=1,
        max_num_seqs=8,
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
    adapters = VllmEngine(settings(tiny_model_folder, logs / "adapter.log", config))
    full = VllmEngine(settings(tiny_model_folder, logs / "full.log"))
    yield adapters, full
    adapters.close()
    full.close()


def reference(model: torch.nn.Module) -> TorchEngine:
    return TorchEngine(model, eos_ids=(EOS_ID,), pad_id=0, batch_size=7)


def canary(trainer: TorchEngine) -> Canary:
    probes = [prompt.ids for prompt in prompts()[:4]]
    return Canary(probes, tolerance=FLOAT32, log_probabilities=trainer.log_probabilities)


def noisy(weights: Weights, seed: int, spread: float) -> Weights:
    """The weights after training that went elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    return Weights(
        weights.kind,
        {
            name: tensor + spread * torch.randn(tensor.shape, generator=generator)
            for name, tensor in weights.tensors.items()
        },
    )


def assert_same(found: Sequence[Completion], wanted: Sequence[Completion]) -> None:
    assert [one.ids for one in found] == [one.ids for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        # Two implementations in float32; 4e-6 measured.
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)


def answers(engine: EvalEngine) -> list[Completion]:
    with engine.awake():
        return engine.complete(prompts(), log_probabilities=True)


def test_the_prompts_end_both_ways(dense: PreTrainedModel) -> None:
    found = reference(dense).complete(prompts())
    ended = [one.ids[-1] == EOS_ID for one in found]
    assert any(ended)
    assert not all(ended)


def test_adapters_agree_swap_after_swap(
    engines: tuple[VllmEngine, VllmEngine], adapted: PeftModel
) -> None:
    vllm, torch_engine = engines[0], reference(adapted)
    root = capture(adapted)
    assert_same(answers(vllm), answers(torch_engine))  # before any swap: the base
    bird, seen = canary(torch_engine), []
    for number, weights in enumerate([root, *(noisy(root, n, 0.05) for n in range(3)), root]):
        for engine in (vllm, torch_engine):
            engine.swap(weights, f"s{number}")
        assert bird.check(vllm, f"s{number}").largest < 1e-4
        seen.append(answers(vllm))
        assert_same(seen[-1], answers(torch_engine))
    assert seen[0] == seen[-1]
    assert len({tuple(one.ids for one in found) for found in seen}) == len(seen) - 1


def test_full_weights_with_a_tied_head_agree_swap_after_swap(
    engines: tuple[VllmEngine, VllmEngine], dense: PreTrainedModel
) -> None:
    vllm, torch_engine = engines[1], reference(dense)
    root = capture(dense)
    assert "lm_head.weight" not in root.tensors
    bird, seen = canary(torch_engine), []
    for number, weights in enumerate([noisy(root, 1, 0.02), noisy(root, 2, 0.02), root]):
        for engine in (vllm, torch_engine):
            engine.swap(weights, f"s{number}")
        bird.check(vllm, f"s{number}")
        seen.append(answers(vllm))
        assert_same(seen[-1], answers(torch_engine))
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
    torch_engine = reference(model)
    mixed = [
        Prompt(prompt.ids, 1, (66, 67, 68, 69)[: 2 + place % 3]) if place % 2 else prompt
        for place, prompt in enumerate(prompts())
    ]
    for seed in (3, 4):
        for engine in (vllm, torch_engine):
            engine.swap(noisy(capture(model), seed, 0.05), f"s{seed}")
        found, wanted = vllm.complete(mixed), torch_engine.complete(mixed)
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
    stale, fresh = noisy(root, 8, 0.02), noisy(noisy(root, 8, 0.02), 9, 1e-7)
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
            trainer.swap(noisy(root, 5, spread), "s1")
            vllm.swap(noisy(root, 5, spread), "s1")
            canary(trainer).check(vllm, "s1")
            vllm.swap(noisy(root, 6, spread), "s2")
            with pytest.raises(EngineError, match="not the trainer's: at snapshot s1"):
                canary(trainer).check(vllm, "s1")


def test_the_canary_sees_an_adapter_that_is_not_applied(
    engines: tuple[VllmEngine, VllmEngine], adapted: PeftModel
) -> None:
    vllm, trainer, root = engines[0], reference(adapted), capture(adapted)
    bird = canary(trainer)
    vllm.swap(root, "root")
    bird.check(vllm, "root")
    trainer.swap(noisy(root, 7, 0.05), "s1")  # and the engine keeps the untrained one
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
