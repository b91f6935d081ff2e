"""The exact check that the engine took the full weights it was given.

Log probabilities round, so in half precision one missed swap may hide in them. Bits do not: after
each swap the engine tells the SHA-256 of a few of its tensors, those that it holds unfused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from msft_lite.errors import EngineError
from msft_lite.model.folder import read_headers
from msft_lite.model.weights import Weights

MOST_TENSORS = 6  # an embedding of 1 GB takes a second; a swap of its model many more
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Ask = Callable[[Mapping[str, object]], Mapping[str, object]]
Shapes = Mapping[str, Sequence[int]]


class BitCheck:
    """Compares a few tensors that the engine holds with those that it was given.

    Which ones is settled on the base model, before the first swap: a tensor that vLLM holds in
    another form than the checkpoint's shows there, and is left out.
    """

    def __init__(self, base_folder: Path, ask: Ask) -> None:
        """Asks nothing yet.

        Args:
            base_folder: the model that the engine was loaded from.
            ask: sends the engine a request and returns its answer.
        """
        self._base_folder = base_folder
        self._ask = ask
        self._shapes: Shapes | None = None

    def prepare(self, *, holds_base: bool = True) -> str:
        """Chooses the tensors, once; before the first swap.

        Args:
            holds_base: whether the engine's tensors are the base's: not those that it shares with
                the trainer, nor those that it has forgotten in its sleep.

        Returns:
            What the user should know, or nothing.
        """
        if self._shapes is None:
            self._shapes = self._comparable() if holds_base else telling(self._held())
        if self._shapes:
            return ""
        return (
            "the engine holds no tensor in the form of the model's files, so whether it took the "
            "weights is seen by their log probabilities alone"
        )

    def check(self, weights: Weights, label: str) -> None:
        """Compares the engine's tensors with ``weights``, cast to the engine's types.

        Raises:
            EngineError: one differs in a bit.
        """
        if not self._shapes:
            return
        found = self._digests(self._shapes)
        given = {name: weights.tensors[name] for name in self._shapes if name in weights.tensors}
        stale = [name for name, tensor in given.items() if not agrees(tensor, found.get(name))]
        if stale:
            raise EngineError(
                f"the engine did not take the weights of snapshot {label}: tensor {stale[0]} is "
                f"not the one that it was given ({len(stale)} of {len(given)} compared bit by bit "
                "differ). No score of this engine can be trusted: use the torch engine, or another "
                "version of vllm"
            )

    def _comparable(self) -> Shapes:
        """Returns the shapes of the chosen tensors in which the engine's base is the checkpoint."""
        chosen = telling(self._held())
        found = self._digests(chosen)
        base = read_tensors(self._base_folder, chosen)
        return {
            name: shape
            for name, shape in chosen.items()
            if name in base and agrees(base[name], found.get(name))
        }

    def _held(self) -> Shapes:
        """Returns the shapes of the checkpoint's tensors that the engine holds unfused."""
        shapes = {name: head.shape for name, head in read_headers(self._base_folder).items()}
        names = self._ask({"operation": "held", "shapes": shapes}).get("names")
        held = {str(name) for name in names} if isinstance(names, list) else set()
        return {name: shape for name, shape in shapes.items() if name in held}

    def _digests(self, shapes: Shapes) -> Mapping[str, object]:
        found = self._ask({"operation": "digests", "shapes": shapes}).get("digests")
        return found if isinstance(found, Mapping) else {}


def telling(shapes: Shapes) -> Shapes:
    """Returns the `MOST_TENSORS` in which a missed swap shows most surely.

    The largest, which is the embedding; then others spread over the model, matrices where there
    are any, as in half precision a norm near 1 may not move at all; the last norm.
    """
    if not shapes:
        return {}
    largest = max(shapes, key=lambda name: math.prod(shapes[name]))
    matrices = [name for name in shapes if len(shapes[name]) > 1 and name != largest]
    vectors = [name for name in shapes if len(shapes[name]) == 1]
    others, last = matrices or vectors or [largest], MOST_TENSORS - 3
    spread = [others[(len(others) - 1) * step // last] for step in range(last + 1)]
    return {name: shapes[name] for name in (largest, *spread, *vectors[-1:])}


def agrees(tensor: torch.Tensor, found: object) -> bool:
    """Returns whether ``found``, a type and a digest, is of ``tensor`` cast to that type."""
    match found:
        case [str(dtype), str(digest)] if dtype in _DTYPES:
            return _sha256(tensor.to(_DTYPES[dtype])) == digest
        case _:
            return False


def _sha256(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def read_tensors(folder: Path, names: Shapes) -> dict[str, torch.Tensor]:
    """Returns those of the tensors called ``names`` that the model in ``folder`` has stored."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            here = names.keys() & set(file.keys())
            tensors |= {name: file.get_tensor(name) for name in here}
    return tensors
