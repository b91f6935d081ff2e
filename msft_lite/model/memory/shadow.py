"""A model that has shapes and dtypes and no numbers: its operations allocate nothing.

It is made of the classes that a run trains, adapter and 4-bit layers included, so that what they
allocate need not be described a second time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from msft_lite.errors import ModelError
from msft_lite.model.adapter import attach_adapter
from msft_lite.model.checkpointing import checkpoint_layers
from msft_lite.model.four_bit import DTYPES, keep_weights_in_place, quantisation
from msft_lite.model.memory.live import BLOCK_WEIGHTS
from msft_lite.model.settings import ModelSettings
from msft_lite.model.varlen import keep_rows_apart

# Where tensors have no numbers, transformers cannot see that a causal mask is not needed, and makes
# one, which takes another kernel. It makes none for an attention that it knows no mask of.
_MASKLESS = "msft_lite_shadow"
AttentionInterface.register(_MASKLESS, sdpa_attention_forward)
_NESTED_BLOCK = 256  # scales that share a second scale


class _Shapes:
    """A lane to a host whose bytes are not counted."""

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device="meta")

    def to_device(self, held: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(held, device="cpu")

    def wait(self) -> None:
        pass


@contextmanager
def shadow_model(
    config: PretrainedConfig, settings: ModelSettings
) -> Iterator[PreTrainedModel | PeftModel]:
    """Yields the model as `load_model` returns it, but without numbers; tensors made inside, too.

    Its device is called ``cpu``, whatever the model will be trained on: a build of torch without
    CUDA has no other, and operations return the same shapes there. The kernels of flash attention
    keep what those of ``sdpa`` keep, so these stand for both. Rows are laid one after another where
    the settings allow it; whether the architecture does is only known once it is loaded.

    Args:
        config: of the base model.
        settings: dtype, tuning, 4 bits and checkpointing; name and device do not matter.

    Raises:
        ModelError: bitsandbytes is missing, a target module of the adapter does not exist, or it is
            DoRA over 4 bits, whose layers unpack weights that have numbers only.
    """
    if settings.load_in_4bit and settings.use_dora:
        raise ModelError("the memory of DoRA over a base in 4 bits cannot be predicted")
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(
            copy.deepcopy(config),
            dtype=DTYPES[settings.dtype],
            attn_implementation="eager" if settings.attn_implementation == "eager" else "sdpa",
            trust_remote_code=settings.trust_remote_code,
        )
        if settings.attn_implementation is None and settings.padding_free is not False:
            keep_rows_apart(base)
        elif settings.attn_implementation != "eager":
            base.config._attn_implementation = _MASKLESS
        if quantisation(settings) is not None:
            _replace_linear(base, settings)
        model = base
        if settings.tuning == "lora":
            model = attach_adapter(base, settings, seed=0)
    checkpoint_layers(base, settings, _Shapes() if settings.activation_offload else None)
    with FakeTensorMode():
        _give_shapes(model)
        yield model


def _replace_linear(base: PreTrainedModel, settings: ModelSettings) -> None:
    """Puts 4-bit layers in the places of linear ones, as loading does; the head stays."""
    from bitsandbytes.nn.modules import Linear4bit

    head = base.get_output_embeddings()
    linear = [
        (name, module)
        for name, module in base.named_modules()
        if type(module) is torch.nn.Linear and module is not head
    ]
    for name, module in linear:
        layer = Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=DTYPES[settings.dtype],
            quant_type="nf4",
        )
        layer.to(DTYPES[settings.dtype]).requires_grad_(False)
        base.set_submodule(name, layer)
    keep_weights_in_place(base)
    vars(base)["is_loaded_in_4bit"] = True  # where peft looks


def _give_shapes(model: torch.nn.Module) -> None:
    """Replaces every tensor of ``model`` by one that is of use under `FakeTensorMode`."""
    made: dict[int, torch.nn.Parameter] = {}  # tied ones stay tied
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, _same_shape(buffer))
        for name, parameter in list(module.named_parameters(recurse=False)):
            if type(parameter).__name__ == "Params4bit":
                _pack(module, parameter)
                continue
            if id(parameter) not in made:
                made[id(parameter)] = torch.nn.Parameter(
                    _same_shape(parameter), parameter.requires_grad
                )
            setattr(module, name, made[id(parameter)])


def _same_shape(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _pack(module: torch.nn.Module, weight: torch.Tensor) -> None:
    """Gives a 4-bit layer the tensors that quantisation would leave it with."""
    from bitsandbytes.functional import QuantState

    blocks = -(-weight.numel() // BLOCK_WEIGHTS)
    second = QuantState(
        absmax=torch.empty(-(-blocks // _NESTED_BLOCK), device="cpu"),
        code=torch.empty(256, device="cpu"),
        blocksize=_NESTED_BLOCK,
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8, device="cpu"),
        shape=weight.shape,
        code=torch.empty(16, device="cpu"),
        blocksize=BLOCK_WEIGHTS,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=torch.empty((), device="cpu"),
        state2=second,
    )
    # A subclass of Parameter cannot hold a tensor without numbers; the layer only reads it.
    del module._parameters["weight"]
    packed = torch.empty(-(-weight.numel() // 2), 1, dtype=torch.uint8, device="cpu")
    vars(packed)["quant_state"] = state
    module.weight = packed
