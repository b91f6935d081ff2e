from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from msft_lite.engine.bit_check import MOST_TENSORS, BitCheck, telling
from msft_lite.errors import EngineError
from msft_lite.model.weights import Weights

BASE = {
    "embed.weight": torch.linspace(-1, 1, 12).reshape(4, 3),
    "fused.weight": torch.ones(3, 3),
    "norm.weight": torch.linspace(0, 1, 3),
    "turned.weight": torch.arange(9.0).reshape(3, 3),
}


class Holder:
    """An engine that holds bfloat16 tensors, one of them in another form and one not at all."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.take(BASE)

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = {name: t.bfloat16() for name, t in tensors.items() if "fused" not in name}
        self.tensors["turned.weight"] = self.tensors["turned.weight"].T

    def __call__(self, request: Mapping[str, object]) -> Mapping[str, object]:
        shapes = request["shapes"]
        assert isinstance(shapes, Mapping)
        self.asked.append(str(request["operation"]))
        names = [name for name in shapes if name in self.tensors]
        if request["operation"] == "held":
            return {"names": names}
        return {"digests": {name: ["bfloat16", sha256(self.tensors[name])] for name in names}}


def sha256(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(bytes(data.tolist())).hexdigest()


def changed(name: str, by: float) -> Weights:
    return Weights("full", {**BASE, name: BASE[name] + by})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(BASE, tmp_path / "model.safetensors")
    return tmp_path


def test_what_the_engine_took_passes_whatever_its_form(folder: Path) -> None:
    holder = Holder()
    check = BitCheck(folder, holder)
    assert check.prepare() == ""
    for by in (0.3, 0.6):
        weights = changed("turned.weight", by)
        holder.take(weights.tensors)
        assert check.prepare() == ""
        check.check(weights, "s1")
    assert holder.asked == ["held", "digests", "digests", "digests"]


def test_adopted_tensors_are_checked_though_the_base_has_gone_on(folder: Path) -> None:
    holder = Holder()
    check = BitCheck(folder, holder)
    trained = Weights("full", {name: tensor + 0.5 for name, tensor in BASE.items()})
    holder.take(trained.tensors)
    holder.tensors["turned.weight"] = trained.tensors["turned.weight"].bfloat16()
    assert check.prepare(holds_base=False) == ""
    check.check(trained, "s1")
    for name in ("embed.weight", "turned.weight", "norm.weight"):
        with pytest.raises(EngineError, match=name):
            check.check(Weights("full", {**trained.tensors, name: BASE[name]}), "s1")


@pytest.mark.parametrize("name", ["embed.weight", "norm.weight"])
def test_a_tensor_that_stayed_is_named(folder: Path, name: str) -> None:
    holder = Holder()
    check = BitCheck(folder, holder)
    check.prepare()
    # One number at least of each crosses a bound of bfloat16.
    with pytest.raises(EngineError, match=rf"snapshot s2: tensor {name} .*\(1 of 2 compared"):
        check.check(changed(name, 0.004), "s2")


def test_a_tensor_that_the_engine_no_longer_tells_is_not_taken(folder: Path) -> None:
    holder = Holder()
    check = BitCheck(folder, holder)
    check.prepare()
    holder.tensors.clear()
    with pytest.raises(EngineError, match="2 of 2 compared"):
        check.check(Weights("full", BASE), "s2")


def test_an_engine_that_holds_nothing_to_compare_is_noted(folder: Path) -> None:
    holder = Holder()
    holder.tensors.clear()
    check = BitCheck(folder, holder)
    assert "log probabilities alone" in check.prepare()
    check.check(changed("embed.weight", 1.0), "s1")


def test_the_largest_tensor_and_matrices_of_all_depths_are_compared() -> None:
    shapes = {"embed": (100, 8), "norm": (8,)}
    shapes |= {f"layers.{n}.{part}": (8, 8) for n in range(10) for part in ("o", "down")}
    shapes |= {f"layers.{n}.norm": (8,) for n in range(10)}
    chosen = list(telling(shapes))
    assert len(chosen) == MOST_TENSORS
    assert chosen[0] == "embed"
    assert [name.split(".")[1] for name in chosen[1:-1]] == ["0", "3", "6", "9"]
    assert chosen[-1] == "layers.9.norm"
    assert telling({"embed": (100, 8), "norm": (8,)}).keys() == {"embed", "norm"}
    assert telling({}) == {}
