"""Norms, rotary positions and gated layers of a model in the fused kernels of Liger, for a GPU.

Source: Hsu et al., *Liger Kernel: Efficient Triton kernels for LLM training*, arXiv 2410.10989.

The library changes a model's layers, and the module of transformers that the model's classes stand
in. The first is wanted. The second would change every model of that architecture in this process,
models without numbers too, that memory is predicted with; so it is undone, but for the rotation,
which layers look up there when they run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel

from msft_lite.errors import ModelError
from msft_lite.model.batch import collate
from msft_lite.model.loss import base_model, evaluating, hidden_states, vocabulary_size
from msft_lite.model.settings import ModelSettings

PACKAGE = "liger-kernel"
_ROTATION = "apply_rotary_pos_emb"
_LENGTH = 12
# Of the largest number, as for packed rows: other kernels, through many layers.
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.05}


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Rotates queries and keys by ``fused`` on ``device_type``, and elsewhere by ``own``."""

    own: Callable[..., Any]
    fused: Callable[..., Any]
    device_type: str

    def __call__(self, q: torch.Tensor, k: torch.Tensor, *args: Any, **options: Any) -> Any:
        has_numbers = not isinstance(q, FakeTensor)
        is_fused = has_numbers and q.device.type == self.device_type
        return (self.fused if is_fused else self.own)(q, k, *args, **options)


def is_installed() -> bool:
    """Returns whether the library is there."""
    return find_spec("liger_kernel") is not None


def fuse_layers(base: PreTrainedModel, settings: ModelSettings) -> None:
    """Has the layers of ``base`` computed by the library's kernels; weights stay where they are.

    The loss is another matter, see `loss_kernel`. Afterwards the model runs on its GPU alone, and
    rotates there by the kernel, as any other model of the same architecture in this process.

    Raises:
        ModelError: the library cannot be used, or knows nothing of this architecture.
    """
    try:
        from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
            MODEL_TYPE_TO_APPLY_LIGER_FN,
            _apply_liger_kernel_to_instance,
        )
    except (ImportError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"model.liger_kernels: {PACKAGE} cannot be used here ({error}): pip install {PACKAGE}, "
            "or take the key out"
        ) from error
    if (kind := base.config.model_type) not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ModelError(
            f"model {settings.name_or_path!r}: model.liger_kernels: {PACKAGE} has no kernels for "
            f"the architecture {kind!r}; take the key out"
        )
    module = sys.modules[type(base).__module__]
    before = dict(vars(module))
    _apply_liger_kernel_to_instance(
        model=base, cross_entropy=False, fused_linear_cross_entropy=False
    )
    _put_back(module, before, settings.device)


def states_to_keep(base: PreTrainedModel) -> torch.Tensor:
    """Returns the last hidden state of a few tokens, on the host: what no kernel may change."""
    ids = tuple((7 * place + 3) % vocabulary_size(base) for place in range(_LENGTH))
    batch = collate([(ids[:1], ids[1:])], pad_id=0, device=base_model(base).device)
    with evaluating(base):
        return hidden_states(base, batch).cpu()


def check_fused(model: torch.nn.Module, expected: torch.Tensor, settings: ModelSettings) -> None:
    """Checks that the fused layers of ``model`` give what its own gave, within rounding.

    Args:
        model: on its device; an adapter changes nothing yet.
        expected: as `states_to_keep` returned it before.
        settings: name the model.

    Raises:
        ModelError: they do not, or the kernels do not run.
    """
    try:
        found = states_to_keep(base_model(model))
        far = _TOLERANCES.get(expected.dtype, 0.05) * float(expected.abs().max())
        problem = None if torch.allclose(found, expected, rtol=0, atol=far) else "give other states"
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        problem = f"do not run ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    if problem:
        raise ModelError(
            f"model {settings.name_or_path!r}: model.liger_kernels: the kernels of {PACKAGE} "
            f"{problem}; take the key out"
        )


def _put_back(module: ModuleType, before: dict[str, Any], device_type: str) -> None:
    """Undoes what was changed in ``module``, but for the rotation."""
    for name, value in list(vars(module).items()):
        if name not in before:
            continue
        own = before[name]
        if name == _ROTATION and value is not own:
            own = own.own if isinstance(own, _Rotation) else own  # of a model loaded earlier
            setattr(module, name, _Rotation(own, value, device_type))
        elif value is not own:
            setattr(module, name, own)
