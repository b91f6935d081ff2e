"""vLLM's process with a fault in it, while the file that ``MSFT_LITE_SABOTAGE`` names holds one.

Each fault is one that was met, or could be: nothing tells of it but what the engine answers.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parents[2] / "msft_lite" / "engine" / "vllm_worker.py"


def fault() -> str:
    """Returns the fault that is asked for at present, or nothing."""
    return Path(os.environ["MSFT_LITE_SABOTAGE"]).read_text()


def sabotage(engine: type[Any]) -> None:
    """Puts the faults into the class of the worker."""
    put_adapter, reload = engine._put_adapter, engine._reload
    forget_prefixes = engine._forget_prefixes

    def forget(self: Any) -> None:
        if fault() != "stale prefixes":
            forget_prefixes(self)

    def put(self: Any, tensors: bytes, rank: int) -> dict[str, object]:
        if fault() == "old adapter":
            return {}
        if fault() == "half an adapter":
            tensors = _first_half(tensors)
        if fault() == "stale prefixes":
            self._adapters -= 1  # the new adapter goes by the name of the old one
        return put_adapter(self, tensors, rank)

    def reload_weights(self: Any, folder: str) -> dict[str, object]:
        if fault() == "old weights":
            return {}
        if fault() == "half the weights":
            path = Path(folder) / "model.safetensors"
            path.write_bytes(_first_half(path.read_bytes()))
        return reload(self, folder)

    engine._put_adapter, engine._reload = put, reload_weights
    engine._forget_prefixes = forget


def _first_half(tensors: bytes) -> bytes:
    """Returns those of a safetensors file's tensors that are not of the second layer."""
    from safetensors.torch import load, save

    return save({name: one for name, one in load(tensors).items() if ".layers.1." not in name})


if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("vllm_worker", WORKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sabotage(module._Engine)
    module.main()
