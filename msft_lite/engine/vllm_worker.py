"""The engine's own process, and the only file that imports vllm.

Started as ``python vllm_worker.py <file descriptor of a socket> <process id of the trainer>``. It
runs by its path, in any Python of at least 3.10 that has vllm: msft_lite need not be installed
there, and of its files only those beside this one that it names are loaded, by path too.

Measured with vLLM 0.26 and 0.32; what is done around them and why stands at each place.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import importlib.util
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

CPU_BLOCK_TOKENS = 32  # vLLM's 128 on a CPU would cache nothing of a prompt below 128 tokens
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>


def main() -> None:
    """Serves requests until the trainer closes the connection, then leaves at once."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    faulthandler.enable()
    wire = _load("wire")
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    _die_with(parent, connection)
    try:
        _serve(wire, connection)
    except (wire.ConnectionEndedError, wire.MessageError, OSError):
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # vLLM's and torch's own shut-down takes 1 to 5 seconds and can hang; memory returns anyway.
        os._exit(0)


def _load(name: str) -> ModuleType:
    """Returns the file ``name`` beside this one as a module."""
    folder = Path(__file__).resolve().parent
    # Python put this folder first on the path: base.py and wire.py would shadow others' modules.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    spec = importlib.util.spec_from_file_location(f"msft_lite_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _die_with(parent: int, connection: socket.socket) -> None:
    """Ends this process as soon as the trainer is gone, whatever it is doing.

    Two ways, as each has a hole: the signal is Linux's alone, and the end of the connection is not
    seen while a forked child of the trainer still holds its end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)
        threading.Thread(target=_leave_on_hang_up, args=(connection,), daemon=True).start()


def _leave_on_hang_up(connection: socket.socket) -> None:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def _serve(wire: ModuleType, connection: socket.socket) -> None:
    control, _ = wire.receive(connection)
    try:
        engine = _Engine(control["settings"], control.get("shared"), control.get("sleep_level", 0))
    except Exception as error:
        traceback.print_exc()
        wire.send(connection, {"error": _describe(error)})
        return
    wire.send(connection, engine.introduction)
    while True:
        control, tensors = wire.receive(connection)
        if control["operation"] == "close":
            return
        try:
            answer = engine.perform(control, tensors)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": _describe(error)}
        wire.send(connection, answer)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Engine:
    """A vLLM engine and the adapter that answers at present."""

    def __init__(
        self, settings: dict[str, Any], shared: dict[str, Any] | None, sleep_level: int
    ) -> None:
        started = time.monotonic()
        import torch
        import vllm

        imported = time.monotonic()
        engine_class = vllm.LLM  # vllm loads itself, and sets up its loggers, at the first use
        # It warns, with a traceback, that there is no tokenizer for a chat template.
        logging.getLogger("vllm.renderers.base").setLevel(logging.ERROR)
        if not torch.cuda.is_available():
            settings = {**settings, "block_size": CPU_BLOCK_TOKENS}
        elif sleep_level:
            settings = {**settings, "enable_sleep_mode": True}
        adoption = None if shared is None else _adoption(shared, settings)
        self._beside = _load("vllm_beside")
        self._beside.form_group()
        self._llm = engine_class(**settings)
        self._vocabulary = self._llm.llm_engine.model_config.get_vocab_size()
        self._sleep_level = sleep_level
        self._is_cache_asleep = False
        self._adapters = 0
        self._adapter: Any = None
        self.introduction = {
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "model": self._llm.llm_engine.model_config.model,
            "import_seconds": imported - started,
            "start_seconds": time.monotonic() - imported,
            "own_weights": "none were offered" if adoption is None else adoption.refusal,
        }
        if sleep_level:
            self._sleep()

    def perform(self, control: dict[str, Any], tensors: bytes) -> dict[str, object]:
        """Returns the answer to one request."""
        answer: dict[str, object] = {}
        match control["operation"]:
            case "adapter":
                self._put_adapter(tensors, control["rank"])
            case "weights":
                self._reload(control["folder"])
            case "shared_weights":  # the trainer has changed them in place
                self._forget_prefixes()
            case "sleep":
                self._sleep()
            case "wake":
                # Keys and values only once weights are there: both at once may not fit.
                self._llm.wake_up(tags=["weights"])
                self._is_cache_asleep = True
            case "held":
                answer = {"names": list(self._held(control["shapes"]))}
            case "digests":
                answer = {"digests": self._digests(control["shapes"])}
            case "complete":
                answer = self._complete(control)
            case other:
                raise ValueError(f"unknown operation {other!r}")
        return answer

    def _put_adapter(self, tensors: bytes, rank: int) -> None:
        from safetensors.torch import load
        from vllm.lora.request import LoRARequest

        self._adapters += 1
        number = self._adapters
        self._adapter = None
        self._llm.collective_rpc(_install_adapter, args=(number, load(tensors), rank))
        self._forget_prefixes()
        # 0.26 keys the prefix cache by the adapter's name, 0.32 by name and path, and both keep the
        # old adapter when an id returns: so all three are new. The path is never read.
        self._adapter = LoRARequest(f"adapter-{number}", number, f"/memory/adapter-{number}")

    def _reload(self, folder: str) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._llm.collective_rpc(_renew_packed_head)
        self._forget_prefixes()

    def _sleep(self) -> None:
        # Of weights that are the trainer's nothing is given back: they are none of vLLM's memory.
        with self._beside.unwatched_memory():
            self._llm.sleep(level=self._sleep_level)

    def _held(self, shapes: dict[str, list[int]]) -> dict[str, Any]:
        """Returns those of the checkpoint's tensors that the model holds unfused, as they are now.

        Args:
            shapes: by the checkpoint's names.
        """
        return self._llm.collective_rpc(_unfused, args=(shapes,))[0]

    def _digests(self, shapes: dict[str, list[int]]) -> dict[str, list[str]]:
        """Returns type and SHA-256 of each tensor that `_held` returns."""
        return {
            name: [str(tensor.dtype).removeprefix("torch."), _sha256(tensor)]
            for name, tensor in self._held(shapes).items()
        }

    def _forget_prefixes(self) -> None:
        if self._is_cache_asleep:
            self._llm.wake_up(tags=["kv_cache"])
            self._is_cache_asleep = False
        # Neither a reload nor a new adapter drops cached prefixes; False means that it was refused.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset: requests are still running")

    def _complete(self, control: dict[str, Any]) -> dict[str, object]:
        prompts, candidates = control["prompts"], control["candidates"]
        self._check_ids(prompts)
        started = time.monotonic()
        try:
            outputs = self._llm.generate(
                [{"prompt_token_ids": ids} for ids in prompts],
                self._sampling(control),
                use_tqdm=False,
                lora_request=self._adapter,
            )
        except BaseException:
            self._abort_leftovers()
            raise
        chosen = [output.outputs[0] for output in outputs]
        answer: dict[str, object] = {
            "ids": [
                [] if weighed else list(one.token_ids)
                for one, weighed in zip(chosen, candidates, strict=True)
            ],
            "cached_tokens": [output.num_cached_tokens or 0 for output in outputs],
            "seconds": time.monotonic() - started,
        }
        if control["log_probabilities"] or any(candidates):
            answer["log_probabilities"] = [
                _log_probabilities(one, weighed)
                for one, weighed in zip(chosen, candidates, strict=True)
            ]
        return answer

    def _sampling(self, control: dict[str, Any]) -> list[Any]:
        """One greedy `SamplingParams` per prompt, that stops at the trainer's end tokens alone.

        ``ignore_eos`` turns off what vLLM would take from the model's and the generation
        configuration; a stop token is part of the returned ids. Candidates are weighed at the one
        token that is then generated: this takes the prefix cache, which prompt_logprobs does not.
        """
        from vllm import SamplingParams

        # 0.32 refuses ids that the model cannot generate; a tokenizer may have such.
        stops = [token for token in control["eos_ids"] if 0 <= token < self._vocabulary]
        return [
            SamplingParams(
                temperature=0.0,
                max_tokens=count,
                ignore_eos=True,
                stop_token_ids=stops,
                logprobs=0 if control["log_probabilities"] else None,
                logprob_token_ids=weighed or None,
                detokenize=False,
            )
            for count, weighed in zip(control["max_new_tokens"], control["candidates"], strict=True)
        ]

    def _check_ids(self, prompts: list[list[int]]) -> None:
        for index, ids in enumerate(prompts):
            if min(ids) < 0 or max(ids) >= self._vocabulary:
                raise ValueError(
                    f"prompt {index} holds a token id outside 0..{self._vocabulary - 1}: "
                    f"{min(ids)}..{max(ids)}"
                )

    def _abort_leftovers(self) -> None:
        # Unfinished requests would be answered into the next call's results.
        engine = self._llm.llm_engine
        engine.abort_request(list(engine.output_processor.request_states), internal=True)
        self._forget_prefixes()


def _log_probabilities(completion: Any, candidates: list[int]) -> list[float]:
    """Returns those of the candidates, or where there are none those of the generated tokens."""
    if completion.logprobs is None:
        return []
    if candidates:
        return [completion.logprobs[0][token].logprob for token in candidates]
    pairs = zip(completion.token_ids, completion.logprobs, strict=True)
    return [step[token].logprob for token, step in pairs]


def _adoption(shared: dict[str, Any], settings: dict[str, Any]) -> Any:
    module = _load("vllm_adopt")
    settings["load_format"] = module.LOAD_FORMAT
    adoption = module.Adoption(shared, _renaming)
    adoption.register()
    return adoption


def _install_adapter(worker: Any, number: int, tensors: dict[str, Any], rank: int) -> None:
    """Puts an adapter from memory where vLLM keeps those that it has read from files.

    Its scaling is already in B and its ranks are padded to ``rank``: 0.26 ignores rank and alpha
    patterns silently.
    """
    from vllm.lora.peft_helper import PEFTHelper

    loader = worker.model_runner.lora_manager
    manager = loader._adapter_manager
    description = PEFTHelper.from_dict({"r": rank, "lora_alpha": rank, "target_modules": []})
    description.validate_legal(loader.lora_config)
    adapter = loader._lora_model_cls.from_lora_tensors(
        lora_model_id=number,
        tensors=tensors,
        peft_helper=description,
        device="cpu",
        dtype=loader.lora_config.lora_dtype,
        model_vocab_size=loader.vocab_size,
        weights_mapper=_renaming(manager.model),
    )
    _check_modules(manager, adapter)
    manager.remove_all_adapters()
    manager.add_adapter(adapter)
    manager.activate_adapter(number)


def _unfused(worker: Any, shapes: dict[str, list[int]]) -> dict[str, Any]:
    model = worker.model_runner.get_model()
    parameters, mapper = dict(model.named_parameters()), _renaming(model)
    found: dict[str, Any] = {}
    for name, shape in shapes.items():
        place = name if mapper is None else mapper._map_name(name)
        under_adapter = f"{place.removesuffix('.weight')}.base_layer.weight"
        tensor = parameters.get(place, parameters.get(under_adapter))
        # A fused or packed tensor has another shape; a vocabulary is padded with more rows.
        if tensor is None or tensor.dim() != len(shape) or not shape:
            continue
        if len(tensor) >= shape[0] and list(tensor.shape[1:]) == shape[1:]:
            found[name] = tensor[: shape[0]]
    return found


def _sha256(tensor: Any) -> str:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()


def _renaming(model: Any) -> Any:
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is None:
        return None
    # The method was renamed between 0.26 and 0.32.
    if hasattr(mapper, "get_rename_mapper"):
        return mapper.get_rename_mapper()
    return mapper.get_unstacked_mapper()


def _check_modules(manager: Any, adapter: Any) -> None:
    """Refuses tensors of modules to which vLLM applies no adapter: it would only skip them."""
    known = {name.rpartition(".")[2] for name in manager.modules}
    known |= {
        part.rpartition(".")[2] for parts in manager.packed_modules.values() for part in parts
    }
    unknown = sorted({name for name in adapter.loras if name.rpartition(".")[2] not in known})
    if unknown:
        raise ValueError(f"vLLM applies no adapter to {unknown[0]}; it does to {sorted(known)}")


def _renew_packed_head(worker: Any) -> None:
    """Packs a tied output head anew: on a CPU it multiplies with a copy that reloads leave old."""
    head = getattr(worker.model_runner.get_model(), "lm_head", None)
    head = getattr(head, "base_layer", head)
    if head is not None and hasattr(head, "cpu_linear") and head.weight.numel():
        head.quant_method.process_weights_after_loading(head)


if __name__ == "__main__":
    main()
