"""The engine's process as its owner sees it: started, asked, watched, ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from msft_lite.engine import wire
from msft_lite.errors import EngineError, EngineLostError

LOG_LINES = 15
LOG_TAIL_BYTES = 1 << 16
LIVENESS_SECONDS = 1.0  # a dead process is noticed after this even if a child of it lives on
GOODBYE_SECONDS = 5.0
# The trainer's alone: its place among processes; its allocator, as vLLM cannot sleep with one of
# expandable segments.
_TRAINERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
)
_STAMP = r"(\([\w ]+=\d+\) )?(?P<level>[A-Z]+) \d\d-\d\d [\d:]+ \[[^\]]*\] ?"
_LOGGED = re.compile(_STAMP + "(?P<text>.*)")
_QUIET_LEVELS = ("DEBUG", "INFO", "WARNING")
_WARNING = re.compile(r".*Warning: ")
_NOISE = re.compile(
    r"\s*$|.*it/s\]|.*\d%\||Traceback |During handling|The above exc"
    r"|\s+File \"|\s{4,}|\s*[\^~]+\s*$|.*LD_PRELOAD|Triton is installed, but"
)
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|memory ran out|MemoryError")
# What a log says, and what its reader can do; the first that matches counts.
_ADVICE = (
    (
        re.compile("No available memory for the cache blocks|available KV cache memory"),
        "raise engine.kv_cache_bytes (or leave it out), or lower engine.max_num_seqs or "
        "eval.max_prompt_length",
    ),
    (
        re.compile("Free memory on device"),
        "free memory of the GPU, or lower engine.gpu_memory_utilization",
    ),
    (
        _OUT_OF_MEMORY,
        "lower engine.max_num_seqs, engine.kv_cache_bytes or train.per_device_train_batch_size",
    ),
    (
        re.compile("no answer to the start within"),
        "raise engine.start_timeout_seconds if the machine is only slow",
    ),
    (
        re.compile("no answer to .* within"),
        "raise engine.call_timeout_seconds if the machine is only slow",
    ),
)


class WorkerProcess:
    """A child process at the other end of a socket; whatever it prints goes to its log.

    It is killed with all its children when this object is closed or collected, when the interpreter
    exits, and, by its own doing, when the thread that started it ends: so start it from the main
    thread. After a time-out or an interruption within `ask` it is killed too, as its answers could
    no longer be told apart.
    """

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], log_path: Path
    ) -> None:
        """Starts the process at once; the socket's descriptor and our process id are appended.

        Raises:
            EngineError: ``command`` cannot be run.
        """
        self._log_path = log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_start_bytes = log_path.stat().st_size if log_path.exists() else 0
        ours, theirs = socket.socketpair()
        with theirs, log_path.open("ab") as log:
            try:
                process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_of_the_engine(environment),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # an interrupt at the terminal is for the trainer alone
                )
            except OSError as error:
                ours.close()
                raise EngineError(f"the engine cannot be started: {error}") from error
        self._connection = ours
        self._process = process
        self._end = weakref.finalize(self, _end, process, ours)

    @property
    def process_id(self) -> int:
        """Of the child, which leads a process group of its own."""
        return self._process.pid

    def has_answer(self) -> bool:
        """Returns at once whether `answer` would not wait; true as well of a dead process."""
        if not self._end.alive:
            return True
        return bool(wait([self._connection], timeout=0)) or self._process.poll() is not None

    def ask(
        self, request: Mapping[str, object], tensors: bytes = b"", *, timeout_seconds: float
    ) -> dict[str, object]:
        """Sends a request and returns its answer.

        Raises:
            EngineLostError: the process is dead, hangs, breaks off, or is out of memory.
            EngineError: it answers with another error.
        """
        deadline = time.monotonic() + timeout_seconds
        self.tell(request, tensors, timeout_seconds=timeout_seconds)
        what = str(request["operation"])
        return self.answer(what, deadline=deadline, limit_seconds=timeout_seconds)

    def tell(
        self, request: Mapping[str, object], tensors: bytes = b"", *, timeout_seconds: float
    ) -> None:
        """Sends a request."""
        if not self._end.alive:
            raise EngineError("the evaluation engine is closed")
        what = str(request["operation"])
        with self._killed_unless_finished(what, timeout_seconds):
            wire.send(self._connection, request, tensors, timeout_seconds=timeout_seconds)

    def answer(self, what: str, *, deadline: float, limit_seconds: float) -> dict[str, object]:
        """Waits for the next answer.

        Args:
            what: what was asked, for messages.
            deadline: latest time by `time.monotonic`.
            limit_seconds: what the user allowed, for messages: less may be left of it.

        Raises:
            EngineLostError: the process is dead, hangs, breaks off, or is out of memory.
            EngineError: it answers with another error.
        """
        if not self._end.alive:
            raise EngineError("the evaluation engine is closed")
        with self._killed_unless_finished(what, limit_seconds):
            self._wait_readable(deadline)
            remaining = max(0.001, deadline - time.monotonic())
            answer, _ = wire.receive(self._connection, timeout_seconds=remaining)
        if "error" in answer:
            error = EngineLostError if _OUT_OF_MEMORY.search(str(answer["error"])) else EngineError
            raise error(self.message(f"the evaluation engine failed at {what}", answer["error"]))
        return answer

    def close(self) -> None:
        """Ends the process and its children; may be called twice."""
        self._end()

    def message(self, what: str, why: object) -> str:
        """Returns a message for the user with the telling end of the log."""
        lines = telling_lines(self._log_path, start_bytes=self._log_start_bytes)
        tail = "".join(f"\n    {line}" for line in lines) or " nothing"
        return (
            f"{what}: {why}\n  {self._log_path} ends with:{tail}\n"
            f"  What to do: {_advice(why, lines)}; see {self._log_path.name}, or set "
            'engine.name = "torch".'
        )

    def _wait_readable(self, deadline: float) -> None:
        while not wait([self._connection], timeout=_slice_seconds(deadline)):
            if self._process.poll() is not None:
                raise wire.ConnectionEndedError
            if time.monotonic() >= deadline:
                raise TimeoutError

    @contextlib.contextmanager
    def _killed_unless_finished(self, what: str, limit_seconds: float) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self._end()
            why = f"no answer to {what} within {limit_seconds:g} seconds, so it was ended"
            raise EngineLostError(self.message("the evaluation engine hangs", why)) from None
        except (wire.ConnectionEndedError, wire.MessageError, OSError) as error:
            ending = self._ending(error)
            self._end()
            raise EngineLostError(
                self.message(f"the evaluation engine died at {what}", ending)
            ) from None
        except BaseException:
            self._end()
            raise

    def _ending(self, error: Exception) -> str:
        # After the end of the connection the process is about to go; after nonsense it is not.
        patience_seconds = 0.5 if isinstance(error, wire.MessageError) else GOODBYE_SECONDS
        try:
            code = self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            return f"the connection broke ({error})"
        if code >= 0:
            return f"it left with exit code {code}"
        name = signal.Signals(-code).name
        hint = ", often a sign that memory ran out" if name == "SIGKILL" else ""
        return f"it was ended by {name}{hint}"


def telling_lines(log_path: Path, *, start_bytes: int = 0) -> list[str]:
    """Returns the last lines of a log that say something: no progress bars, no stack frames."""
    if not log_path.exists():
        return []
    with log_path.open("rb") as log:
        log.seek(max(start_bytes, log_path.stat().st_size - LOG_TAIL_BYTES))
        lines = log.read().decode(errors="replace").replace("\r", "\n").splitlines()
    previous = ["", *lines]
    telling = [
        line.rstrip()
        for before, line in zip(previous, lines, strict=False)
        if _tells(line) and not _is_source_of_warning(before, line)
    ]
    return (telling or [line for line in lines if line.strip()])[-LOG_LINES:]


def _tells(line: str) -> bool:
    logged = _LOGGED.match(line)
    if logged is not None and logged["level"] in _QUIET_LEVELS:
        return False
    text = line if logged is None else logged["text"]
    return not (_NOISE.match(text) or _WARNING.match(text))


def _is_source_of_warning(before: str, line: str) -> bool:
    # Python prints the line of code below a warning, indented by two, as errors' details are too.
    return bool(_WARNING.match(before)) and line.startswith("  ")


def _advice(why: object, lines: Sequence[str]) -> str:
    # The reason itself first: an earlier line of the log may speak of something else.
    for text in (str(why), "\n".join(lines)):
        for pattern, advice in _ADVICE:
            if pattern.search(text):
                return advice
    return "look there for the cause"


def _of_the_engine(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key not in _TRAINERS}


def _slice_seconds(deadline: float) -> float:
    return min(LIVENESS_SECONDS, max(0.0, deadline - time.monotonic()))


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()  # a healthy worker leaves by itself on this
    # The group too: a child that vLLM started would outlive it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GOODBYE_SECONDS)
