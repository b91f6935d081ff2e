"""An optimizer step that is taken while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from msft_lite.train.optimizer import Optimizer, Turn, gradient_norm, total_norm


class BackwardStep:
    """Updates every parameter as soon as its gradient is complete, and frees the gradient.

    So gradients never exist all together: the most is one, and what the backward pass itself holds.
    The bits are those of a step that waits for all gradients. A parameter is complete once all its
    uses have been passed, and nothing reads it later in that pass.
    """

    def __init__(
        self, optimizer: Optimizer, turn: Turn, *, check: Callable[[str, float], None]
    ) -> None:
        """Prepares one step.

        Args:
            optimizer: holds no gradients.
            turn: which step it is.
            check: is told a parameter's name and the norm of its gradient before the parameter is
                changed; what it raises ends the backward pass and comes out of `run`.
        """
        self._optimizer = optimizer
        self._turn = turn
        self._check = check
        self._norms: dict[str, torch.Tensor] = {}

    def run(self, loss: torch.Tensor) -> float:
        """Passes back from ``loss`` and returns the norm of the whole gradient.

        If it raises, parameters that ``check`` let pass may have been updated.
        """
        parameters = self._optimizer.parameters
        handles = [
            parameter.register_post_accumulate_grad_hook(partial(self._take, name))
            for name, parameter in parameters.items()
        ]
        try:
            loss.backward()
        finally:
            for handle in handles:
                handle.remove()
        for name, parameter in parameters.items():
            if name not in self._norms:  # not used in this step
                parameter.grad = torch.zeros_like(parameter)
                self._take(name, parameter)
        return float(total_norm(self._norms[name] for name in parameters))

    def _take(self, name: str, parameter: torch.Tensor) -> None:
        norm = gradient_norm(parameter)
        self._check(name, float(norm))
        self._norms[name] = norm
        self._optimizer.step(self._turn, [name])
        parameter.grad = None
