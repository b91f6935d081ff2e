"""What waits on the host: the same bits back, fetched in time, and only as long as needed.

The lane here copies at once, from the CPU to the CPU; that of a GPU is tested in `tests/gpu`.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msft_lite.errors import ModelError, RecipeError
from msft_lite.model.checkpointing import checkpoint_layers
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.model.loss import base_model
from msft_lite.model.memory.step import StepShape, predicted
from msft_lite.model.offload import Offload, Parcel
from msft_lite.recipe import load
from msft_lite.run.build import model_settings
from tests.unit.model.five_layers import CONFIG, losses_and_gradients, write_model


class CopyingLane:
    """Copies at once, and notes what it was asked for; tensors are known by their first number."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.held: list[weakref.ref[torch.Tensor]] = []

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        self.notes.append(f"out {tensor.flatten()[0]:g}")
        copy = tensor.detach().clone()
        self.held.append(weakref.ref(copy))
        return copy

    def to_device(self, held: torch.Tensor) -> torch.Tensor:
        self.notes.append(f"in {held.flatten()[0]:g}")
        return held.clone()

    def wait(self) -> None:
        self.notes.append("wait")

    @property
    def waiting(self) -> int:
        """Copies that are still held."""
        gc.collect()
        return sum(copy() is not None for copy in self.held)


@pytest.fixture
def lane() -> CopyingLane:
    return CopyingLane()


def packed(offload: Offload, count: int) -> list[Parcel]:
    return [offload.pack(torch.full((2, 3), float(number))) for number in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_comes_back_is_what_was_saved(lane: CopyingLane, dtype: torch.dtype) -> None:
    tensors = [torch.randn(4, 3).to(dtype).t() for _ in range(3)]
    offload = Offload(lane)
    parcels = [offload.pack(tensor) for tensor in tensors]
    for tensor, parcel in reversed(list(zip(tensors, parcels, strict=True))):
        found = offload.unpack(parcel)
        assert torch.equal(found, tensor)
        assert (found.dtype, found.stride()) == (dtype, tensor.stride())


def test_each_is_fetched_while_the_one_after_it_is_in_use(lane: CopyingLane) -> None:
    offload = Offload(lane)
    parcels = packed(offload, 4)
    assert lane.notes == ["wait", "out 0", "wait", "out 1", "wait", "out 2", "wait", "out 3"]
    lane.notes.clear()
    for parcel in reversed(parcels):
        offload.unpack(parcel)
    # The latest was still there. Nobody reads what was not waited for.
    assert lane.notes == ["wait", "in 2", "wait", "in 1", "wait", "in 0", "wait"]


def test_the_device_holds_the_latest_and_what_is_fetched_alone(lane: CopyingLane) -> None:
    offload = Offload(lane)
    parcels = packed(offload, 4)

    def on_device() -> list[bool]:
        return [parcel.tensor is not None for parcel in parcels]

    assert on_device() == [False, False, False, True]
    offload.unpack(parcels[3])
    assert on_device() == [False, False, True, False]
    offload.unpack(parcels[2])
    assert on_device() == [False, True, False, False]


def test_what_is_asked_for_again_is_fetched_again(lane: CopyingLane) -> None:
    offload = Offload(lane)
    first, second = packed(offload, 2)
    for parcel in (second, first, second, first):
        assert torch.equal(offload.unpack(parcel), parcel.held)


def test_what_was_given_up_is_not_fetched(lane: CopyingLane) -> None:
    """A forward pass without a backward one leaves nothing behind for the next."""
    offload = Offload(lane)
    packed(offload, 3)
    assert lane.waiting == 0
    (parcel,) = packed(offload, 1)
    lane.notes.clear()
    offload.unpack(parcel)
    assert lane.notes == ["wait"]


def test_arguments_that_layers_share_stay(lane: CopyingLane) -> None:
    mask = torch.ones(2, 3, requires_grad=True)
    states = torch.full((2, 3), 5.0, requires_grad=True)
    found = Offload(lane).checkpoint(lambda x, y: (x * y).sin(), states, mask)
    found.sum().backward()
    assert [note for note in lane.notes if note != "wait"] == ["out 5"]
    assert torch.equal(states.grad, torch.full((2, 3), 5.0).cos())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("five-layers"))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_model_computes_the_same_bits(
    tuning: str, every: int, packed: bool, folder: Path, lane: CopyingLane
) -> None:
    settings = replace(ModelSettings(str(folder), lora_r=4, lora_dropout=0.3), tuning=tuning)
    wanted = losses_and_gradients(load_model(settings, seed=1), packed=packed)
    model = load_model(settings, seed=1)
    checkpoint_layers(base_model(model), replace(settings, gradient_checkpointing=every), lane)
    found = losses_and_gradients(model, packed=packed)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    layers = -(-5 // every)
    directions = [note.split()[0] for note in lane.notes if note != "wait"]
    assert directions == ["out"] * layers + ["in"] * (layers - 1)
    assert lane.waiting == 0


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_prediction_leaves_out_what_is_on_the_host(tuning: str) -> None:
    settings = replace(ModelSettings("", device="cuda"), tuning=tuning, gradient_checkpointing=True)
    shape = StepShape(rows=2, length=64, trained_tokens=8, accumulates=True)
    kept = predicted(CONFIG, settings, shape)
    moved = predicted(CONFIG, replace(settings, activation_offload=True), shape)
    # At the peak the last layer runs again: its own input is there and the one before it, fetched;
    # of the other three layers no input is. 2 x 64 tokens of 64 numbers of 4 bytes.
    assert kept.tensors - moved.tensors == 3 * 2 * 64 * 64 * 4


def test_without_checkpointed_layers_nothing_could_be_moved() -> None:
    settings = ModelSettings("", device="cuda", activation_offload=True)
    with pytest.raises(ModelError, match="gradient_checkpointing = false: activation_offload move"):
        predicted(CONFIG, settings, StepShape(1, 8, 4, accumulates=False))


def test_a_cpu_has_nothing_to_offload(folder: Path) -> None:
    settings = ModelSettings(str(folder), gradient_checkpointing=True, activation_offload=True)
    with pytest.raises(ModelError, match="activation_offload: on the CPU there is nothing to off"):
        load_model(settings, seed=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_comes_out_as_the_cpu_is_losses_and_gradients(small_recipe: Path) -> None:
    keys = ("gradient_checkpointing", "activation_offload")
    recipe = load(small_recipe, [f"model.{key}=true" for key in keys])
    with pytest.raises(RecipeError, match='"auto" is the CPU here, where there is nothing to off'):
        model_settings(recipe)
