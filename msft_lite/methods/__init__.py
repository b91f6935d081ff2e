"""The methods: each a small generator over `msft_lite.core`, with its options beside it.

To add one, write a file with a frozen options dataclass and a generator function, and add a row
to `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msft_lite.core import Clock, Method
from msft_lite.methods.continual import ContinualOptions, continual
from msft_lite.methods.dynamix import DynamixOptions, dynamix
from msft_lite.methods.ies import IesOptions, ies
from msft_lite.methods.msft import MsftOptions, msft
from msft_lite.methods.sft import SftOptions, sft
from msft_lite.methods.shift import ShiftOptions, shift
from msft_lite.methods.sro import SroOptions, soft_sro, sro


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """A row of the table: the options class and the generator that takes it."""

    options: Callable[..., Any]
    generator: Callable[[Clock, Any], Method]


METHODS: Mapping[str, MethodEntry] = {
    "msft": MethodEntry(MsftOptions, msft),
    "sft": MethodEntry(SftOptions, sft),
    "continual": MethodEntry(ContinualOptions, continual),
    "sro": MethodEntry(SroOptions, sro),
    "soft_sro": MethodEntry(SroOptions, soft_sro),
    "dynamix": MethodEntry(DynamixOptions, dynamix),
    "ies": MethodEntry(IesOptions, ies),
    "shift": MethodEntry(ShiftOptions, shift),
}


def build_method(name: str, clock: Clock, options: Mapping[str, Any]) -> Method:
    """Returns the generator of method ``name``.

    Args:
        name: a key of `METHODS`.
        clock: sizes of the tasks and length of an epoch.
        options: fields of the method's options class.
    """
    entry = METHODS[name]
    return entry.generator(clock, entry.options(**options))
