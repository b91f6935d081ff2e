"""Which changes to a recipe make a training step fit, the cheapest first.

Pure: what a step needs is asked of a function, so that a table serves a test and `predicted` a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

from msft_lite.model.settings import Tuning

SHORTEST = 64  # tokens; shorter rows are not proposed
_SHARES = ((3, 4), (1, 2), (1, 4))  # of max_length


@dataclass(frozen=True, slots=True)
class Load:
    """The settings of a recipe that decide how much a step needs, by the recipe's names."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    max_length: int
    gradient_checkpointing: bool | int
    tuning: Tuning
    load_in_4bit: bool
    optim: str
    optimizer_in_backward: bool = False

    @property
    def batch_rows(self) -> int:
        """Rows of an optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps


PeakOf: TypeAlias = Callable[[Load], int]


@dataclass(frozen=True, slots=True)
class Change:
    """What to put into the recipe, and what a step needs then.

    Attributes:
        lines: ``table.key = value``, as in TOML.
        peak_bytes: predicted.
        load: with the change made.
    """

    lines: tuple[str, ...]
    peak_bytes: int
    load: Load


def advice(
    now: Load, *, free_bytes: int, peak_of: PeakOf, optims: tuple[str, ...] = ()
) -> tuple[Change, ...]:
    """Returns the changes that make a step fit, the cheapest first; none if it fits, or none does.

    Cheap is what leaves results as they are, or nearly: fewer rows in a pass (the rows of an
    optimizer step stay), activations computed again, moments of 8 bits. Dear is what changes them:
    shorter rows, an adapter in place of full tuning, a base in 4 bits. A change stands alone where
    it suffices. Where no cheap one does, the least number of them together is tried, in this order,
    and where nothing suffices yet, all of them in this order.

    Args:
        now: the recipe as it is.
        free_bytes: what a step may need.
        peak_of: what a step of a recipe needs, in bytes.
        optims: the optimizers that a recipe may name.
    """
    if peak_of(now) <= free_bytes:
        return ()
    cheap, dear = list(_cheap(now, optims)), list(_dear(now))
    found = [first for step in cheap if (first := _first(now, step, free_bytes, peak_of))]
    if not found:
        found = _together(now, cheap, free_bytes, peak_of)
    found += [first for step in dear if (first := _first(now, step, free_bytes, peak_of))]
    shorter, *others = dear
    return tuple(found or _together(now, [*cheap, *others, shorter], free_bytes, peak_of))


# What one setting could be changed to, the mildest first.
_Step: TypeAlias = Callable[[Load], Iterator[Load]]


def _cheap(now: Load, optims: tuple[str, ...]) -> Iterator[_Step]:
    yield _fewer_rows
    if now.gradient_checkpointing != 1:  # which true equals
        yield lambda load: iter([replace(load, gradient_checkpointing=True)])
    small = f"{now.optim}_8bit"
    if now.tuning == "full" and small in optims:
        yield lambda load: iter([replace(load, optim=small)])


def _dear(now: Load) -> Iterator[_Step]:
    yield _shorter_rows
    if now.tuning == "full":
        yield lambda load: iter([replace(load, tuning="lora")])
    if not now.load_in_4bit:
        yield lambda load: iter([replace(load, tuning="lora", load_in_4bit=True)])


def micro_batches(load: Load) -> Iterator[Load]:
    """Yields every split of the rows of an optimizer step into equal passes, the largest first."""
    for rows in range(load.batch_rows, 0, -1):
        if load.batch_rows % rows == 0:
            yield replace(
                load,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=load.batch_rows // rows,
            )


def _fewer_rows(load: Load) -> Iterator[Load]:
    if load.optimizer_in_backward:  # where a step is one pass
        return
    for split in micro_batches(load):
        if split.per_device_train_batch_size < load.per_device_train_batch_size:
            yield split


def _shorter_rows(load: Load) -> Iterator[Load]:
    for numerator, denominator in _SHARES:
        length = load.max_length * numerator // denominator
        if length >= SHORTEST:
            yield replace(load, max_length=length)


def _first(now: Load, step: _Step, free_bytes: int, peak_of: PeakOf) -> Change | None:
    """Returns the mildest change of one setting that suffices."""
    candidates = list(step(now))
    # The strongest tells whether any does; that is one question where most would be in vain.
    if not candidates or peak_of(candidates[-1]) > free_bytes:
        return None
    load = next(load for load in candidates if peak_of(load) <= free_bytes)
    return _change(now, load, peak_of)


def _together(now: Load, steps: list[_Step], free_bytes: int, peak_of: PeakOf) -> list[Change]:
    """Returns the first settings that suffice together, each at its strongest, as one change."""
    load = now
    for step in steps:
        *_, load = [load, *step(load)]
        if peak_of(load) <= free_bytes:
            return [_change(now, load, peak_of)]
    return []


def _change(now: Load, load: Load, peak_of: PeakOf) -> Change:
    return Change(tuple(_lines(now, load)), peak_of(load), load)


_TABLES = {
    "per_device_train_batch_size": "train",
    "gradient_accumulation_steps": "train",
    "max_length": "train",
    "optim": "train",
    "gradient_checkpointing": "model",
    "tuning": "model",
    "load_in_4bit": "model",
}


def _lines(now: Load, load: Load) -> Iterator[str]:
    before, after = asdict(now), asdict(load)
    for key, table in _TABLES.items():
        if before[key] != after[key]:
            yield f"{table}.{key} = {_toml(after[key])}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
