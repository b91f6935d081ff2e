"""Deterministic algorithms alone: on inside a trainer's calls, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msft_lite.data.task import Example
from msft_lite.errors import TrainError
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.recipe import load
from msft_lite.run.build import model_settings, train_settings
from msft_lite.train.determinism import deterministic, settle_workspace
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

ROWS = [Example("a", 0, (5, 6, 7), (8, 0)), Example("a", 1, (9,), (1, 2, 3, 0))]
TRAIN = TrainSettings(learning_rate=1e-2, per_device_train_batch_size=1, deterministic=True)
CALLS: dict[str, Callable[[Trainer], object]] = {
    "step": lambda trainer: trainer.step(ROWS),
    "losses": lambda trainer: trainer.losses(ROWS),
    "log_probabilities": lambda trainer: trainer.log_probabilities([((1,), (2,))]),
    "probe": lambda trainer: trainer.probe({"a": ROWS}),
}
every_call = pytest.mark.parametrize("call", CALLS)


def choice() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = choice()
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.fixture
def model(tiny_model_folder: Path) -> torch.nn.Module:
    return load_model(ModelSettings(str(tiny_model_folder), tuning="full"), seed=1)


def trainer_of(model: torch.nn.Module, *, on: bool = True) -> Trainer:
    return Trainer(model, replace(TRAIN, deterministic=on), seed=20, pad_id=0)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("outside", [(False, False), (True, False), (True, True)])
@every_call
def test_it_is_on_inside_a_call_and_as_before_outside(
    call: str, outside: tuple[bool, bool], on: bool, model: torch.nn.Module
) -> None:
    trainer, seen = trainer_of(model, on=on), set[tuple[bool, bool]]()
    torch.use_deterministic_algorithms(outside[0], warn_only=outside[1])
    assert choice() == outside
    norm = model.get_submodule("model.norm")
    norm.register_forward_pre_hook(lambda *_: seen.add(choice()))
    norm.register_full_backward_hook(lambda *_: seen.add(choice()))
    CALLS[call](trainer)
    assert seen == {(True, False) if on else outside}
    assert choice() == outside


@every_call
def test_an_operation_without_such_a_way_names_the_key(call: str, model: torch.nn.Module) -> None:
    def put(*_: object) -> None:
        torch.zeros(4).put_(torch.tensor([1]), torch.tensor([1.0]))

    handle = model.get_submodule("model.norm").register_forward_pre_hook(put)
    message = r"^step 1: train.deterministic = true: put_ does not have a .*; set it to false"
    with pytest.raises(TrainError, match=message):
        CALLS[call](trainer_of(model))
    assert choice() == (False, False)
    CALLS[call](trainer_of(model, on=False))
    handle.remove()
    trainer_of(model).step(ROWS)


def test_one_in_the_backward_pass_names_it_too(model: torch.nn.Module) -> None:
    def put(gradient: torch.Tensor) -> None:
        torch.zeros(4).put_(torch.tensor([1]), torch.tensor([1.0]))

    model.get_parameter("model.norm.weight").register_hook(put)
    with pytest.raises(TrainError, match="train.deterministic = true: put_"):
        trainer_of(model).step(ROWS)


def test_a_workspace_that_cublas_may_not_use_says_what_to_set() -> None:
    # What torch says on a GPU where the variable is missing, in its words.
    message = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` "
        "or `at::Context::setDeterministicAlgorithms(true)`, but this operation is not "
        "deterministic because it uses CuBLAS and you have CUDA >= 10.2. To enable deterministic "
        "behavior in this case, you must set an environment variable before running your PyTorch "
        "application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or CUBLAS_WORKSPACE_CONFIG=:16:8."
    )
    with (
        pytest.raises(TrainError, match="put CUBLAS_WORKSPACE_CONFIG=:4096:8 into the env"),
        deterministic("step 3", on=True),
    ):
        raise RuntimeError(message)


def test_other_errors_pass(model: torch.nn.Module) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    model.get_submodule("model.norm").register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        trainer_of(model).step(ROWS)
    assert choice() == (False, False)


@pytest.mark.parametrize(("given", "found"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_a_workspace_that_was_chosen_stays(
    given: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    settle_workspace()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == found


def test_the_recipe_switches_it_on(small_recipe: Path) -> None:
    for change, on in (([], False), (["train.deterministic=true"], True)):
        recipe = load(small_recipe, change)
        assert train_settings(recipe, model_settings(recipe)).deterministic is on


def test_no_bit_changes_on_a_cpu(tiny_model_folder: Path) -> None:
    trained = []
    for on in (True, False):
        settings = ModelSettings(str(tiny_model_folder), lora_r=4, lora_dropout=0.3)
        trainer = trainer_of(load_model(settings, seed=1), on=on)
        trained.append(([trainer.step(ROWS) for _ in range(3)], trainer.capture().tensors))
    (steps, weights), (other_steps, other_weights) = trained
    assert steps == other_steps
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
