"""Adapters that vLLM cannot apply: merged into the base and given to it as full weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from msft_lite.engine.base import Completion, EvalEngine, Prompt
from msft_lite.engine.replaced import difference, replaced
from msft_lite.errors import EngineError
from msft_lite.model.dense import dense_tensors
from msft_lite.model.load import trainable_parameters
from msft_lite.model.weights import Weights


class MergingEngine:
    """An engine of full weights, to which adapters are given; see `EvalEngine`.

    At a swap base and adapter become one, tensor by tensor, on their way to the engine: no merged
    model is ever in the trainer's memory or a checkpoint. The model in training is as before
    afterwards, bit by bit. In half precision a merged weight is rounded once, which the trainer,
    whose adapter is float32 beside the base, does not do.
    """

    def __init__(self, engine: EvalEngine, model: nn.Module) -> None:
        """Takes the parts.

        Args:
            engine: takes full weights.
            model: the peft model in training.

        Raises:
            ModelError: its adapter cannot be merged.
        """
        self.name = engine.name
        self._engine = engine
        self._model = model
        dense_tensors(model, merged=True)  # what cannot be merged is told at once

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should be told once; it may grow."""
        return self._engine.notices

    def ready(self) -> bool:
        """Returns at once whether the engine can be used without waiting.

        Raises:
            EngineError: it failed to start.
        """
        return self._engine.ready()

    def awake(self) -> AbstractContextManager[None]:
        """Waits until the engine is up and holds its memory within the context."""
        return self._engine.awake()

    def swap(self, weights: Weights, label: str) -> None:
        """Merges ``weights`` and makes the result what answers.

        Raises:
            EngineError: they are not those of the model's adapter, or the engine failed.
            StorageError: the merged weights could not be written.
        """
        problem = difference(trainable_parameters(self._model), weights.tensors)
        if problem:
            raise EngineError(f"snapshot {label} does not fit the model: {problem}")
        with torch.no_grad(), replaced(self._model, weights):
            self._engine.swap(Weights("full", dense_tensors(self._model, merged=True)), label)

    def complete(
        self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
    ) -> list[Completion]:
        """Returns one completion per prompt, in the order of ``prompts``."""
        return self._engine.complete(prompts, log_probabilities=log_probabilities)

    def close(self) -> None:
        """Ends the engine; may be called twice."""
        self._engine.close()
