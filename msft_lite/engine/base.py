"""What the runner needs of an evaluation engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from msft_lite.model.weights import Weights


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids to continue greedily, and the most tokens to add.

    Attributes:
        candidates: if there are any, nothing is written: asked is how likely each of these tokens
            is to come next; ``max_new_tokens`` is then 1.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    candidates: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine wrote.

    Attributes:
        ids: generated token ids; an end-of-text token that ended the text is included.
        log_probabilities: natural-log probability of each of ``ids`` under the engine's model,
            empty unless asked for; of each of the prompt's candidates where it has some.
        cached_tokens: tokens of the prompt that the engine had met before and did not compute.
    """

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...] = ()
    cached_tokens: int = 0


class EvalEngine(Protocol):
    """Greedy generation with weights that are swapped while the engine stays up."""

    name: str

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should be told once, in the order in which it came up; it may grow."""
        ...

    def ready(self) -> bool:
        """Returns at once whether the engine can be used without waiting.

        Raises:
            EngineError: it failed to start.
        """
        ...

    def awake(self) -> AbstractContextManager[None]:
        """Waits until the engine is up and holds its memory within the context."""
        ...

    def swap(self, weights: Weights, label: str) -> None:
        """Makes ``weights`` the ones that answer; no answer of earlier weights is reused.

        Args:
            weights: all trainable tensors.
            label: the snapshot's id, for logs and messages.
        """
        ...

    def complete(
        self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
    ) -> list[Completion]:
        """Returns one completion per prompt, in the order of ``prompts``.

        Args:
            prompts: to continue, or with candidates to weigh.
            log_probabilities: whether to tell those of generated tokens; in a call of its own,
                without prompts that have candidates.
        """
        ...

    def close(self) -> None:
        """Ends the engine; may be called twice."""
        ...
