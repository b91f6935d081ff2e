"""Snapshots in the host's memory, for runs that rather train again than write at every mark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msft_lite.model.weights import Weights

SHARE = 2  # a snapshot may take one part in so many of the memory that is free


class HostMemory:
    """Where a store holds snapshots that are not settled yet; they are lost with the process."""

    def __init__(self, free_bytes: Callable[[], int | None]) -> None:
        """Holds nothing so far.

        Args:
            free_bytes: tells what the host's memory has free; None: it cannot be told, and
                nothing is taken.
        """
        self._free_bytes = free_bytes
        self._held: dict[str, Weights] = {}

    def takes(self, identity: str, weights: Weights) -> bool:
        """Holds ``weights``, which are not to be changed, and returns True, if there is room."""
        free = self._free_bytes()
        fits = free is not None and SHARE * weights.total_bytes <= free
        if fits:
            self._held[identity] = weights
        return fits

    def get(self, identity: str) -> Weights | None:
        """Returns the weights of that id, which are not to be changed; None: they are not here."""
        return self._held.get(identity)

    def retain(self, identities: Iterable[str]) -> None:
        """Forgets all snapshots but these."""
        self._held = {one: self._held[one] for one in identities if one in self._held}

    def given_back(self, identities: Iterable[str] | None) -> Iterator[tuple[str, Weights]]:
        """Yields those of ``identities``, or all snapshots; each is forgotten once it is used."""
        wanted = self._held if identities is None else identities
        for identity in sorted(self._held.keys() & wanted):
            yield identity, self._held[identity]
            del self._held[identity]


def no_memory() -> HostMemory:
    """Returns one that takes nothing: every snapshot is written as it is saved."""
    return HostMemory(lambda: None)
