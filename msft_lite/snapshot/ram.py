"""Snapshots in the host's memory, for runs that rather train again than write at every mark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from msft_lite.core import ROOT
from msft_lite.model.weights import Weights
from msft_lite.snapshot import delta
from msft_lite.snapshot.codec import snapshot_id
from msft_lite.snapshot.store import SnapshotStore

SHARE = 2  # a snapshot may take one part in so many of the memory that is free


class RamStore(SnapshotStore):
    """A store whose snapshots are written to the disk when they are settled or memory is short.

    What is in memory is lost with the process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: Callable[[], Weights],
        base: delta.Source | None = None,
        deltas: bool = False,
        free_bytes: Callable[[], int | None],
    ) -> None:
        """Takes what `SnapshotStore` takes.

        Args:
            folder: as there.
            root: as there.
            base: as there.
            deltas: as there.
            free_bytes: tells what the host's memory has free; None: it cannot be told, and
                everything is written.
        """
        super().__init__(folder, root=root, base=base, deltas=deltas)
        self._free_bytes = free_bytes
        self._in_memory: dict[str, Weights] = {}

    def save(self, weights: Weights, *, near: str = ROOT) -> str:
        """Returns the id of ``weights``, which are the store's from now on."""
        if not self._fits(weights):
            return super().save(weights, near=near)
        identity = snapshot_id(weights)
        self._in_memory[identity] = weights
        return identity

    def restore(self, identity: str, weights: Weights) -> None:
        """Saves ``weights``, whose id is ``identity``, which are the store's from now on."""
        if self._fits(weights):
            self._in_memory[identity] = weights
        else:
            super().restore(identity, weights)

    def load(self, identity: str) -> Weights:
        """Returns the weights of that id; they are not to be changed."""
        held = self._in_memory.get(identity)
        return super().load(identity) if held is None else held

    def retain(self, identities: Iterable[str]) -> int:
        """Removes all snapshots but these; returns how many bytes less are on the disk."""
        kept = set(identities)
        self._in_memory = {i: weights for i, weights in self._in_memory.items() if i in kept}
        return super().retain(kept)

    def settle(self, identities: Iterable[str] | None = None) -> None:
        """Writes those of ``identities``, or all snapshots, that are in memory alone."""
        wanted = set(self._in_memory if identities is None else identities)
        for identity in wanted & self._in_memory.keys():
            super().save(self._in_memory[identity])
            del self._in_memory[identity]

    def size_bytes(self, identity: str) -> int:
        """Returns the bytes that a snapshot takes on the disk."""
        return 0 if identity in self._in_memory else super().size_bytes(identity)

    def _fits(self, weights: Weights) -> bool:
        free = self._free_bytes()
        return free is not None and SHARE * weights.total_bytes <= free
