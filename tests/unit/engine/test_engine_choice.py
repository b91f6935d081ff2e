from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from msft_lite.engine.choose import choose_engine, has_vllm
from msft_lite.errors import EngineError


@pytest.fixture
def without_vllm(tmp_path: Path) -> str:
    """An interpreter that sees the standard library alone."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    script.chmod(0o755)
    return str(script)


def test_auto_takes_vllm_where_it_is_installed_and_says_so() -> None:
    installed = importlib.util.find_spec("vllm") is not None
    choice = choose_engine("auto", python=sys.executable)
    assert choice.kind == ("vllm" if installed else "torch")
    assert sys.executable in choice.line
    assert "vllm" not in sys.modules


def test_another_interpreter_is_asked(without_vllm: str) -> None:
    assert not has_vllm(without_vllm)
    choice = choose_engine("auto", python=without_vllm)
    assert choice.kind == "torch"
    assert f"{without_vllm} has no vllm" in choice.line


def test_vllm_that_is_asked_for_and_absent_is_an_error(without_vllm: str) -> None:
    with pytest.raises(EngineError, match="has no vllm: install it"):
        choose_engine("vllm", python=without_vllm)


def test_auto_leaves_vllm_aside_for_a_reason_and_a_wish_does_not() -> None:
    choice = choose_engine("auto", python="no/such/python", only_torch="the base is too large")
    assert (choice.kind, choice.line) == ("torch", "engine: torch (slow), as the base is too large")
    wished = choose_engine("vllm", python=sys.executable, only_torch="the base is too large")
    assert wished.kind == "vllm"


def test_torch_needs_no_look() -> None:
    assert choose_engine("torch", python="no/such/python").kind == "torch"


def test_an_interpreter_that_does_not_exist_is_told() -> None:
    with pytest.raises(EngineError, match="no/such/python cannot be run"):
        choose_engine("auto", python="no/such/python")
