"""Tensors of a forward pass that wait on the host until the backward pass asks for them.

They leave the device in the order in which they are saved and are asked for in the opposite one, so
each that is asked for has the one saved before it fetched ahead, while the device computes. The
latest stays on the device until another is saved: it is asked for first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


class Lane(Protocol):
    """Copies tensors between a device and the host, beside the device's other work."""

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Starts a copy of ``tensor``, which must live until `wait`, and returns where it goes."""
        ...

    def to_device(self, held: torch.Tensor) -> torch.Tensor:
        """Starts a copy of what `to_host` returned; it may be read after `wait`."""
        ...

    def wait(self) -> None:
        """Lets whatever the device is given from now on begin after all copies started so far."""
        ...


class CudaLane:
    """Copies from and to pinned memory in a stream of their own; the host never waits."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Starts a copy of ``tensor``, which must live until `wait`, and returns where it goes."""
        held = torch.empty_like(tensor, device="cpu", pin_memory=True)
        self._copy(tensor, held)
        return held

    def to_device(self, held: torch.Tensor) -> torch.Tensor:
        """Starts a copy of what `to_host` returned; it may be read after `wait`."""
        tensor = torch.empty_like(held, device=self._stream.device)
        self._copy(held, tensor)
        # A backward pass may break off: the memory is not given to others while it is written to.
        tensor.record_stream(self._stream)
        return tensor

    def wait(self) -> None:
        """Lets whatever the device is given from now on begin after all copies started so far."""
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def _copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)


@dataclass(slots=True, weakref_slot=True)
class Parcel:
    """A saved tensor; the graph that saved it owns it.

    Attributes:
        held: its copy on the host.
        tensor: on the device, where it has not left it yet or was fetched ahead.
        before: the one that was saved before it, if that still lives.
    """

    held: torch.Tensor
    tensor: torch.Tensor | None
    before: Callable[[], Parcel | None]


class Offload:
    """Moves what is saved to the host, and back for the backward pass."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._latest: Callable[[], Parcel | None] = lambda: None

    def checkpoint(
        self, function: Callable[..., Any], states: torch.Tensor, *others: object
    ) -> Any:
        """Returns what ``function`` does of its arguments; the backward pass computes it again.

        Only ``states`` is moved meanwhile. ``others`` are shared by all layers, such as masks.
        """
        with saved_tensors_hooks(self.pack, self.unpack):
            return checkpoint(lambda x: function(x, *others), states, use_reentrant=False)

    def pack(self, tensor: torch.Tensor) -> Parcel:
        """Sends ``tensor`` to the host, and lets go of the one before it."""
        self._lane.wait()
        if (before := self._latest()) is not None:
            before.tensor = None
        parcel = Parcel(self._lane.to_host(tensor), tensor, self._latest)
        self._latest = weakref.ref(parcel)
        return parcel

    def unpack(self, parcel: Parcel) -> torch.Tensor:
        """Returns the tensor on its device, and has the one before it fetched."""
        tensor = self._fetched(parcel)
        self._lane.wait()
        parcel.tensor = None
        if (before := parcel.before()) is not None:
            before.tensor = self._fetched(before)
        return tensor

    def _fetched(self, parcel: Parcel) -> torch.Tensor:
        return self._lane.to_device(parcel.held) if parcel.tensor is None else parcel.tensor
