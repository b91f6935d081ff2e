"""AdamW's update of single tensors: through torch, or through bitsandbytes with 8-bit moments.

A rule keeps nothing of a parameter. Weights, gradients and moments are handed to it, whole or in
parts, so that one rule serves every way of rounding and every order of updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
from torch.optim.adamw import adamw

from msft_lite.errors import TrainError
from msft_lite.train.settings import PAGED, TrainSettings

Tensors = Mapping[str, torch.Tensor]

BLOCK_ELEMENTS = 256  # share one scale in bitsandbytes' 8-bit moments
LEAST_8BIT_ELEMENTS = 4096  # bitsandbytes' own bound: smaller tensors keep 32-bit moments
_LEAST_PAGED_ELEMENTS = 100_000  # so is this: a page holds 2 MiB


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor to update, or a part of one.

    Attributes:
        weight: is changed in place.
        gradient: of the dtype of ``weight``.
        moments: as `UpdateRule.moments` makes them; are changed in place.
    """

    weight: torch.Tensor
    gradient: torch.Tensor
    moments: Tensors


class UpdateRule(Protocol):
    """How weights and moments change in a step; its result is the same in every grouping."""

    @property
    def shared(self) -> Tensors:
        """State that belongs to all parameters together, by name."""
        ...

    def reset(self) -> None:
        """Makes `shared` what it is at the start."""
        ...

    def moments(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns zero moments of a whole tensor, by kind."""
        ...

    def part(self, moments: Tensors, start: int, stop: int) -> Tensors:
        """Returns views of the moments of elements ``start`` to ``stop``, flattened.

        ``start`` is a multiple of `BLOCK_ELEMENTS`, and so is ``stop`` but at the end.
        """
        ...

    def update(self, targets: Sequence[Target], *, rate: float, steps: int) -> None:
        """Changes weights and moments in place.

        Args:
            targets: what is updated.
            rate: the learning rate.
            steps: optimizer steps done before.
        """
        ...


class FusedAdamW:
    """AdamW in torch's fused kernel, the one that computes in float32 for bfloat16 weights too.

    Source: Loshchilov and Hutter, *Decoupled weight decay regularization*, arXiv 1711.05101.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings

    @property
    def shared(self) -> Tensors:
        return {}

    def reset(self) -> None:
        """Does nothing: there is no shared state."""

    def moments(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        # The kernel wants all in one dtype, and stochastic rounding hands it float32 weights.
        is_stochastic = self._settings.bf16_update == "stochastic"
        dtype = torch.float32 if is_stochastic else weight.dtype
        return {kind: torch.zeros_like(weight, dtype=dtype) for kind in ("exp_avg", "exp_avg_sq")}

    def part(self, moments: Tensors, start: int, stop: int) -> Tensors:
        return {kind: tensor.view(-1)[start:stop] for kind, tensor in moments.items()}

    def update(self, targets: Sequence[Target], *, rate: float, steps: int) -> None:
        settings = self._settings
        # The kernel counts the steps up in place: one number a tensor, in one allocation.
        device = targets[0].weight.device
        counts = torch.full((len(targets),), float(steps), dtype=torch.float32, device=device)
        adamw(
            [target.weight for target in targets],
            [target.gradient for target in targets],
            [target.moments["exp_avg"] for target in targets],
            [target.moments["exp_avg_sq"] for target in targets],
            [],
            list(counts.unbind()),
            fused=True,
            amsgrad=False,
            beta1=settings.adam_beta1,
            beta2=settings.adam_beta2,
            lr=rate,
            weight_decay=settings.weight_decay,
            eps=settings.adam_epsilon,
            maximize=False,
        )


class BlockwiseAdamW:
    """AdamW in the kernels of bitsandbytes, which compute in float32.

    ``state1`` and ``state2`` are codes into the maps ``qmap1`` and ``qmap2``, each block of 256 of
    them scaled by ``absmax1`` and ``absmax2``; zero codes under zero scales stand for zeros. A
    tensor of fewer than 4,096 elements has float32 moments and no scales. With paging, moments of
    100,000 elements and more lie in memory that the driver moves between host and GPU; torch takes
    them for tensors of the host.

    Source: Dettmers et al., *8-bit optimizers via block-wise quantization*, arXiv 2110.02861;
    paging: *QLoRA*, arXiv 2305.14314.
    """

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        """Takes the settings and the device of the weights.

        Raises:
            TrainError: bitsandbytes cannot be imported, or paging is asked for on a CPU.
        """
        self._settings = settings
        self._is_8bit = settings.optim.endswith("8bit")
        self._is_paged = settings.optim in PAGED
        if self._is_paged and device.type != "cuda":
            raise TrainError(
                f"train.optim = {settings.optim!r} moves moments between host and GPU and needs "
                f"a GPU, the model is on {device.type}; take {settings.optim[6:]!r}"
            )
        self._functional = _bitsandbytes(settings.optim)
        self._maps = {
            kind: torch.empty(256, device=device)
            for kind in (("qmap1", "qmap2") if self._is_8bit else ())
        }
        self.reset()

    @property
    def shared(self) -> Tensors:
        return self._maps

    def reset(self) -> None:
        for kind, tensor in self._maps.items():
            tensor.copy_(self._functional.create_dynamic_map(signed=kind == "qmap1"))

    def moments(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self._is_8bit or weight.numel() < LEAST_8BIT_ELEMENTS:
            return {kind: self._zeros(weight, torch.float32) for kind in ("state1", "state2")}
        blocks = -(-weight.numel() // BLOCK_ELEMENTS)
        codes = {kind: self._zeros(weight, torch.uint8) for kind in ("state1", "state2")}
        scales = {
            kind: torch.zeros(blocks, dtype=torch.float32, device=weight.device)
            for kind in ("absmax1", "absmax2")
        }
        return codes | scales

    def part(self, moments: Tensors, start: int, stop: int) -> Tensors:
        found = {kind: moments[kind].view(-1)[start:stop] for kind in ("state1", "state2")}
        for kind, view in found.items():
            if is_paged(moments[kind]):
                _mark_paged(view, moments[kind])
        blocks = slice(start // BLOCK_ELEMENTS, -(-stop // BLOCK_ELEMENTS))
        scales = {kind: t[blocks] for kind, t in moments.items() if kind.startswith("absmax")}
        return found | scales

    def update(self, targets: Sequence[Target], *, rate: float, steps: int) -> None:
        for target in targets:
            if self._is_paged:
                self._fetch(target.moments)
            if "absmax1" in target.moments:
                self._update_codes(target, rate=rate, step=steps + 1)
            else:
                self._update_float32(target, rate=rate, step=steps + 1)
        if self._is_paged:  # the moments are read on the host, where nothing waits for the GPU
            torch.cuda.synchronize()

    def _update_codes(self, target: Target, *, rate: float, step: int) -> None:
        settings, moments = self._settings, target.moments
        self._functional.optimizer_update_8bit_blockwise(
            "adam",
            target.gradient,
            target.weight,
            moments["state1"],
            moments["state2"],
            settings.adam_beta1,
            settings.adam_beta2,
            beta3=0.0,
            alpha=0.0,
            eps=settings.adam_epsilon,
            step=step,
            lr=rate,
            qmap1=self._maps["qmap1"],
            qmap2=self._maps["qmap2"],
            absmax1=moments["absmax1"],
            absmax2=moments["absmax2"],
            weight_decay=settings.weight_decay,
        )

    def _update_float32(self, target: Target, *, rate: float, step: int) -> None:
        settings = self._settings
        self._functional.optimizer_update_32bit(
            "adam",
            target.gradient,
            target.weight,
            target.moments["state1"],
            settings.adam_beta1,
            settings.adam_epsilon,
            step,
            rate,
            target.moments["state2"],
            beta2=settings.adam_beta2,
            weight_decay=settings.weight_decay,
        )

    def _zeros(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if not self._is_paged or weight.numel() < _LEAST_PAGED_ELEMENTS:
            return torch.zeros_like(weight, dtype=dtype)
        paged = self._functional.get_paged(*weight.shape, dtype=dtype, device=weight.device)
        self._functional.fill(paged, 0)
        return paged

    def _fetch(self, moments: Tensors) -> None:
        for tensor in moments.values():
            if is_paged(tensor):
                self._functional.prefetch_tensor(tensor)


def is_paged(tensor: torch.Tensor) -> bool:
    """Returns whether ``tensor``, of an optimizer on a GPU, lies in paged memory."""
    return "is_paged" in vars(tensor)


def _mark_paged(view: torch.Tensor, whole: torch.Tensor) -> None:
    """Marks a view as bitsandbytes marks what it allocates: a view has no marks of its own."""
    vars(view).update(vars(whole))


def _bitsandbytes(optim: str) -> ModuleType:
    try:
        import bitsandbytes.functional
    except (ImportError, OSError, RuntimeError) as error:
        raise TrainError(
            f"train.optim = {optim!r} needs bitsandbytes, which cannot be imported ({error}): "
            'pip install bitsandbytes, or set optim = "adamw"'
        ) from error
    return bitsandbytes.functional
