"""The table of methods: every name leads to its own generator and options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from msft_lite.core import Clock, Method
from msft_lite.methods import METHODS, build_method
from msft_lite.methods.continual import ContinualOptions, continual
from msft_lite.methods.dynamix import DynamixOptions, dynamix
from msft_lite.methods.ies import IesOptions, ies
from msft_lite.methods.msft import MsftOptions, msft
from msft_lite.methods.sft import SftOptions, sft
from msft_lite.methods.shift import ShiftOptions, shift
from msft_lite.methods.sro import SroOptions, soft_sro, sro

CLOCK = Clock({"b": 64, "a": 32}, batch_rows=16)
TABLE = [
    ("sft", SftOptions, sft, "epochs"),
    ("continual", ContinualOptions, continual, "epochs"),
    ("msft", MsftOptions, msft, "budget"),
    ("sro", SroOptions, sro, "epochs"),
    ("soft_sro", SroOptions, soft_sro, "epochs"),
    ("dynamix", DynamixOptions, dynamix, "period"),
    ("ies", IesOptions, ies, "epochs"),
    ("shift", ShiftOptions, shift, "epochs"),
]


def test_no_method_is_missing_here() -> None:
    assert sorted(METHODS) == sorted(name for name, *_ in TABLE)


@pytest.mark.parametrize(("name", "options", "generator", "key"), TABLE)
def test_a_name_builds_its_own_method_with_the_options_given(
    name: str, options: type[Any], generator: Callable[[Clock, Any], Method], key: str
) -> None:
    assert METHODS[name].generator is generator
    assert METHODS[name].options is options
    built = next(build_method(name, CLOCK, {key: 1}))
    assert built == next(generator(CLOCK, options(**{key: 1})))
    assert built != next(generator(CLOCK, options(**{key: 2})))
