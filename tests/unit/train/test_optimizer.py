"""The optimizers against those of torch and bitsandbytes, and what rounding does to an update."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msft_lite.errors import SnapshotError, TrainError
from msft_lite.model.batch import collate
from msft_lite.model.load import ModelSettings, load_model, trainable_parameters
from msft_lite.model.loss import row_losses
from msft_lite.train import optimizer as optimizer_module
from msft_lite.train.optimizer import Optimizer, Turn
from msft_lite.train.rounding import round_stochastically
from msft_lite.train.settings import TrainSettings, rounding_seed_at

SETTINGS = TrainSettings(
    learning_rate=1e-3, per_device_train_batch_size=1, weight_decay=0.1, adam_beta1=0.8
)
NEAREST = replace(SETTINGS, bf16_update="nearest")
SHAPES = {"large": (80, 60), "small": (3, 5), "uneven": (4099,)}  # 4,096 and more have 8 bits
Reference = Callable[..., torch.optim.Optimizer]


def torch_adamw(weights: list[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, lr=1e-3, betas=(0.8, 0.999), weight_decay=0.1, fused=True)


def bitsandbytes_8bit(weights: list[torch.Tensor]) -> torch.optim.Optimizer:
    optim = pytest.importorskip("bitsandbytes").optim  # in the extras alone
    return optim.AdamW8bit(weights, lr=1e-3, betas=(0.8, 0.999), weight_decay=0.1)


REFERENCES: dict[str, Reference] = {"adamw": torch_adamw, "adamw_8bit": bitsandbytes_8bit}
every_optim = pytest.mark.parametrize("optim", REFERENCES)
# The kinds of moments: here, and in the reference. bitsandbytes calls its kinds the same.
KINDS = {"adamw": ("exp_avg", "exp_avg_sq"), "adamw_8bit": ("state1", "state2", "absmax1")}


def parameters_of(dtype: torch.dtype) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.nn.Parameter((0.1 * torch.randn(shape, generator=generator)).to(dtype))
        for name, shape in SHAPES.items()
    }


def set_gradients(parameters: Mapping[str, torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def run(optimizer: Optimizer, steps: range = range(3)) -> None:
    for step in steps:
        set_gradients(optimizer.parameters, step)
        optimizer.step(Turn("key", step, 1e-3))


def optimizer_of(settings: TrainSettings, dtype: torch.dtype) -> Optimizer:
    if settings.optim != "adamw":
        pytest.importorskip("bitsandbytes")
    return Optimizer(parameters_of(dtype), settings, seed=20)


def assert_moments(optimizer: Optimizer, optim: str, states: Mapping[str, Mapping]) -> None:
    """Asserts that the optimizer's moments are those of a reference, bit for bit."""
    found = optimizer.tensors()
    compared = [
        torch.equal(found[f"{kind}.{name}"], state[kind])
        for name, state in states.items()
        for kind in KINDS[optim]
        if kind in state
    ]
    assert len(compared) == (6 if optim == "adamw" else 8)  # the small tensor has no scales
    assert all(compared)


@every_optim
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_step_is_that_of_the_library(optim: str, dtype: torch.dtype) -> None:
    """float32 weights, and bfloat16 weights rounded to nearest: bit for bit."""
    ours = optimizer_of(replace(NEAREST, optim=optim), dtype)
    run(ours)
    theirs = parameters_of(dtype)
    reference = REFERENCES[optim](list(theirs.values()))
    for step in range(3):
        set_gradients(theirs, step)
        reference.step()
    for name, parameter in ours.parameters.items():
        assert torch.equal(parameter, theirs[name])
    assert_moments(ours, optim, {name: reference.state[p] for name, p in theirs.items()})


@every_optim
@pytest.mark.parametrize("part_elements", [2**22, 512])
def test_a_stochastic_step_is_the_librarys_in_float32_and_then_rounded(
    optim: str, part_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of a part is seen neither in moments nor in weights."""
    monkeypatch.setattr(optimizer_module, "PART_ELEMENTS", part_elements)
    ours = optimizer_of(replace(SETTINGS, optim=optim), torch.bfloat16)
    exact = {n: torch.nn.Parameter(p.float()) for n, p in ours.parameters.items()}
    reference = REFERENCES[optim](list(exact.values()))
    for step in range(3):
        run(ours, range(step, step + 1))
        for name, parameter in exact.items():
            gradient = ours.parameters[name].grad
            assert gradient is not None
            parameter.grad = gradient.float()
        reference.step()
        for name, parameter in exact.items():
            generator = torch.Generator().manual_seed(rounding_seed_at(20, "key", step, name))
            expected = round_stochastically(parameter.detach(), generator)
            assert torch.equal(ours.parameters[name], expected)
            parameter.data.copy_(expected)
    assert_moments(ours, optim, {name: reference.state[p] for name, p in exact.items()})


def test_names_and_dtypes_of_the_state() -> None:
    def state(optim: str, dtype: torch.dtype, settings: TrainSettings = SETTINGS) -> dict:
        found = optimizer_of(replace(settings, optim=optim), dtype).tensors()
        return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()}

    for settings, dtype, expected in (
        (SETTINGS, torch.float32, torch.float32),
        (SETTINGS, torch.bfloat16, torch.float32),
        (NEAREST, torch.bfloat16, torch.bfloat16),
    ):
        assert state("adamw", dtype, settings) == {
            f"{kind}.{name}": (expected, shape)
            for kind in ("exp_avg", "exp_avg_sq")
            for name, shape in SHAPES.items()
        }
    # 4,800 elements are 18.75 blocks of 256, 4,099 are 16 and three elements
    assert state("adamw_8bit", torch.bfloat16) == {
        **{f"state{i}.large": (torch.uint8, (80, 60)) for i in (1, 2)},
        **{f"state{i}.uneven": (torch.uint8, (4099,)) for i in (1, 2)},
        **{f"state{i}.small": (torch.float32, (3, 5)) for i in (1, 2)},
        **{f"absmax{i}.large": (torch.float32, (19,)) for i in (1, 2)},
        **{f"absmax{i}.uneven": (torch.float32, (17,)) for i in (1, 2)},
        **{f"qmap{i}": (torch.float32, (256,)) for i in (1, 2)},
    }


@every_optim
def test_zero_is_a_new_optimizer(optim: str) -> None:
    settings = replace(SETTINGS, optim=optim)
    used, new = (optimizer_of(settings, torch.float32) for _ in range(2))
    run(used)
    for tensor in (t for name, t in used.tensors().items() if name.startswith("qmap")):
        tensor.mul_(2)  # a state of other maps was put back
    used.zero()
    assert_same_state(used, new)
    for name, parameter in used.parameters.items():
        parameter.data.copy_(new.parameters[name])
    run(used)
    run(new)
    assert_same_state(used, new)


def assert_same_state(first: Optimizer, second: Optimizer) -> None:
    one, other = first.tensors(), second.tensors()
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_state_of_another_optimizer_is_told_as_such() -> None:
    state = optimizer_of(SETTINGS, torch.float32).tensors()
    other = optimizer_of(replace(SETTINGS, optim="adamw_8bit"), torch.float32)
    with pytest.raises(SnapshotError, match="not those of train.optim = 'adamw_8bit'"):
        other.restore(state)


@every_optim
def test_a_block_without_gradient_stays(optim: str) -> None:
    optimizer = optimizer_of(replace(SETTINGS, optim=optim, weight_decay=0.0), torch.float32)
    before = {name: p.detach().clone() for name, p in optimizer.parameters.items()}
    optimizer.complete_gradients()
    optimizer.step(Turn("key", 0, 1e-3))
    assert all(torch.equal(before[n], p.detach()) for n, p in optimizer.parameters.items())
    assert all(tensor.isfinite().all() for tensor in optimizer.tensors().values())


def test_rounding_depends_on_seed_key_step_and_name_and_on_no_global_generator() -> None:
    def first_step(seed: int, turn: Turn, names: tuple[str, str] = ("a", "b")) -> list:
        value = torch.full((256,), 1.0, dtype=torch.bfloat16)
        parameters = {name: torch.nn.Parameter(value.clone()) for name in names}
        optimizer = Optimizer(parameters, replace(SETTINGS, weight_decay=0.0), seed=seed)
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        torch.manual_seed(len(names[0]) + seed)
        before = torch.get_rng_state()
        optimizer.step(turn)
        assert torch.equal(before, torch.get_rng_state())
        return [parameter.tolist() for parameter in parameters.values()]

    turn = Turn("key", 4, 1e-3)
    found = first_step(20, turn)
    assert found == first_step(20, turn)
    assert found[0] != found[1]
    assert found[0] == first_step(20, turn, ("bb", "a"))[1]  # alone or not, first or last
    for other in (
        first_step(21, turn),
        first_step(20, replace(turn, key="k")),
        first_step(20, replace(turn, steps=5)),
    ):
        assert found[0] != other[0]


def test_nearest_rounding_loses_the_update_and_stochastic_rounding_keeps_its_mean(
    tiny_model_folder: Path,
) -> None:
    """Ten equal steps at a rate of 1e-5, worked out for weights of which most are above 0.01.

    From 0.0625 to 0.125 bfloat16 holds multiples of 2**-11 = 4.9e-4: rounded to nearest an update
    of 1e-5 is nothing. Rounded at random a weight moves by u with chance 1e-5 / u each step, where
    u is its last bit: by 1e-5 on average, with variance 1e-5 u.
    """
    model = load_model(
        ModelSettings(str(tiny_model_folder), dtype="bfloat16", tuning="full"), seed=1
    )
    loss = row_losses(model, collate([((5, 6, 7), (8, 9, 0))], pad_id=0, device="cpu")).sum()
    chosen = {n: p for n, p in trainable_parameters(model).items() if "layers" in n and p.dim() > 1}
    gradients = dict(zip(chosen, torch.autograd.grad(loss, list(chosen.values())), strict=True))
    start = {name: parameter.detach() for name, parameter in chosen.items()}
    settings = replace(SETTINGS, weight_decay=0.0, adam_beta1=0.9)

    def moved(settings: TrainSettings, dtype: torch.dtype) -> torch.Tensor:
        parameters = {n: torch.nn.Parameter(p.to(dtype, copy=True)) for n, p in start.items()}
        optimizer = Optimizer(parameters, settings, seed=20)
        for step in range(10):
            for name, parameter in parameters.items():
                parameter.grad = gradients[name].to(dtype)
            optimizer.step(Turn("key", step, 1e-5))
        return torch.cat(
            [(p.detach().double() - start[n].double()).flatten() for n, p in parameters.items()]
        )

    downhill = -torch.cat([gradients[name].double().sign().flatten() for name in start])
    exact = moved(settings, torch.float32)
    assert float((exact * downhill).mean()) == pytest.approx(1e-4, rel=0.05)

    nearest = moved(replace(settings, bf16_update="nearest"), torch.bfloat16)
    assert float((nearest == 0).double().mean()) > 0.9

    stochastic = moved(settings, torch.bfloat16)
    sizes = torch.cat([weight.double().abs().flatten() for weight in start.values()])
    last_bits = 2.0 ** (sizes.log2().floor() - 7)
    deviation = float((10 * 1e-5 * last_bits).sum().sqrt()) / len(last_bits)
    assert deviation < 1e-6  # so that five of them are 5 % of what is expected
    expected = float((exact * downhill).mean())
    assert float((stochastic * downhill).mean()) == pytest.approx(expected, abs=5 * deviation)


@every_optim
def test_loraplus_raises_the_rate_of_b_alone(optim: str) -> None:
    """Worked by hand: the first step moves every element by its rate, in the gradient's sign."""
    if optim != "adamw":
        pytest.importorskip("bitsandbytes")
    parameters = {
        f"layer.{name}.weight": torch.nn.Parameter(torch.zeros(3)) for name in ("lora_A", "lora_B")
    }
    settings = replace(SETTINGS, optim=optim, loraplus_lr_ratio=16.0)
    optimizer = Optimizer(parameters, settings, seed=20)
    for parameter in parameters.values():
        parameter.grad = torch.tensor([1.0, -2.0, 3.0])
    optimizer.step(Turn("key", 0, 1e-3))
    signs = torch.tensor([-1.0, 1.0, -1.0])
    a, b = (parameter.detach() for parameter in parameters.values())
    torch.testing.assert_close(a, 1e-3 * signs, rtol=1e-5, atol=0)
    torch.testing.assert_close(b, 16e-3 * signs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("optim", ["paged_adamw", "paged_adamw_8bit"])
def test_paging_needs_a_gpu(optim: str) -> None:
    settings = replace(SETTINGS, optim=optim)
    with pytest.raises(TrainError, match=f"needs a GPU, the model is on cpu; take '{optim[6:]}'"):
        Optimizer(parameters_of(torch.float32), settings, seed=20)


def test_a_missing_bitsandbytes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)  # import raises ImportError
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainError, match="needs bitsandbytes, .*pip install bitsandbytes"):
        Optimizer(parameters_of(torch.float32), replace(SETTINGS, optim="adamw_8bit"), seed=20)
