"""A LoRA adapter in the plainest form: one rank for all modules, its scaling folded into B.

Rank-stabilised scaling and rank and alpha patterns are understood differently, or silently
ignored, by the versions of vLLM; in this form there is nothing left to understand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.nn.functional import pad

from msft_lite.errors import EngineError

N = TypeVar("N", int, float)

ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values of vLLM's max_lora_rank
_FOLDABLE = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")
# What peft adds to W + scaling * B A, or puts in its place, and B cannot carry.
_UNFOLDABLE = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How strong and how wide each module's adapter is.

    The patterns are peft's: regular expressions that match the end of a module's name from a dot
    on; the first that matches wins.
    """

    rank: int
    alpha: float
    rank_stabilised: bool
    rank_pattern: tuple[tuple[str, int], ...]
    alpha_pattern: tuple[tuple[str, float], ...]

    @staticmethod
    def of(config: Mapping[str, object]) -> Scaling:
        """Reads the fields of a peft ``LoraConfig`` as a mapping.

        Raises:
            EngineError: the adapter is more than a low-rank product.
        """
        if more := more_than_lora(config):
            raise EngineError(
                f"an adapter with {more} cannot be given to vLLM as an adapter: merge it into the "
                "base, or evaluate it with the torch engine"
            )
        return Scaling(
            rank=int(_number(config, "r")),
            alpha=_number(config, "lora_alpha"),
            rank_stabilised=bool(config.get("use_rslora")),
            rank_pattern=tuple((k, int(v)) for k, v in _pattern(config, "rank_pattern")),
            alpha_pattern=tuple(_pattern(config, "alpha_pattern")),
        )

    @property
    def widest_rank(self) -> int:
        """The largest rank of any module."""
        return max([self.rank, *(rank for _, rank in self.rank_pattern)])

    @property
    def engine_rank(self) -> int:
        """The smallest ``max_lora_rank`` of vLLM that holds the adapter."""
        fitting = [rank for rank in ENGINE_RANKS if rank >= self.widest_rank]
        if not fitting:
            raise EngineError(
                f"vLLM takes adapters of rank {ENGINE_RANKS[-1]} at most, not {self.widest_rank}: "
                "lower the rank or use the torch engine"
            )
        return fitting[0]

    def module_rank(self, module: str) -> int:
        """Returns the rank of ``module``, named as in the unadapted model."""
        return _first_match(self.rank_pattern, module, self.rank)

    def factor(self, module: str) -> float:
        """Returns what B A of ``module`` is multiplied with."""
        rank = self.module_rank(module)
        alpha = _first_match(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def more_than_lora(config: Mapping[str, object]) -> str:
    """Returns what makes the adapter of a peft ``LoraConfig`` more than products B A, or nothing.

    Such an adapter reaches vLLM only merged into the base.
    """
    for key in _UNFOLDABLE:
        if config.get(key):
            return f"{key} = {config[key]!r}"
    bias = config.get("bias", "none")
    return "" if bias == "none" else f"bias = {bias!r}"


def fold(tensors: Mapping[str, torch.Tensor], scaling: Scaling) -> dict[str, torch.Tensor]:
    """Returns the same adapter with scaling 1 and ``scaling.widest_rank`` in every module.

    Args:
        tensors: A of shape (rank, inputs) and B of shape (outputs, rank), names as peft saves them.

    Returns:
        The same names; A padded with zero rows, B scaled and padded with zero columns, float32.

    Raises:
        EngineError: a tensor is not an A or B of a linear module, or its rank is not the
            configuration's.
    """
    return {name: _fold_one(name, tensor, scaling) for name, tensor in tensors.items()}


def _fold_one(name: str, tensor: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    match = _FOLDABLE.fullmatch(name)
    if match is None:
        raise EngineError(
            f"the trainable tensor {name} is no LoRA matrix of a linear module, so vLLM cannot be "
            "given it: adapt linear modules only or use the torch engine"
        )
    module, is_a = match["module"], match["part"] == "A"
    rank = tensor.shape[0 if is_a else 1]
    if rank != scaling.module_rank(module):
        raise EngineError(
            f"{name} has rank {rank}, but the adapter's configuration says "
            f"{scaling.module_rank(module)}"
        )
    missing = scaling.widest_rank - rank
    if is_a:
        return pad(tensor.float(), (0, 0, 0, missing)).contiguous()
    return pad(tensor.float() * scaling.factor(module), (0, missing)).contiguous()


def _first_match(pattern: tuple[tuple[str, N], ...], module: str, otherwise: N) -> N:
    for key, value in pattern:
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def _number(config: Mapping[str, object], key: str) -> float:
    value = config.get(key)
    if not isinstance(value, int | float):
        raise EngineError(f"the adapter's configuration has {key} = {value!r}, not a number")
    return value


def _pattern(config: Mapping[str, object], key: str) -> list[tuple[str, float]]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise EngineError(f"the adapter's configuration has {key} = {value!r}, not a table")
    return [(str(pattern), number) for pattern, number in value.items()]
