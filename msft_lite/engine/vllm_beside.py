"""What vLLM takes for granted of its process and its GPU, and what is not so beside a trainer.

A part of the engine's process: `vllm_worker.py` loads it by its path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


def form_group() -> None:
    """Makes torch's process group, of this process alone, in memory.

    vLLM takes one that is there. It would make its own through a port (0.26) or through a file in
    the temporary folder (0.32) that stays when a process ends without a clean shut-down.
    """
    import torch

    backend = "nccl" if torch.cuda.is_available() else "gloo"  # those of vLLM's platforms
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


@contextmanager
def unwatched_memory() -> Iterator[None]:
    """Within it the free memory of the GPU seems to stay the same.

    When vLLM has gone to sleep it asserts that no less is free than before; but meanwhile the
    trainer takes memory of the same GPU, in its first steps above all.
    """
    import torch

    with patch.object(torch.accelerator, "get_memory_info", lambda *_: (0, 0)):
        yield
