"""Steps that are taken while gradients come: the bits of a normal step, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from msft_lite.data.task import Example
from msft_lite.errors import TrainError
from msft_lite.model.load import ModelSettings, load_model, trainable_parameters
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

ROWS = [
    Example("arc", 0, (5, 6, 7), (8, 0)),
    Example("gsm", 4, (9, 3), (1, 2, 3, 0)),
]
NORMAL = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=2, warmup_steps=2)
FULL = ModelSettings("", tuning="full")
LORA = ModelSettings("", lora_r=64, lora_dropout=0.3)  # 64 by 64: enough for 8 bits
CASES = {
    "full": (FULL, NORMAL),
    "full-8bit": (FULL, replace(NORMAL, optim="adamw_8bit")),
    "full-bfloat16": (replace(FULL, dtype="bfloat16"), NORMAL),
    "full-bfloat16-8bit-checkpointed": (
        replace(FULL, dtype="bfloat16", gradient_checkpointing=True),
        replace(NORMAL, optim="adamw_8bit"),
    ),
    "full-bfloat16-nearest": (
        replace(FULL, dtype="bfloat16"),
        replace(NORMAL, bf16_update="nearest"),
    ),
    "lora-checkpointed": (replace(LORA, gradient_checkpointing=True), NORMAL),
    "lora-8bit": (LORA, replace(NORMAL, optim="adamw_8bit", loraplus_lr_ratio=4.0)),
}
Build = Callable[[ModelSettings], torch.nn.Module]


@pytest.fixture
def build(tiny_model_folder: Path) -> Build:
    """Loads a model; its embedding is tied to its head, and so has two uses in a step."""
    return lambda settings: load_model(
        replace(settings, name_or_path=str(tiny_model_folder)), seed=1
    )


@pytest.fixture
def model(build: Build) -> torch.nn.Module:
    return build(FULL)


def trainer_of(model: torch.nn.Module, settings: TrainSettings = NORMAL) -> Trainer:
    return Trainer(model, settings, seed=20, pad_id=0)


def in_backward(settings: TrainSettings = NORMAL) -> TrainSettings:
    return replace(settings, optimizer_in_backward=True)


def bits(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.capture().tensors, **trainer.state()[0]}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_those_of_a_normal_step(name: str, build: Build) -> None:
    model, settings = CASES[name]
    if settings.optim != "adamw":
        pytest.importorskip("bitsandbytes")
    normal, early = (
        trainer_of(build(model), settings),
        trainer_of(build(model), in_backward(settings)),
    )
    for _ in range(3):
        assert early.step(ROWS) == normal.step(ROWS)  # losses, norm and rate
    assert same(bits(normal), bits(early))
    batches = {"both": ROWS, "one": ROWS[:1]}
    assert early.probe(batches) == normal.probe(batches)
    assert same(bits(normal), bits(early))


def test_one_gradient_is_there_at_a_time(model: torch.nn.Module) -> None:
    parameters = trainable_parameters(model)
    counts: list[int] = []

    def count(parameter: torch.Tensor) -> None:
        counts.append(sum(p.grad is not None for p in parameters.values()))

    for parameter in parameters.values():  # these see a gradient before the trainer takes it
        parameter.register_post_accumulate_grad_hook(count)
    trainer_of(model, in_backward()).step(ROWS)
    assert counts == [1] * len(parameters)
    counts.clear()
    trainer_of(model, NORMAL).step(ROWS)
    assert max(counts) == len(parameters)


def test_a_parameter_without_gradient_is_stepped_too(build: Build) -> None:
    trainers = []
    for settings in (NORMAL, in_backward()):
        model = build(FULL)
        model.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
        trainer = trainer_of(model, replace(settings, weight_decay=0.5))
        trainer.step(ROWS)
        trainers.append(trainer)
    assert same(*map(bits, trainers))
    assert trainers[1].capture().tensors["unused"].tolist() != [1.0, 1.0]


def refused(trainer: Trainer, message: str, rows: list[Example] = ROWS) -> None:
    """Asserts that a step is refused and changes nothing."""
    before, steps = bits(trainer), trainer.steps
    with pytest.raises(TrainError, match=message):
        trainer.step(rows)
    assert trainer.steps == steps
    after = bits(trainer)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0, equal_nan=True)


def spoilt(model: torch.nn.Module, name: str) -> torch.utils.hooks.RemovableHandle:
    return model.get_parameter(name).register_hook(lambda gradient: gradient * math.inf)


def test_a_gradient_that_is_not_finite_leaves_its_parameter_and_stops_the_trainer(
    build: Build,
) -> None:
    model = build(FULL)
    first, middle = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    trainer = trainer_of(model, in_backward())
    start = trainer.capture()
    handle = spoilt(model, middle)
    with pytest.raises(
        TrainError, match=f"step 1: the gradient is not finite, first in '{middle}'"
    ):
        trainer.step(ROWS)
    handle.remove()
    torn = trainer.capture().tensors
    assert torch.equal(torn[middle], start.tensors[middle])
    assert torch.equal(torn[first], start.tensors[first])  # later in the backward pass
    assert not torch.equal(torn["model.norm.weight"], start.tensors["model.norm.weight"])
    assert all(parameter.grad is None for parameter in model.parameters())

    refused(trainer, "left the weights and the moments half updated; load a snapshot and renew")
    trainer.load(start)
    refused(trainer, "left the moments half updated")
    trainer.renew("")
    assert trainer.step(ROWS) == trainer_of(build(FULL), in_backward()).step(ROWS)


class FullMemory(TorchDispatchMode):
    """Refuses memory for the random bits of the tenth parameter."""

    left = 10

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func.overloadpacket is torch.ops.aten.random_:
            self.left -= 1
            if self.left == 0:
                raise torch.OutOfMemoryError("no memory")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_early", [False, True])
def test_memory_that_runs_out_in_an_update_stops_the_trainer(build: Build, is_early: bool) -> None:
    model = build(replace(FULL, dtype="bfloat16"))
    trainer = trainer_of(model, in_backward() if is_early else NORMAL)
    start = trainer.capture()
    with pytest.raises(TrainError, match="step 1: out of memory"), FullMemory():
        trainer.step(ROWS)
    refused(trainer, "left the weights and the moments half updated")
    trainer.load(start)
    trainer.renew("")
    trainer.step(ROWS)


def test_a_stopped_trainer_goes_on_from_a_crash_copy(build: Build) -> None:
    model = build(FULL)
    trainer, straight = trainer_of(model, in_backward()), trainer_of(build(FULL), in_backward())
    trainer.step(ROWS)
    straight.step(ROWS)
    weights, state = trainer.capture(), trainer.state()
    handle = spoilt(model, "model.layers.0.self_attn.q_proj.weight")
    with pytest.raises(TrainError, match="not finite"):
        trainer.step(ROWS)
    handle.remove()
    trainer.restore_state(*state)
    refused(trainer, "left the weights half updated")
    trainer.load(weights)
    assert trainer.step(ROWS) == straight.step(ROWS)
    assert same(bits(trainer), bits(straight))


def test_a_bad_loss_is_found_before_anything_is_changed(model: torch.nn.Module) -> None:
    trainer = trainer_of(model, in_backward())
    start = trainer.capture()
    with torch.no_grad():
        model.get_parameter("model.norm.weight").fill_(math.nan)
    refused(trainer, "step 1: the loss is not finite")
    trainer.load(start)
    trainer.step(ROWS)  # nothing was torn


def test_a_first_gradient_that_is_not_finite_tears_nothing(model: torch.nn.Module) -> None:
    trainer = trainer_of(model, in_backward())
    handle = spoilt(model, "model.norm.weight")  # the last layer's, so the first to come
    refused(trainer, "first in 'model.norm.weight', on arc row 0, gsm row 4")
    handle.remove()
    trainer.step(ROWS)


def test_a_step_is_one_pass_without_clipping(model: torch.nn.Module) -> None:
    one_row = replace(in_backward(), per_device_train_batch_size=1)
    refused(trainer_of(model, one_row), "one pass of at most 1 rows.* there are 2 rows")
    clipped = replace(in_backward(), max_grad_norm=0.5)
    refused(trainer_of(model, clipped), "max_grad_norm is 0.5")
