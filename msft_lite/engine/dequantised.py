"""The 4-bit base as plain weights in a temporary folder: QLoRA is evaluated on what it trains on.

The unquantised base is another model: under an adapter trained on the 4-bit one it gave 9 of 24
sequences that this one gives.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from msft_lite.engine.bit_check import Ask, agrees, read_tensors, telling
from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.engine.handover import weights_folder
from msft_lite.errors import EngineError
from msft_lite.model.dense import dense_tensors
from msft_lite.model.weights import Weights

_UNSEEN = (
    "the engine packs its layers, so whether they are those of the 4-bit base is seen by their log "
    "probabilities alone"
)


class DequantisedBase:
    """A folder that an engine loads as its base model; it goes when the engine has done so.

    It lies in shared memory, or in ``fallback`` where there is too little of it. Every weight is
    the number that the 4-bit layer multiplies with, in the model's dtype; what is not in 4 bits
    (embeddings, norms, head) is the model's own.
    """

    def __init__(self, model: nn.Module, source: Path, *, fallback: Path) -> None:
        """Writes the folder, one layer at a time.

        Args:
            model: the one in training, in 4 bits, under an adapter or not.
            source: the unquantised base that it was made of; its configuration is taken.
            fallback: where to write if shared memory is too small.

        Raises:
            EngineError: the model's tensors are not those of ``source``.
            StorageError: there is no room.
        """
        self._source = source
        self._tensors = dense_tensors(model, merged=False)
        CheckpointNames.of(source).check(Weights("full", self._tensors), "of the 4-bit base")
        with ExitStack() as stack:
            self.folder = stack.enter_context(weights_folder(self._tensors, fallback=fallback))
            for path in (source / "config.json", *source.glob("*.py")):
                shutil.copy(path, self.folder)
            self._stack = stack.pop_all()

    def check(self, ask: Ask, loaded_from: object) -> str:
        """Checks that this is the engine's base; bit by bit in layers that it holds unpacked.

        Args:
            ask: sends the engine a request and returns its answer.
            loaded_from: the folder that the engine says it has loaded.

        Returns:
            What the user should know, or nothing.

        Raises:
            EngineError: the engine holds another base.
        """
        if loaded_from != str(self.folder):
            raise _another(f"it has loaded {loaded_from}")
        shapes = {name: list(self._tensors.forms[name].shape) for name in self._tensors.quantised}
        names = ask({"operation": "held", "shapes": shapes}).get("names")
        held = set(names) if isinstance(names, list) else set[object]()
        chosen = telling({name: shape for name, shape in shapes.items() if name in held})
        found = ask({"operation": "digests", "shapes": chosen}).get("digests")
        digests = found if isinstance(found, Mapping) else {}
        plain = read_tensors(self._source, chosen)
        wrong = [name for name in chosen if agrees(plain[name], digests.get(name))]
        if wrong:
            raise _another(f"its {wrong[0]} is the unquantised one of {self._source}")
        right = [name for name in chosen if agrees(self._tensors[name], digests.get(name))]
        return "" if right else _UNSEEN

    def remove(self) -> None:
        """Removes the folder; may be called twice."""
        self._stack.close()


def _another(what: str) -> EngineError:
    return EngineError(
        f"the engine holds another base than the 4-bit one that is trained on: {what}. No score of "
        'this engine can be trusted: set engine.name = "torch"'
    )
