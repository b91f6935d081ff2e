"""Bytes of live tensors, added up as operations make them and as they are freed.

What is seen is what torch's operations return, forward and backward, on any device and also under
`FakeTensorMode`, where nothing is allocated. Tensors of torch's meta device have no bytes: they
stand for what another memory holds. A storage counts once however many tensors look at it.
Memory that a kernel takes and gives back inside one operation is not seen, but for the weights that
`bitsandbytes` unpacks there, which are added.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

Part = Literal["weights", "adapter", "gradients", "moments", "forward", "loss", "backward"]
PARTS: tuple[Part, ...] = (
    "weights", "adapter", "gradients", "moments", "forward", "loss", "backward",
)  # fmt: skip
# CUDA's caching allocator gives out multiples of this.
BLOCK_BYTES = 512
BLOCK_WEIGHTS = 64  # that share a scale in 4 bits


def rounded(size_bytes: int) -> int:
    """Returns what a storage of ``size_bytes`` takes: the next multiple of `BLOCK_BYTES`."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


class LiveBytes(TorchDispatchMode):
    """Counts while it is entered; what lived before is counted if `watch` was told of it.

    torch asks a mode to derive from its class, which holds entering and leaving alone.

    Attributes:
        part: under which new storages are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part: Part = "forward"
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], Part, int]] = {}
        self._sums: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self._total = 0
        self._peak, self._peak_sums = 0, dict(self._sums)

    @property
    def live(self) -> Mapping[Part, int]:
        """Bytes that are alive now, by part."""
        return dict(self._sums)

    @property
    def peak(self) -> Mapping[Part, int]:
        """Bytes by part at the moment when most were alive, the first of equal ones."""
        return dict(self._peak_sums)

    @contextmanager
    def counted_as(self, part: Part) -> Iterator[None]:
        """Counts what is made inside under ``part``."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def watch(self, tensors: Iterable[torch.Tensor], part: Part) -> None:
        """Counts the storages of ``tensors`` under ``part``, also those that were another's."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._forget(id(storage))
            self._remember(storage, part)
        self._compare()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the operation and counts what it returns."""
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # asked two times of three, and makes nothing
            return found
        for value in tree_iter(found):
            if isinstance(value, torch.Tensor) and not value.is_meta:
                storage = value.untyped_storage()
                if id(storage) not in self._alive:
                    self._remember(storage, self.part)
        self._compare(_unpacked_bytes(func, args))
        return found

    def _remember(self, storage: torch.UntypedStorage, part: Part) -> None:
        # torch keeps a storage's Python object, and so its id, for as long as the storage lives.
        key, size_bytes = id(storage), rounded(storage.nbytes())
        self._alive[key] = (weakref.ref(storage, lambda _: self._forget(key)), part, size_bytes)
        self._sums[part] += size_bytes
        self._total += size_bytes

    def _forget(self, key: int) -> None:
        if key in self._alive:
            _, part, size_bytes = self._alive.pop(key)
            self._sums[part] -= size_bytes
            self._total -= size_bytes

    def _compare(self, unseen_bytes: int = 0) -> None:
        if self._total + unseen_bytes > self._peak:
            self._peak = self._total + unseen_bytes
            self._peak_sums = dict(self._sums)
            self._peak_sums[self.part] += unseen_bytes


def _unpacked_bytes(func: Callable[..., Any], args: tuple[Any, ...]) -> int:
    """Returns the bytes of weights and scales that a product with 4-bit ones unpacks for itself."""
    if not str(func).startswith("bitsandbytes.gemm_4bit"):
        return 0
    inputs, _, shape = args[:3]
    weights = shape[0] * shape[1]
    return rounded(weights * inputs.element_size()) + rounded(weights // BLOCK_WEIGHTS * 4)
