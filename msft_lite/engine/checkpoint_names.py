"""The tensor names that the engine's model was loaded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msft_lite.errors import EngineError
from msft_lite.model.folder import read_config, read_headers
from msft_lite.model.weights import Weights

HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class CheckpointNames:
    """What a set of full weights must be called, and what it may leave out.

    Attributes:
        names: tensors in the model's safetensors files.
        tied: whether the output head is the input embedding.
    """

    names: frozenset[str]
    tied: bool

    @staticmethod
    def of(model_folder: Path) -> CheckpointNames:
        """Reads the headers in a folder in transformers' format.

        Raises:
            ModelError: the folder holds no usable model.
        """
        config = read_config(model_folder)
        names = frozenset(read_headers(model_folder))
        return CheckpointNames(names, bool(config.get("tie_word_embeddings", True)))

    @property
    def derived(self) -> frozenset[str]:
        """Names that follow from others, which some files have and some models lack."""
        return frozenset(name for name in self.names if self._is_derived(name))

    def check(self, weights: Weights, label: str) -> None:
        """Refuses a partial or misnamed set: vLLM would only warn and answer with what it has.

        Raises:
            EngineError: ``weights`` belong to another model.
        """
        given = frozenset(weights.tensors)
        missing = {name for name in self.names - given if not self._is_derived(name)}
        unknown = {name for name in given - self.names if not self._is_derived(name)}
        if missing or unknown:
            problem = "misses the" if missing else "has an unknown"
            raise EngineError(
                f"snapshot {label} {problem} tensor {min(missing or unknown)} ({len(missing)} "
                f"missing, {len(unknown)} unknown): it belongs to another model than the engine's"
            )

    def _is_derived(self, name: str) -> bool:
        # Some write a tied head, some leave it out; old models store buffers.
        return (self.tied and name == HEAD) or name.endswith("rotary_emb.inv_freq")
