"""The life of the real vLLM engine: start, use, failure, death."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msft_lite.engine.base import Prompt
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import EngineError, MsftError
from tests.unit.engine.processes import gone

NO_END = (9999,)  # outside the vocabulary, as the end of a tokenizer with added tokens may be
State = tuple[Any, ...]


def state() -> State:
    """All that starting an engine in this process would change."""
    generator = np.random.get_state()
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        str(generator),
        torch.get_num_threads(),
        {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
        torch.distributed.is_initialized(),
        signal.getsignal(signal.SIGTERM),
        torch.get_default_dtype(),
    )


@pytest.fixture(scope="module")
def settings(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> VllmSettings:
    return VllmSettings(
        model_folder=tiny_model_folder,
        dtype="float32",
        max_model_len=128,
        eos_ids=NO_END,
        log_path=tmp_path_factory.mktemp("engine") / "engine.log",
        threads=1,
        max_num_seqs=4,
        call_timeout_seconds=120,
        environment={**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("temporary"))},
    )


@pytest.fixture(scope="module")
def before() -> State:
    return state()


@pytest.fixture(scope="module")
def engine(settings: VllmSettings, before: State) -> Iterator[VllmEngine]:
    engine = VllmEngine(settings)
    yield engine
    engine.close()


def test_the_start_does_not_wait_and_the_trainers_state_stays(
    engine: VllmEngine, before: State
) -> None:
    assert not engine.ready()
    with engine.awake():
        assert engine.ready()
        assert len(engine.complete([Prompt((1, 2, 3), 5)])[0].ids) == 5
    assert state() == before


def test_an_empty_list_needs_no_engine(engine: VllmEngine) -> None:
    assert engine.complete([]) == []


def test_a_prompt_that_cannot_be_answered_is_refused_and_the_engine_lives(
    engine: VllmEngine,
) -> None:
    good = [Prompt((5, 6, 7), 8), Prompt((9,), 3)]
    answers = engine.complete(good)
    with pytest.raises(EngineError, match=r"prompt 1 has 125 tokens .* 129 in all, but .* 128"):
        engine.complete([good[0], Prompt((1,) * 125, 4)])
    with pytest.raises(EngineError, match="prompt 0 has 0 tokens"):
        engine.complete([Prompt((), 4)])
    with pytest.raises(EngineError, match=r"prompt 1 holds a token id outside 0\.\.256: 1\.\.257"):
        engine.complete([good[0], Prompt((1, 257), 4)])
    assert engine.complete([Prompt((1,) * 124, 4)])[0].ids
    assert engine.complete(good) == answers


def test_requests_left_by_a_failure_do_not_reach_later_answers(engine: VllmEngine) -> None:
    good = [Prompt((5, 6, 7), 8), Prompt((9,), 3)]
    answers = engine.complete(good, log_probabilities=True)
    # Too long, past our own check: vLLM refuses it after it has taken the prompt before it.
    with pytest.raises(EngineError, match="failed at complete: .*128"):
        engine._ask(
            {
                "operation": "complete",
                "prompts": [[1, 2], [3] * 500],
                "max_new_tokens": [4, 4],
                "candidates": [[], []],
                "eos_ids": [],
                "log_probabilities": False,
            }
        )
    assert engine.complete(good, log_probabilities=True) == answers


def test_a_killed_engine_is_told_and_leaves_no_orphan_and_no_file(
    engine: VllmEngine, settings: VllmSettings
) -> None:
    os.kill(engine.process_id, signal.SIGKILL)
    with pytest.raises(EngineError, match="ended by SIGKILL") as caught:
        engine.complete([Prompt((1, 2), 3)])
    assert str(settings.log_path) in str(caught.value)
    assert gone(engine.process_id)
    with pytest.raises(EngineError, match="closed"):
        engine.complete([Prompt((1, 2), 3)])
    engine.close()
    assert settings.environment is not None
    assert list(Path(settings.environment["TMPDIR"]).rglob("*")) == []


def test_a_setting_that_vllm_refuses_is_told_with_its_reason(
    settings: VllmSettings, tmp_path: Path
) -> None:
    log = tmp_path / "engine.log"
    engine = VllmEngine(replace(settings, max_model_len=100_000, log_path=log))
    with pytest.raises(EngineError, match="failed at the start") as caught, engine.awake():
        pass
    assert "max_model_len (100000)" in str(caught.value)
    assert gone(engine.process_id)
    with pytest.raises(EngineError):
        engine.ready()
    engine.close()


def test_a_folder_without_a_model_is_told_at_once(settings: VllmSettings, tmp_path: Path) -> None:
    with pytest.raises(MsftError, match="absent"):
        VllmEngine(replace(settings, model_folder=tmp_path / "absent"))


def test_a_start_that_hangs_is_cut_off(settings: VllmSettings, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    engine = VllmEngine(replace(settings, start_timeout_seconds=1.0, log_path=log))
    os.kill(engine.process_id, signal.SIGSTOP)
    with pytest.raises(EngineError, match="the start within 1 seconds"), engine.awake():
        pass
    assert gone(engine.process_id)


def test_a_start_that_hangs_is_told_by_asking_whether_it_is_ready(
    settings: VllmSettings, tmp_path: Path
) -> None:
    log = tmp_path / "engine.log"
    engine = VllmEngine(replace(settings, start_timeout_seconds=0.5, log_path=log))
    os.kill(engine.process_id, signal.SIGSTOP)
    assert not engine.ready()
    time.sleep(0.6)
    with pytest.raises(EngineError, match=r"the start within 0\.5 seconds"):
        engine.ready()
    assert gone(engine.process_id)


def test_an_answer_that_was_there_is_read_after_the_deadline_too(
    settings: VllmSettings, tmp_path: Path
) -> None:
    python = tmp_path / "python"  # an engine whose start fails at once
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    python.chmod(0o755)
    log = tmp_path / "engine.log"
    chosen = replace(settings, python=str(python), start_timeout_seconds=60.0, log_path=log)
    engine = VllmEngine(chosen)
    while not engine._process.has_answer():
        time.sleep(0.01)
    engine._deadline = time.monotonic() - 1.0
    with pytest.raises(EngineError, match="No module named"):
        engine.ready()


def test_an_interpreter_without_vllm_is_told(settings: VllmSettings, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    python.chmod(0o755)
    log = tmp_path / "engine.log"
    engine = VllmEngine(replace(settings, python=str(python), log_path=log))
    with pytest.raises(EngineError, match="No module named"), engine.awake():
        pass
    engine.close()


def test_the_engine_ends_when_the_trainer_is_killed(settings: VllmSettings, tmp_path: Path) -> None:
    trainer = (
        "import time; from pathlib import Path\n"
        "from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings\n"
        f"engine = VllmEngine(VllmSettings(model_folder=Path({str(settings.model_folder)!r}),"
        f"dtype='float32', max_model_len=128, eos_ids=(0,),"
        f"log_path=Path({str(tmp_path / 'engine.log')!r})))\n"
        "print(engine.process_id, flush=True); time.sleep(1000)"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", trainer], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        engine_id = int(process.stdout.readline())
        time.sleep(0.5)  # in the middle of its start, when it looks at nothing
        process.kill()
    assert gone(engine_id)
