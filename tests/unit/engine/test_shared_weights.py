"""Weights laid out for vLLM: the same bits at other places, and training goes on as before."""

from __future__ import annotations

import gc
import inspect
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.multiprocessing import reductions
from transformers import AutoModelForCausalLM, PreTrainedModel

from msft_lite.data.task import Example
from msft_lite.engine import shared_weights
from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.engine.shared_weights import Block, SharedWeights, base_parameters
from msft_lite.engine.vllm_adopt import mapped, rebuilt
from msft_lite.errors import EngineError
from msft_lite.model.load import apply, capture
from msft_lite.model.weights import Weights
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer
from tests.tiny_models import random_model

CPU = torch.device("cpu")
PREFIX = "model.layers.1."


@pytest.fixture(autouse=True)
def _forgotten_mappings() -> Iterator[None]:
    """The engine's side keeps what it mapped as long as its process lives."""
    yield
    mapped.cache_clear()


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = random_model(kind, tied=kind == "qwen2")
    return model.to(dtype=dtype)  # pyright: ignore[reportCallIssue]


def names_of(model: torch.nn.Module) -> CheckpointNames:
    names = frozenset(base_parameters(model))
    return CheckpointNames(names, tied="lm_head.weight" not in names)


def shared(model: torch.nn.Module) -> SharedWeights:
    return SharedWeights(model, names_of(model), CPU)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_sees_the_same_bits_fused_and_padded(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, dtype)
    before = capture(model)
    weights = shared(model)
    handles = weights.handles()
    assert list(capture(model).tensors) == list(before.tensors)
    for name, tensor in before.tensors.items():
        assert torch.equal(capture(model).tensors[name], tensor), name
    seen = {name: rebuilt(handle) for name, handle in handles.items()}
    parts = [before.tensors[f"{PREFIX}self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(seen[f"{PREFIX}self_attn.qkv_proj.weight"], torch.cat(parts))
    parts = [before.tensors[f"{PREFIX}mlp.{part}_proj.weight"] for part in ("gate", "up")]
    assert torch.equal(seen[f"{PREFIX}mlp.gate_up_proj.weight"], torch.cat(parts))
    assert (f"{PREFIX}self_attn.qkv_proj.bias" in seen) == (kind == "qwen2")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in before.tensors:
            assert seen[name].shape == (320, 64)
            assert torch.equal(seen[name][:257], before.tensors[name])
            assert not seen[name][257:].any()
    assert ("lm_head.weight" in seen) == (kind == "llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    q = base_parameters(model)[f"{PREFIX}self_attn.q_proj.weight"]
    assert torch.equal(seen[f"{PREFIX}self_attn.qkv_proj.weight"][:64], q)


def test_a_tied_head_stays_the_embedding() -> None:
    model = model_of("qwen2")
    weights = shared(model)
    weights.handles()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert head is not None
    assert head.weight is embedding.weight


def test_the_base_under_an_adapter_is_shared_and_the_adapter_is_not() -> None:
    model = get_peft_model(model_of("qwen2"), LoraConfig(r=4, target_modules="all-linear"))
    adapter = capture(model)
    weights = shared(model)
    handles = weights.handles()
    assert f"{PREFIX}self_attn.qkv_proj.weight" in handles
    assert not any("lora" in name for name in handles)
    layer = model.get_base_model().model.layers[1].self_attn  # pyright: ignore
    seen = rebuilt(handles[f"{PREFIX}self_attn.qkv_proj.weight"])
    assert torch.equal(layer.q_proj.base_layer.weight, seen[:64])
    assert not layer.q_proj.base_layer.weight.requires_grad
    weights.check(adapter, "s1")


def test_what_torch_tells_of_memory_on_a_gpu_arrives_in_the_place_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # No GPU here: torch's two functions are stood in for, what lies between them is ours.
    tensor = torch.zeros(4, 6)
    form = (torch.Tensor, tensor.shape, tensor.stride())
    storage = (24, torch.storage.TypedStorage, tensor.dtype)
    memory = (0, b"h\x00\xff", 512, 96, False, b"counter", 3, b"event", True)
    bind = inspect.signature(reductions.rebuild_cuda_tensor).bind
    arrived: list[dict[str, Any]] = []

    def rebuild(*given: Any, **named: Any) -> torch.Tensor:
        arrived.append(dict(bind(*given, **named).arguments))
        return tensor

    monkeypatch.setattr(
        shared_weights, "reduce_tensor", lambda _: (None, (*form, *storage, *memory))
    )
    monkeypatch.setattr(reductions, "rebuild_cuda_tensor", rebuild)
    handle = json.loads(json.dumps(shared_weights.cuda_handle(tensor)))
    assert rebuilt(handle) is tensor
    assert arrived == [dict(bind(*form, *storage, *memory).arguments)]


def test_handles_of_a_second_engine_are_of_the_same_memory() -> None:
    weights = shared(model_of("llama"))
    assert weights.handles() == weights.handles()


def rows(count: int) -> list[Example]:
    return [Example("t", n, (5 + n, 6, 7), (8 + n, 9, 0)) for n in range(count)]


def trained(**values: Any) -> TrainSettings:
    return TrainSettings(learning_rate=1e-3, per_device_train_batch_size=4, **values)


TRAININGS = [
    ("full", torch.float32, trained()),
    ("full", torch.bfloat16, trained(bf16_update="stochastic")),
    ("full", torch.bfloat16, trained(bf16_update="nearest")),
    (
        "full",
        torch.bfloat16,
        trained(bf16_update="stochastic", optim="adamw_8bit"),
    ),
    (
        "full",
        torch.float32,
        trained(optimizer_in_backward=True, max_grad_norm=0.0),
    ),
    ("lora", torch.float32, trained()),
]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize(("tuning", "dtype", "settings"), TRAININGS)
def test_training_gives_the_same_bits_and_stays_in_the_shared_memory(
    kind: str, tuning: str, dtype: torch.dtype, settings: TrainSettings
) -> None:
    found: list[Weights] = []
    for is_shared in (False, True):
        model: torch.nn.Module = model_of(kind, dtype)
        if tuning == "lora":
            with torch.random.fork_rng():
                torch.manual_seed(5)
                model = get_peft_model(model, LoraConfig(r=4))  # pyright: ignore
        trainer = Trainer(model, settings, seed=1, pad_id=0)
        weights = shared(model)
        if is_shared:
            weights.handles()
        trainer.renew("k")
        start = trainer.capture()
        trainer.step(rows(3))
        middle, (moments, counters) = trainer.capture(), trainer.state()
        trainer.step(rows(2))
        end = trainer.capture()
        trainer.load(middle)
        trainer.restore_state(moments, counters)
        trainer.step(rows(2))
        assert same(trainer.capture(), end)
        assert not same(start, end)
        if is_shared:
            weights.check(end, "end")
        trainer.load(start)
        found.append(end)
    assert same(*found)


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_weights_that_are_not_the_snapshots_are_refused_at_the_last_bit() -> None:
    model = model_of("qwen2")
    weights, snapshot = shared(model), capture(model)
    weights.handles()
    weights.check(snapshot, "s1")
    with torch.no_grad():
        last = model.get_parameter("model.norm.weight")
        last[-1] = torch.nextafter(last[-1], torch.tensor(2.0))
    with pytest.raises(EngineError, match=r"tensor model\.norm\.weight .* snapshot s1"):
        weights.check(snapshot, "s1")
    apply(model, snapshot)
    weights.check(snapshot, "s1")
    model.get_parameter("model.norm.weight").data = last.detach().clone()
    with pytest.raises(EngineError, match=r"the trainer moved model\.norm\.weight"):
        weights.check(snapshot, "s1")


@pytest.mark.parametrize(
    ("width", "device", "fits"), [(64, "cpu", True), (64, "cuda", False), (128, "cuda", True)]
)
def test_parts_begin_where_kernels_stay_the_same(width: int, device: str, fits: bool) -> None:
    # Of biases of q, k and v; nothing but what tells their form, as there is no GPU here.
    part: Any = SimpleNamespace(
        dtype=torch.bfloat16, device=torch.device(device), shape=(width,), nbytes=2 * width
    )
    with nullcontext() if fits else pytest.raises(EngineError, match="do not fit"):
        Block("qkv_proj.bias", (part,) * 3, 3 * width).check()


def test_a_model_that_does_not_fit_is_refused_before_anything_moves() -> None:
    model = model_of("qwen2")
    names = CheckpointNames(names_of(model).names | {"model.extra.weight"}, tied=True)
    with pytest.raises(EngineError, match=r"the trainer holds no model\.extra\.weight"):
        SharedWeights(model, names, CPU)
    odd = random_model(
        "qwen2", tied=False, hidden_size=6, intermediate_size=9, num_key_value_heads=2
    )
    with pytest.raises(EngineError, match="do not fit into one tensor"):
        shared(odd)


def held() -> set[str]:
    """What this process maps or has open of shared weights, other tests' included."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    files = [f"{path.name}: {path.resolve()}" for path in Path("/proc/self/fd").iterdir()]
    return {line for line in (*maps, *files) if "msft-lite-weights" in line}


def test_the_memory_is_given_back_with_the_last_that_has_it(tiny_model_folder: Path) -> None:
    gc.collect()
    before = held()
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    weights = SharedWeights(model, CheckpointNames.of(tiny_model_folder), CPU)
    weights.handles()
    assert any("memfd:msft-lite-weights" in line for line in held() - before)
    del weights, model
    assert held() == before
