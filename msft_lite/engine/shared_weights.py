"""One copy of the weights for trainer and vLLM: the trainer owns it, the engine computes with it.

vLLM multiplies by q, k and v at once, and by gate and up, so it holds each of these as one tensor,
and an embedding with rows up to a multiple of 64. The trainer's tensors are laid out like that, its
parameters become rows of them, with the same bits, and the engine is sent handles of the memory.
Under full tuning the engine thus always has the trainer's weights; under LoRA it has its base.

Owned by the trainer, not by the engine: memory that a process shares goes when it ends, and a lost
engine must not take the trainer's weights along.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import torch
from peft import PeftModel
from torch.multiprocessing.reductions import reduce_tensor
from transformers import PreTrainedModel

from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.errors import EngineError
from msft_lite.model.weights import Weights

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
VOCABULARY_ROWS = 64  # vLLM fills an embedding up to a multiple of this with zeros
# A tensor that begins at a multiple of this meets the kernels that it met before, so its bits stay.
# On a CPU torch's own begin there; on a GPU cuBLASLt chooses by an address's alignment up to it.
ALIGNMENT_BYTES = {"cpu": 64, "cuda": 256}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
# What `rebuild_cuda_tensor` is given beside a tensor's form, in this order.
_CUDA = (
    "tensor_offset",
    "storage_device",
    "storage_handle",
    "storage_size_bytes",
    "storage_offset_bytes",
    "ref_counter_handle",
    "ref_counter_offset",
    "event_handle",
    "event_sync_required",
)


@dataclass(frozen=True, slots=True)
class Block:
    """One tensor of vLLM's.

    Attributes:
        name: as the checkpoint's, of a fused one as vLLM's.
        parts: the parameters whose rows it holds, one after another.
        rows: of all; those after the parts' are zero.
    """

    name: str
    parts: tuple[torch.nn.Parameter, ...]
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        return (self.rows, *self.parts[0].shape[1:])

    @property
    def total_bytes(self) -> int:
        """Of the whole tensor."""
        return math.prod(self.shape) * self.parts[0].element_size()

    @property
    def is_itself(self) -> bool:
        """Whether the tensor is a parameter as it is."""
        return len(self.parts) == 1 and self.rows == len(self.parts[0])

    def check(self) -> None:
        """Refuses parts that cannot be rows of one tensor.

        Raises:
            EngineError: they differ in form, or a kernel would find one at an odd address.
        """
        forms = {(part.dtype, part.device, part.shape[1:]) for part in self.parts}
        ends = list(accumulate(part.nbytes for part in self.parts))
        alignment_bytes = ALIGNMENT_BYTES[self.parts[0].device.type]
        if len(forms) > 1 or any(end % alignment_bytes for end in ends[:-1]):
            raise EngineError(f"the trainer's parts of {self.name} do not fit into one tensor")

    def lay_out(self, target: torch.Tensor) -> None:
        """Copies the parts into ``target`` and makes them views of it; their bits stay."""
        row = 0
        for part in self.parts:
            view = target[row : row + len(part)]
            view.copy_(part.data)
            part.data = view
            row += len(part)
        target[row:].zero_()


class SharedWeights:
    """The trainer's weights, laid out for vLLM; lives as long as the trainer."""

    def __init__(
        self, model: PreTrainedModel | PeftModel, checkpoint: CheckpointNames, device: torch.device
    ) -> None:
        """Looks at the model; nothing is moved before `handles`.

        Raises:
            EngineError: vLLM could not take its weights as they are.
        """
        self._device = device
        parameters = base_parameters(model)
        missing = checkpoint.names - parameters.keys() - checkpoint.derived
        if missing:
            raise EngineError(f"the trainer holds no {min(missing)}")
        self._parameters = {n: p for n, p in parameters.items() if n in checkpoint.names}
        self._blocks = list(blocks_of(self._parameters, vocabulary=_vocabularies(model)))
        for block in self._blocks:
            block.check()
        self._host: _HostMemory | None = None
        self._laid_out: dict[str, torch.Tensor] = {}
        self._addresses: dict[str, int] = {}

    def handles(self) -> dict[str, dict[str, object]]:
        """Returns what an engine opens the weights by; lays them out at the first call.

        Meanwhile one tensor of vLLM's is held twice, at most.

        Raises:
            EngineError: this system cannot share such memory.
        """
        try:
            found = self._handles()
        except (OSError, RuntimeError, AttributeError) as error:  # no memfd_create outside Linux
            raise EngineError(f"this system does not share such memory: {error}") from error
        self._addresses = {name: p.data_ptr() for name, p in self._parameters.items()}
        return found

    def check(self, weights: Weights, label: str) -> None:
        """Checks that the engine sees what the trainer holds, and that full ``weights`` are that.

        Raises:
            EngineError: a tensor lies elsewhere by now, or differs in a bit.
        """
        for name, address in self._addresses.items():
            own = self._parameters[name].detach()
            if own.data_ptr() != address:
                raise EngineError(f"the trainer moved {name}, which the engine shares with it")
            if weights.kind == "adapter":
                continue
            given = weights.tensors.get(name)
            if given is None or not _same_bits(own, given.to(own.device)):
                raise EngineError(
                    f"tensor {name} that trainer and engine share is not that of snapshot {label}; "
                    "the trainer must hold the weights that are scored"
                )
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _handles(self) -> dict[str, dict[str, object]]:
        if self._device.type == "cuda":
            self._lay_out_on_gpu()
            torch.cuda.synchronize(self._device)
            return {name: cuda_handle(tensor) for name, tensor in self._laid_out.items()}
        host = self._host = self._host or self._laid_out_on_host()
        return {name: host.handle(tensor) for name, tensor in self._laid_out.items()}

    def _laid_out_on_host(self) -> _HostMemory:
        alignment_bytes = ALIGNMENT_BYTES["cpu"]
        sizes = [
            -(-block.total_bytes // alignment_bytes) * alignment_bytes for block in self._blocks
        ]
        host = _HostMemory(sum(sizes))
        for block, memory in zip(self._blocks, host.tensor.split(sizes), strict=True):
            target = memory[: block.total_bytes].view(block.parts[0].dtype).view(block.shape)
            block.lay_out(target)
            self._laid_out[block.name] = target
        return host

    def _lay_out_on_gpu(self) -> None:
        for block in self._blocks:
            if block.name in self._laid_out:
                continue
            target = block.parts[0].data
            if not block.is_itself:
                target = torch.empty(block.shape, dtype=target.dtype, device=target.device)
                block.lay_out(target)
            self._laid_out[block.name] = target


def base_of(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model under an adapter, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def base_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters of the base model by the checkpoint's names, without an adapter's."""
    return {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in base_of(model).named_parameters()
        if ".lora_" not in name
    }


def blocks_of(
    parameters: Mapping[str, torch.nn.Parameter], *, vocabulary: Collection[int]
) -> Iterator[Block]:
    """Yields vLLM's tensors, in the model's order.

    Args:
        parameters: by the checkpoint's names.
        vocabulary: ids of those with a row per token.
    """
    fused_of = {part: fused for fused, parts in FUSED.items() for part in parts}
    done: set[str] = set()
    for name, parameter in parameters.items():
        above, _, leaf = name.rpartition(".")
        parent, _, module = above.rpartition(".")
        fused = fused_of.get(module)
        parts = [f"{parent}.{part}.{leaf}" for part in FUSED.get(fused or "", ())]
        if name in done:
            continue
        if parts and all(part in parameters for part in parts):
            held = tuple(parameters[part] for part in parts)
            yield Block(f"{parent}.{fused}.{leaf}", held, sum(len(part) for part in held))
            done.update(parts)
        else:
            multiple = VOCABULARY_ROWS if id(parameter) in vocabulary else 1
            yield Block(name, (parameter,), -(-len(parameter) // multiple) * multiple)


def _vocabularies(model: PreTrainedModel | PeftModel) -> set[int]:
    base = cast("PreTrainedModel", base_of(model))
    modules = (base.get_input_embeddings(), base.get_output_embeddings())
    return {id(p) for module in modules if module is not None for p in module.parameters()}


def _form(tensor: torch.Tensor) -> dict[str, object]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def cuda_handle(tensor: torch.Tensor) -> dict[str, object]:
    """Returns what another process opens a tensor on a GPU by; it fits into JSON."""
    arguments: tuple[Any, ...] = reduce_tensor(tensor)[1]  # pyright: ignore[reportAssignmentType]
    # Of the tensor: class, size, stride, offset in its storage, class of that, type, gradient.
    cuda = dict(zip(_CUDA, (arguments[3], *arguments[6:10], *arguments[11:]), strict=True))
    hexed = {key: v.hex() if isinstance(v, bytes) else v for key, v in cuda.items()}
    return {**_form(tensor), "stride": list(tensor.stride()), "cuda": hexed}


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    bits = _BITS[one.element_size()]
    return one.dtype == other.dtype and torch.equal(one.view(bits), other.view(bits))


class _HostMemory:
    """Memory that another process can map by a path, and that goes with the last that has it.

    It never has a name in a file system, so that no end of a process, however sudden, leaves it.
    """

    def __init__(self, total_bytes: int) -> None:
        descriptor = os.memfd_create("msft-lite-weights")
        self._end = weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, total_bytes)
        self._path = f"/proc/{os.getpid()}/fd/{descriptor}"
        self.tensor = torch.from_file(self._path, shared=True, size=total_bytes, dtype=torch.uint8)

    def handle(self, part: torch.Tensor) -> dict[str, object]:
        """Returns what another process opens a view of `tensor` by."""
        return {
            **_form(part),
            "path": self._path,
            "file_bytes": self.tensor.nbytes,
            "offset": part.storage_offset() * part.element_size(),
            "bytes": part.nbytes,
        }
