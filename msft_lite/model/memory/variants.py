"""The ways in which a step can be made to fit without a change of what is learned, the best first.

Pure, as `advice` is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from msft_lite.model.memory.advice import Load, PeakOf, micro_batches

_INTERVALS = (8, 4, 3, 2)
Variants: TypeAlias = Sequence[Sequence[Load]]


def intervals(layers: int) -> tuple[bool | int, ...]:
    """Returns values of ``gradient_checkpointing``, those that compute least again first.

    Args:
        layers: of the model; every so-many-th layer is the first alone.
    """
    between = sorted({k for k in (layers, *_INTERVALS) if 1 < k <= layers}, reverse=True)
    return (False, *between, True)


def variants(load: Load, *, layers: int | None, any_rows: bool) -> Variants:
    """Returns what may be chosen: a group for each interval, the most rows in a pass first.

    Recomputation adds operations to a step and more passes do not, so that goes before these.

    Args:
        load: of the recipe; what is not chosen stays as it is.
        layers: of the model, where the interval is chosen; None where it stays.
        any_rows: whether the rows of a pass are chosen; those of an optimizer step stay.
    """
    every = (load.gradient_checkpointing,) if layers is None else intervals(layers)
    loads = [replace(load, gradient_checkpointing=k) for k in every]
    return [list(micro_batches(one)) if any_rows else [one] for one in loads]


def fitting(groups: Variants, *, free_bytes: int, peak_of: PeakOf) -> Iterator[Load]:
    """Yields those of `variants` that fit, in their order."""
    for group in groups:
        # The fewest rows tell whether any do; that is one question where most would be in vain.
        if peak_of(group[-1]) <= free_bytes:
            yield from (load for load in group if peak_of(load) <= free_bytes)
