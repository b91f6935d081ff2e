"""The plain weights that a model with an adapter, or in 4 bits, stands for, one at a time.

What is computed is what the model itself multiplies with: a 4-bit layer's weights through
bitsandbytes' own dequantisation, an adapter's through peft's own layers. The model is only read.

Sources: Dettmers et al., *QLoRA*, arXiv 2305.14314; Liu et al., *DoRA*, arXiv 2402.09353, eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from msft_lite.errors import ModelError
from msft_lite.model.adapter import ADAPTER_NAME
from msft_lite.model.four_bit import DTYPES
from msft_lite.model.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class _Part:
    """One tensor to be: its form, how it is computed, and the parameter that it begins with."""

    form: torch.Tensor  # on the meta device
    compute: Callable[[], torch.Tensor]
    origin: nn.Parameter
    is_adapted: bool


class DenseTensors(Mapping[str, torch.Tensor]):
    """Tensors of a model, by the names of its checkpoint, each computed anew when it is asked for.

    They are on the host, contiguous, in the base's dtype; of tied ones only the first is there.

    Attributes:
        forms: their dtypes and shapes, on the meta device: nothing is computed.
        quantised: names of those that the model holds in 4 bits.
    """

    def __init__(self, parts: Mapping[str, _Part]) -> None:
        """Keeps what computes them."""
        self._parts = parts
        self.forms = {name: part.form for name, part in parts.items()}
        self.quantised = frozenset(
            name for name, part in parts.items() if is_quantised(part.origin)
        )

    def __getitem__(self, name: str) -> torch.Tensor:
        with torch.no_grad():
            return self._parts[name].compute().detach().to("cpu").contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def dense_tensors(model: nn.Module, *, merged: bool) -> DenseTensors:
    """Returns the plain weights of ``model``: without its adapter, or with it ``merged`` into them.

    Merged are LoRA, rank-stabilised or not, DoRA, trained biases and `modules_to_save`. A merged
    weight is rounded to the base's dtype once.

    Raises:
        ModelError: no plain weights do what the model does.
    """
    root = model.get_base_model() if isinstance(model, PeftModel) else model
    found: dict[str, _Part] = {}
    first: dict[int, str] = {}
    for name, part in _parts(root, "", merged):
        same = first.setdefault(id(part.origin), name)
        if same == name:
            found[name] = part
        elif part.is_adapted or found[same].is_adapted:
            raise _unmergeable(f"{name} is tied to {same}, and one of them is adapted alone")
    return DenseTensors(found)


def dense_bytes(settings: ModelSettings) -> int:
    """Returns the bytes of the base in ``settings.dtype``; only its configuration is read.

    Raises:
        ModelError: there is none, or it describes no model.
    """
    count = sum(parameter.numel() for parameter in without_values(settings).parameters())
    return count * DTYPES[settings.dtype].itemsize


def without_values(settings: ModelSettings) -> PreTrainedModel:
    """Returns the model that the base's config.json describes, its tensors without values.

    Raises:
        ModelError: it describes none.
    """
    remote = settings.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(
            settings.name_or_path, revision=settings.revision, trust_remote_code=remote
        )
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=remote)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"model {settings.name_or_path!r} cannot be made: {reason}") from error


def is_quantised(parameter: torch.Tensor) -> bool:
    """Returns whether ``parameter`` holds a weight in 4 bits."""
    return type(parameter).__name__ == "Params4bit"


def _parts(module: nn.Module, name: str, merged: bool) -> Iterator[tuple[str, _Part]]:
    if isinstance(module, LoraLayer) and not isinstance(module, ParamWrapper):
        yield from _of_adapted(module, name, merged)
    elif isinstance(module, ModulesToSaveWrapper):
        yield from _of_saved(module, name, merged)
    elif isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        raise _unmergeable(f"{name} is a {type(module).__name__}")
    else:
        for own, parameter in module.named_parameters(recurse=False):
            yield _joined(name, own), _part(parameter, _plain(parameter))
        for own, child in module.named_children():
            yield from _parts(child, _joined(name, own), merged)


def _of_adapted(layer: Any, name: str, merged: bool) -> Iterator[tuple[str, _Part]]:
    """Yields the tensors of a module under a LoRA layer of peft."""
    base: nn.Module = layer.get_base_layer()
    adapts = merged and (ADAPTER_NAME in layer.lora_A or ADAPTER_NAME in layer.lora_embedding_A)
    for own, parameter in base.named_parameters(recurse=False):
        compute = _plain(parameter)
        if adapts and own == "weight":
            compute = _merged_weight(layer, name, compute)
        elif adapts and own == "bias" and layer.lora_bias[ADAPTER_NAME]:
            compute = _merged_bias(layer, compute)
        yield _joined(name, own), _part(parameter, compute, is_adapted=adapts)
    if adapts and layer.lora_bias[ADAPTER_NAME] and layer.get_base_layer().bias is None:
        raise _unmergeable(f"{name} has a bias in its adapter alone")


def _of_saved(
    wrapper: ModulesToSaveWrapper, name: str, merged: bool
) -> Iterator[tuple[str, _Part]]:
    """Yields the tensors of a module that is trained whole, or of the one that it began as."""
    originals = dict(_parts(wrapper.original_module, name, merged=False))
    if not merged:
        yield from originals.items()
        return
    for place, part in _parts(wrapper.modules_to_save[ADAPTER_NAME], name, merged):
        origin = originals[place].origin
        yield place, _Part(part.form, part.compute, origin, is_adapted=True)


def _part(
    parameter: nn.Parameter, compute: Callable[[], torch.Tensor], *, is_adapted: bool = False
) -> _Part:
    shape, dtype = parameter.shape, parameter.dtype
    if is_quantised(parameter):
        state = vars(parameter)["quant_state"]
        shape, dtype = state.shape, state.dtype
    form = torch.empty(shape, dtype=dtype, device="meta")
    return _Part(form, compute, parameter, is_adapted)


def _plain(parameter: nn.Parameter) -> Callable[[], torch.Tensor]:
    if not is_quantised(parameter):
        return lambda: parameter
    from bitsandbytes.functional import dequantize_4bit

    return lambda: dequantize_4bit(parameter.data, vars(parameter)["quant_state"])


def _merged_weight(
    layer: Any, name: str, base: Callable[[], torch.Tensor]
) -> Callable[[], torch.Tensor]:
    """Returns what computes W + s B A, or for DoRA that with the trained length of each output."""
    variant = layer.lora_variant.get(ADAPTER_NAME)
    if variant is not None and not isinstance(variant, DoraLinearVariant):
        raise _unmergeable(f"{name} has an adapter of the kind {type(variant).__name__}")
    if variant is not None and layer.fan_in_fan_out:
        raise _unmergeable(f"{name} holds its weight transposed, under DoRA")

    def compute() -> torch.Tensor:
        weight, change = base(), layer.get_delta_weight(ADAPTER_NAME)
        moved = weight + change
        if variant is not None:
            magnitude = layer.lora_magnitude_vector[ADAPTER_NAME]
            norms = magnitude.get_weight_norm(weight, change, scaling=1)
            moved = (magnitude.weight / norms)[:, None] * moved
        return moved.to(weight.dtype)

    return compute


def _merged_bias(layer: Any, base: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    def compute() -> torch.Tensor:
        bias = base()
        change = layer.lora_B[ADAPTER_NAME].bias * layer.scaling[ADAPTER_NAME]
        return (bias + change).to(bias.dtype)

    return compute


def _joined(name: str, own: str) -> str:
    return f"{name}.{own}" if name else own


def _unmergeable(why: str) -> ModelError:
    return ModelError(
        f'the adapter cannot be merged into the base for vLLM: {why}; set engine.name = "torch"'
    )
