"""Makes vLLM compute with the trainer's own weights: a model loader that copies nothing.

A part of the engine's process: `vllm_worker.py` loads it by its path. The trainer has laid its
tensors out as vLLM holds them, see `shared_weights.py`, and sends handles; here each becomes a
tensor over the same memory, before vLLM packs weights or captures graphs. Where that fails, vLLM
loads a copy of its own from the model's files, and the reason is told.

Read in vLLM 0.26 and 0.32 and run with both on a CPU; with CUDA it was never run.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LOAD_FORMAT = "msft_lite"
# Whatever else a layer's method does after loading, such as to quantise, needs the weights there.
PLAIN_METHODS = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod")

Handles = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass
class Adoption:
    """What the loader is given and what became of it.

    Attributes:
        handles: by the checkpoint's names, of fused tensors by vLLM's.
        renaming: returns vLLM's mapper of a model's names, or None.
        refusal: why vLLM has a copy of its own; empty if it has not.
    """

    handles: Handles
    renaming: Callable[[Any], Any]
    refusal: str = ""

    def register(self) -> None:
        """Makes `LOAD_FORMAT` known to vLLM; before an engine is made."""
        from vllm.model_executor.model_loader import register_model_loader
        from vllm.model_executor.model_loader.base_loader import BaseModelLoader

        adoption = self

        class Loader(BaseModelLoader):
            def download_model(self, model_config: Any) -> None:
                """Does nothing: the trainer has the weights."""

            def load_weights(self, model: Any, model_config: Any) -> None:
                """Does nothing: the weights are the trainer's."""

            def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> Any:
                return adoption.load(vllm_config, model_config, prefix)

        register_model_loader(LOAD_FORMAT)(Loader)

    def load(self, vllm_config: Any, model_config: Any, prefix: str) -> Any:
        """Returns the model over the trainer's tensors, or else over a copy from its files."""
        layers = vllm_config.compilation_config.static_forward_context
        before = dict(layers)
        try:
            return self._adopted(vllm_config, model_config, prefix)
        except Exception as error:
            traceback.print_exc()
            self.refusal = f"{type(error).__name__}: {error}"
        # Layers announce themselves by name when they are made, and a name twice is refused.
        layers.clear()
        layers.update(before)
        gc.collect()
        from vllm.model_executor.model_loader import get_model_loader

        vllm_config.load_config.load_format = "auto"
        return get_model_loader(vllm_config.load_config).load_model(
            vllm_config=vllm_config, model_config=model_config, prefix=prefix
        )

    def _adopted(self, vllm_config: Any, model_config: Any, prefix: str) -> Any:
        import torch
        from vllm.model_executor.model_loader.utils import (
            initialize_model,
            process_weights_after_loading,
        )
        from vllm.utils.torch_utils import set_default_torch_dtype

        device = torch.device(vllm_config.load_config.device or vllm_config.device_config.device)
        with set_default_torch_dtype(model_config.dtype), device, _without_memory():
            model = initialize_model(
                vllm_config=vllm_config, model_config=model_config, prefix=prefix
            )
        _check_plain(model)
        # On a CPU vLLM packs copies of the weights here, but of none that has no memory: such
        # layers then multiply with the weight that they have at that time.
        process_weights_after_loading(model, model_config, device)
        _adopt(model, self._tensors(model))
        return model.eval()

    def _tensors(self, model: Any) -> dict[str, Any]:
        mapper = self.renaming(model)
        return {
            name if mapper is None else mapper._map_name(name): rebuilt(handle)
            for name, handle in self.handles.items()
        }


def rebuilt(handle: Mapping[str, Any]) -> Any:
    """Returns the tensor over memory of the trainer that `handle` tells of."""
    import torch

    dtype, shape = getattr(torch, handle["dtype"]), handle["shape"]
    if "path" in handle:
        part = mapped(handle["path"], handle["file_bytes"])[
            handle["offset"] : handle["offset"] + handle["bytes"]
        ]
        return part.view(dtype).view(shape)
    from torch.multiprocessing.reductions import rebuild_cuda_tensor

    cuda = {
        key: bytes.fromhex(value) if key.endswith("_handle") else value
        for key, value in handle["cuda"].items()
    }
    return rebuild_cuda_tensor(
        torch.Tensor,
        torch.Size(shape),
        tensor_stride=tuple(handle["stride"]),
        storage_cls=torch.storage.TypedStorage,
        dtype=dtype,
        requires_grad=False,
        **cuda,
    )


@functools.cache
def mapped(path: str, total_bytes: int) -> Any:
    """Returns the bytes of a file of the trainer's; mapped once, as long as this process lives."""
    import torch

    return torch.from_file(path, shared=True, size=total_bytes, dtype=torch.uint8)


@contextmanager
def _without_memory() -> Iterator[None]:
    """Within it a parameter of a module has a shape and a type alone; buffers are real."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def replaced(_module: Any, _name: str, parameter: Any) -> Any:
        if parameter is None or parameter.is_meta:
            return None
        return torch.nn.Parameter(parameter.data.to("meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(replaced)
    try:
        yield
    finally:
        hook.remove()


def _check_plain(model: Any) -> None:
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        if method is not None and type(method).__name__ not in PLAIN_METHODS:
            raise ValueError(
                f"{name} holds its weights in a form of its own ({type(method).__name__})"
            )


def _adopt(model: Any, tensors: Mapping[str, Any]) -> None:
    """Gives every parameter of the model its tensor; parameters that are one stay one."""
    import torch

    modules = dict(model.named_modules(remove_duplicate=False))
    made: dict[int, Any] = {}
    # A list, as it changes; in the model's order, so that the embedding comes before a tied head.
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if id(parameter) not in made:
            tensor = tensors.get(name)
            if tensor is None:
                raise ValueError(f"the trainer gave no {name}; it gave {len(tensors)} tensors")
            if (tensor.shape, tensor.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)} in the trainer and "
                    f"{parameter.dtype} {list(parameter.shape)} in vLLM"
                )
            made[id(parameter)] = torch.nn.Parameter(tensor, requires_grad=False), parameter
        module, _, leaf = name.rpartition(".")
        modules[module].register_parameter(leaf, made[id(parameter)][0])
