"""Evaluation by vLLM in a process of its own.

Why its own: in the trainer's process, making an engine reseeds every random generator, turns
``torch.set_num_threads`` off, freezes the garbage collector and keeps GPU memory for good. So
nothing here imports vllm, and the engine may run in another environment with another torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from msft_lite.engine.adapter import Scaling, fold
from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.bit_check import BitCheck
from msft_lite.engine.cache_size import batched_tokens, cache_bytes
from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.engine.dequantised import DequantisedBase
from msft_lite.engine.handover import notice_of, weights_folder
from msft_lite.engine.shared_weights import SharedWeights
from msft_lite.engine.worker_process import WorkerProcess
from msft_lite.errors import EngineError
from msft_lite.model.weights import Weights

WORKER = Path(__file__).with_name("vllm_worker.py")
MAX_NUM_SEQS = 64  # answered at a time unless a recipe says otherwise
FORGETFUL_LEVEL = 2  # of vLLM's sleep, from which its weights do not come back
READING_SECONDS = 10.0  # for an answer that was there in time but is only asked for later


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """What the engine loads, and within which limits.

    Attributes:
        model_folder: the base model in transformers' format. Under 4-bit training this must be the
            dequantised base: the unquantised one is another model.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: most tokens of a prompt and its completion together.
        eos_ids: a completion ends with the first of these.
        log_path: what the engine prints is appended here.
        adapter: the peft ``LoraConfig`` as a mapping, None if full weights are swapped.
        python: interpreter of an environment with vllm.
        threads: of the engine on a CPU, None for one per core.
        kv_cache_bytes: memory for keys and values, None for what ``max_num_seqs`` sequences need.
        gpu_memory_utilization: fraction of the GPU's TOTAL memory that must be free at the start;
            the cache is not sized by it.
        max_num_seqs: most sequences at a time.
        start_timeout_seconds: counted from the construction.
        call_timeout_seconds: the most a swap, or one call of ``complete``, may take.
        environment: of the engine's process, None for a copy of ours.
        trust_remote_code: whether code in the model folder may run.
        shared: the trainer's weights, for an engine that is to have no copy of its own.
        must_share: whether an engine that has a copy nevertheless is refused.
        sleep_level: what vLLM gives back outside `VllmEngine.awake`, see `Tenancy`; 0: nothing.
    """

    model_folder: Path
    dtype: str
    max_model_len: int
    eos_ids: tuple[int, ...]
    log_path: Path
    adapter: Mapping[str, object] | None = None
    python: str = sys.executable
    threads: int | None = None
    kv_cache_bytes: int | None = None
    gpu_memory_utilization: float = 0.05
    enforce_eager: bool = True
    max_num_seqs: int = MAX_NUM_SEQS
    start_timeout_seconds: float = 900.0
    call_timeout_seconds: float = 3600.0
    environment: Mapping[str, str] | None = None
    trust_remote_code: bool = False
    shared: SharedWeights | None = None
    must_share: bool = False
    sleep_level: int = 0


class VllmEngine:
    """Swaps weights into a vLLM that stays up; see `EvalEngine` for the guarantees.

    The process starts at once and training may go on meanwhile: it takes 10 to 60 seconds. Before
    the first swap the base model answers, or under full tuning with shared weights the trainer's
    of that moment. Start it from the main thread, see `WorkerProcess`.
    """

    name = "vllm"

    def __init__(self, settings: VllmSettings, *, base: DequantisedBase | None = None) -> None:
        """Starts the engine's process and returns at once.

        Args:
            settings: what it loads, and within which limits.
            base: whose folder ``settings`` name; removed once it is loaded, checked at a swap.

        Raises:
            EngineError: the model folder, the adapter or the interpreter cannot be used.
        """
        self._settings = settings
        self._base = base
        self._is_base_checked = False
        self._scaling = None if settings.adapter is None else Scaling.of(settings.adapter)
        self._checkpoint = CheckpointNames.of(settings.model_folder)
        arguments = _engine_arguments(settings, self._scaling)
        self._notices: tuple[str, ...] = ()
        self._shared = self._offered()
        self._deadline = time.monotonic() + settings.start_timeout_seconds
        self._process = WorkerProcess(
            [settings.python, str(WORKER)],
            environment=_environment(settings),
            log_path=settings.log_path,
        )
        self._introduction: dict[str, object] | None = None
        self._failure: EngineError | None = None
        self._bit_check = BitCheck(settings.model_folder, self._ask)
        self._process.tell(
            {
                "operation": "start",
                "settings": arguments,
                "shared": self._shared,
                "sleep_level": settings.sleep_level,
            },
            timeout_seconds=settings.start_timeout_seconds,
        )

    @property
    def introduction(self) -> Mapping[str, object]:
        """Versions of vllm and torch and the seconds that the start took; waits for the start."""
        if self._failure is not None:
            raise self._failure
        if self._introduction is None:
            try:
                introduction = self._read_introduction()
                if self._base is not None:
                    self._base.remove()
                self._check_sharing(introduction)
                self._introduction = introduction
            except EngineError as error:
                self._failure = error
                self.close()
                raise
        return self._introduction

    @property
    def shares_weights(self) -> bool:
        """Whether the engine computes with the trainer's memory; waits for the start."""
        return self.introduction.get("own_weights") == ""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should be told once; it may grow at a swap."""
        return self._notices

    @property
    def process_id(self) -> int:
        """Of the engine's process, which leads a process group of its own."""
        return self._process.process_id

    def ready(self) -> bool:
        """Returns at once whether the engine can be used without waiting.

        Raises:
            EngineError: it failed to start, or not within ``start_timeout_seconds``.
        """
        if self._introduction is None and self._failure is None and self._is_starting():
            return False
        _ = self.introduction
        return True

    def awake(self) -> AbstractContextManager[None]:
        """Waits for the start; the engine gives back what it may give back after the context.

        Raises:
            EngineError: it failed to start, or not within ``start_timeout_seconds``.
        """
        return self._awake()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        _ = self.introduction
        if self._settings.sleep_level:
            self._ask({"operation": "wake"})
        yield
        if self._settings.sleep_level:
            self._ask({"operation": "sleep"})

    def swap(self, weights: Weights, label: str) -> None:
        """Makes ``weights`` the ones that answer; no answer of earlier weights is reused.

        Raises:
            EngineError: the tensors are not the loaded model's, or the engine failed or does not
                hold them bit by bit.
            StorageError: full weights could not be written.
        """
        _ = self.introduction
        if self._scaling is None:
            self._swap_full(weights, label)
        else:
            self._swap_adapter(weights, label, self._scaling)

    def complete(
        self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
    ) -> list[Completion]:
        """Returns one greedy completion per prompt, in the order of ``prompts``.

        Prompts that begin alike should stand next to each other: the cache serves what they share.

        Raises:
            EngineError: a prompt is empty or too long, or the engine failed.
        """
        _ = self.introduction
        if not prompts:
            return []
        for index, prompt in enumerate(prompts):
            self._check_length(index, prompt)
        answer = self._ask(
            {
                "operation": "complete",
                "prompts": [list(prompt.ids) for prompt in prompts],
                "max_new_tokens": [prompt.max_new_tokens for prompt in prompts],
                "candidates": [list(prompt.candidates) for prompt in prompts],
                "eos_ids": list(self._settings.eos_ids),
                "log_probabilities": log_probabilities,
            }
        )
        return _completions(answer, len(prompts))

    def close(self) -> None:
        """Ends the engine's process; may be called twice."""
        self._process.close()
        if self._base is not None:
            self._base.remove()

    def _is_starting(self) -> bool:
        return not self._process.has_answer() and time.monotonic() < self._deadline

    def _read_introduction(self) -> dict[str, object]:
        deadline = self._deadline
        if self._process.has_answer():
            deadline = max(deadline, time.monotonic() + READING_SECONDS)
        limit_seconds = self._settings.start_timeout_seconds
        return self._process.answer("the start", deadline=deadline, limit_seconds=limit_seconds)

    def _offered(self) -> Mapping[str, object] | None:
        """Returns the handles of the trainer's weights; None where there are none."""
        if self._settings.shared is None:
            return None
        try:
            return self._settings.shared.handles()
        except EngineError as error:
            self._copies(str(error))
            return None

    def _check_sharing(self, introduction: Mapping[str, object]) -> None:
        if self._shared is not None and (why := introduction.get("own_weights", "")):
            self._copies(str(why))

    def _copies(self, why: str) -> None:
        notice = f"vllm holds a copy of the weights, as it could not take the trainer's: {why}"
        if self._settings.must_share:
            raise EngineError(f"{notice}; set engine.share_weights = false")
        self._note(notice)

    def _note(self, notice: str) -> None:
        if notice and notice not in self._notices:
            self._notices = (*self._notices, notice)

    def _ask(self, request: Mapping[str, object], tensors: bytes = b"") -> dict[str, object]:
        timeout_seconds = self._settings.call_timeout_seconds
        return self._process.ask(request, tensors, timeout_seconds=timeout_seconds)

    def _swap_adapter(self, weights: Weights, label: str, scaling: Scaling) -> None:
        if weights.kind != "adapter":
            raise EngineError(f"snapshot {label} holds full weights, but the engine runs adapters")
        if self._settings.shared is not None and self.shares_weights:
            self._settings.shared.check(weights, label)
        self._check_base()
        tensors = save(fold(weights.tensors, scaling))
        self._ask({"operation": "adapter", "rank": scaling.widest_rank, "label": label}, tensors)

    def _check_base(self) -> None:
        # Not when it has just started: it may sleep, without weights to look at.
        if self._base is not None and not self._is_base_checked:
            self._note(self._base.check(self._ask, self.introduction["model"]))
            self._is_base_checked = True

    def _swap_full(self, weights: Weights, label: str) -> None:
        if weights.kind != "full":
            raise EngineError(
                f"snapshot {label} holds an adapter, but the engine runs full weights"
            )
        self._checkpoint.check(weights, label)
        holds_base = not self.shares_weights and self._settings.sleep_level < FORGETFUL_LEVEL
        self._note(self._bit_check.prepare(holds_base=holds_base))
        if self._settings.shared is not None and self.shares_weights:
            self._settings.shared.check(weights, label)
            self._ask({"operation": "shared_weights", "label": label})
        else:
            self._hand_over(weights, label)
        self._bit_check.check(weights, label)

    def _hand_over(self, weights: Weights, label: str) -> None:
        fallback = self._settings.log_path.parent
        with weights_folder(weights.tensors, fallback=fallback) as folder:
            self._note(notice_of(folder))
            self._ask({"operation": "weights", "folder": str(folder), "label": label})

    def _check_length(self, index: int, prompt: Prompt) -> None:
        if not prompt.ids or prompt.max_new_tokens < 1:
            raise EngineError(
                f"prompt {index} has {len(prompt.ids)} tokens and asks for "
                f"{prompt.max_new_tokens} new ones: both must be at least 1"
            )
        total = len(prompt.ids) + prompt.max_new_tokens
        if total > self._settings.max_model_len:
            raise EngineError(
                f"prompt {index} has {len(prompt.ids)} tokens and asks for {prompt.max_new_tokens} "
                f"new ones: {total} in all, but the engine holds {self._settings.max_model_len}"
            )


def _engine_arguments(settings: VllmSettings, scaling: Scaling | None) -> dict[str, object]:
    kv_cache_bytes = settings.kv_cache_bytes or cache_bytes(
        settings.model_folder,
        settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
    )
    arguments: dict[str, object] = {
        "model": str(settings.model_folder),
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": batched_tokens(settings.max_num_seqs, settings.max_model_len),
        "kv_cache_memory_bytes": kv_cache_bytes,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,  # ids go in and come out, so no second BOS can slip in
        "generation_config": "vllm",  # the model's own sampling defaults do not count
        "disable_log_stats": True,
        "trust_remote_code": settings.trust_remote_code,
    }
    if scaling is not None:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": scaling.engine_rank,
            "max_loras": 1,
            "max_cpu_loras": 1,
        }
    if not settings.enforce_eager:
        # Graphs without compilation: a start of seconds, and the numbers of the eager engine.
        arguments["compilation_config"] = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
    return arguments


def _environment(settings: VllmSettings) -> dict[str, str]:
    inherited = os.environ if settings.environment is None else settings.environment
    threads = str(settings.threads or len(os.sched_getaffinity(0)))
    defaults = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        # Threads that spin while they wait slow both processes down as soon as cores are short.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {
        **defaults,
        **inherited,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # tensors do not cross its own process boundary
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it compiles kernels at the start; greedy needs none
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are on the same cores
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # A first request with log probabilities spent 8 seconds on compiling one comparison.
        "TORCHDYNAMO_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _completions(answer: Mapping[str, object], count: int) -> list[Completion]:
    ids = answer.get("ids")
    values = answer.get("log_probabilities", [()] * count)
    cached = answer.get("cached_tokens", [0] * count)
    if not (isinstance(ids, list) and isinstance(values, list) and isinstance(cached, list)):
        raise EngineError(f"the engine's answer holds no completions but {sorted(answer)}")
    if not len(ids) == len(values) == len(cached) == count:
        raise EngineError(f"the engine returned {len(ids)} completions for {count} prompts")
    return [
        Completion(tuple(one), tuple(its_values), its_cached)
        for one, its_values, its_cached in zip(ids, values, cached, strict=True)
    ]
