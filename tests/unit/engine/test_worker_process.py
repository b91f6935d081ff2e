"""The owner's side of the engine's process, with a small program instead of vLLM in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msft_lite.engine import wire
from msft_lite.engine.worker_process import WorkerProcess, telling_lines
from msft_lite.errors import EngineError, EngineLostError
from tests.unit.engine.processes import gone

Start = Callable[[str], WorkerProcess]
PREAMBLE = f"""
import importlib.util, os, signal, socket, subprocess, sys, time
spec = importlib.util.spec_from_file_location("wire", {wire.__file__!r})
wire = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wire)
connection = socket.socket(fileno=int(sys.argv[1]))
print("booting", flush=True)
"""
ECHO = "while True: wire.send(connection, wire.receive(connection)[0])"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def start_program(program: str) -> WorkerProcess:
        script = tmp_path / "worker.py"
        script.write_text(PREAMBLE + program)
        environment = {**os.environ, "RANK": "3", "PYTORCH_ALLOC_CONF": "x"}
        process = WorkerProcess(
            [sys.executable, str(script)], environment=environment, log_path=tmp_path / "e.log"
        )
        started.append(process)
        return process

    yield start_program
    for process in started:
        process.close()


def answer(process: WorkerProcess, what: str) -> dict[str, object]:
    return process.answer(what, deadline=time.monotonic() + 30, limit_seconds=30)


def test_answers_come_and_closing_twice_leaves_nothing(start: Start) -> None:
    process = start(ECHO)
    for n in range(3):
        request = {"operation": "echo", "n": n}
        assert process.ask(request, timeout_seconds=30) == request
    process.close()
    process.close()
    assert gone(process.process_id)
    with pytest.raises(EngineError, match="closed"):
        process.ask({"operation": "echo"}, timeout_seconds=1)


@pytest.mark.parametrize("name", ["RANK", "PYTORCH_ALLOC_CONF"])
def test_what_is_the_trainers_alone_does_not_reach_the_worker(start: Start, name: str) -> None:
    program = f"wire.send(connection, {{'found': os.environ.get('{name}', 'none')}})"
    assert answer(start(program), "x") == {"found": "none"}


def test_a_death_is_told_with_the_end_of_the_log(start: Start) -> None:
    process = start("print('CUDA out of memory'); sys.exit(3)")
    with pytest.raises(EngineError) as caught:
        answer(process, "the start")
    message = str(caught.value)
    assert "died at the start: it left with exit code 3" in message
    assert "CUDA out of memory" in message
    assert "e.log" in message
    assert 'engine.name = "torch"' in message


def test_a_signal_is_named(start: Start) -> None:
    process = start("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(EngineError, match="ended by SIGKILL, often a sign that memory ran out"):
        answer(process, "the start")


def test_a_hang_is_cut_off_and_killed(start: Start) -> None:
    process = start(ECHO)
    process.ask({"operation": "echo"}, timeout_seconds=30)
    process.tell({"operation": "echo"}, timeout_seconds=1)
    answer(process, "echo")
    os.kill(process.process_id, 19)  # SIGSTOP
    with pytest.raises(EngineLostError, match=r"hangs: no answer to echo within 0\.3 seconds"):
        process.ask({"operation": "echo"}, timeout_seconds=0.3)
    assert gone(process.process_id)


def test_what_a_new_engine_may_do_better_is_told_from_what_it_may_not(start: Start) -> None:
    asleep = start("wire.receive(connection); time.sleep(1000)")
    with pytest.raises(EngineLostError, match=r"no answer to complete within 0\.3 seconds"):
        asleep.ask({"operation": "complete"}, timeout_seconds=0.3)
    dead = start("wire.receive(connection); os._exit(1)")
    with pytest.raises(EngineLostError, match="died at complete: it left with exit code 1"):
        dead.ask({"operation": "complete"}, timeout_seconds=30)
    full = start("wire.send(connection, {'error': 'OutOfMemoryError: CUDA out of memory.'})")
    with pytest.raises(EngineLostError, match="failed at complete: OutOfMemoryError"):
        answer(full, "complete")
    wrong = start("wire.send(connection, {'error': 'ValueError: prompt 0 holds a token'})")
    with pytest.raises(EngineError, match="failed at complete: ValueError") as caught:
        answer(wrong, "complete")
    assert not isinstance(caught.value, EngineLostError)


def test_a_deadline_that_has_passed_names_the_limit(start: Start) -> None:
    process = start("time.sleep(1000)")
    with pytest.raises(EngineError, match="no answer to the start within 900 seconds") as caught:
        process.answer("the start", deadline=time.monotonic() - 1, limit_seconds=900.0)
    assert "raise engine.start_timeout_seconds" in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (
            "ValueError: No available memory for the cache blocks. Try",
            "raise engine.kv_cache_bytes",
        ),
        ("larger than the available KV cache memory (0.0 GiB)", "raise engine.kv_cache_bytes"),
        ("Free memory on device cuda:0 (1/80 GiB) on", "free memory of the GPU, or lower"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "lower engine.max_num_seqs"),
        ("ValueError: something else", "look there for the cause"),
    ],
)
def test_the_advice_is_of_the_reason(start: Start, reason: str, advice: str) -> None:
    told = start(f"wire.send(connection, {{'error': {reason!r}}})")
    with pytest.raises(EngineError) as caught:
        answer(told, "the start")
    assert f"What to do: {advice}" in str(caught.value)
    logged = start(f"print({reason!r}); sys.exit(1)")
    with pytest.raises(EngineError) as caught:
        answer(logged, "the start")
    assert f"What to do: {advice}" in str(caught.value)


def test_children_of_the_worker_end_with_it(start: Start) -> None:
    process = start(
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "wire.send(connection, {'child': child.pid})\ntime.sleep(1000)"
    )
    child = answer(process, "x")["child"]
    assert isinstance(child, int)
    process.close()
    assert gone(child)


def test_nonsense_from_the_worker_is_an_engine_error(start: Start) -> None:
    process = start("connection.sendall(b'x' * 100); time.sleep(1000)")
    with pytest.raises(EngineError, match="limit"):
        answer(process, "x")
    assert gone(process.process_id)


def test_an_interruption_while_waiting_ends_the_worker(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(ECHO)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("msft_lite.engine.worker_process.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        process.ask({"operation": "echo"}, timeout_seconds=30)
    assert gone(process.process_id)


def test_an_interpreter_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no/such/python"):
        WorkerProcess(["no/such/python"], environment={}, log_path=tmp_path / "e.log")


def test_a_forgotten_worker_ends_with_the_interpreter(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(PREAMBLE + "time.sleep(1000)")
    owner = (
        "import os, sys; from pathlib import Path\n"
        "from msft_lite.engine.worker_process import WorkerProcess\n"
        f"p = WorkerProcess([sys.executable, {str(script)!r}], environment=os.environ,"
        f" log_path=Path({str(tmp_path / 'e.log')!r}))\nprint(p.process_id)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", owner], capture_output=True, text=True, check=True, cwd=root
    )
    assert gone(int(done.stdout))


def test_the_lines_that_tell_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("an earlier run\n")
    start_bytes = log.stat().st_size
    noise = (
        "INFO 11-23 17:18:35 [x.py:1] fine\n"
        "(MainProcess pid=7) ERROR 11-23 17:18:35 [x.py:1]     f(x)\n"
        "Loading: 100%|###| 1/1 [00:00<00:00, 3.1it/s]\n\n"
        'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f(x)\n    ^^^^\n'
    )
    reason = "(EngineCore pid=7) ERROR 11-23 17:18:35 [x.py:1] the reason"
    with log.open("a") as file:
        file.write(f"{noise}{reason}\n{noise}")
        file.writelines(f"line {n}\n" for n in range(14))
    telling = [reason, *(f"line {n}" for n in range(14))]
    assert telling_lines(log, start_bytes=start_bytes) == telling
    log.write_text(
        "x.py:3: FutureWarning: old\n  wrapper = lookup(value)\nTriton is installed, but no GPU\n"
        "pydantic.ValidationError: 1 validation error\n  Value error, the reason\n"
    )
    assert telling_lines(log) == [
        "pydantic.ValidationError: 1 validation error",
        "  Value error, the reason",
    ]
    log.write_text("INFO 11-23 17:18:35 [x.py:1] only this\n")
    assert telling_lines(log) == ["INFO 11-23 17:18:35 [x.py:1] only this"]
    assert telling_lines(tmp_path / "absent.log") == []
