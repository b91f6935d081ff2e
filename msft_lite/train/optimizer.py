"""The optimizer: it owns the moments and updates a model's trainable weights.

How one tensor changes is an `UpdateRule`. Here stands which rule, at what rate, in which order, and
how bfloat16 weights are rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from msft_lite.errors import SnapshotError
from msft_lite.model.load import check_tensors
from msft_lite.train.rounding import round_stochastically
from msft_lite.train.settings import TrainSettings, rounding_seed_at
from msft_lite.train.update_rules import BlockwiseAdamW, FusedAdamW, Target, UpdateRule, is_paged

# Elements that are updated at once in float32: 16 MiB each for weight, gradient and random bits.
# Part of the results: random bits are drawn part after part.
PART_ELEMENTS = 2**22


@dataclass(frozen=True, slots=True)
class Turn:
    """Which step it is.

    Attributes:
        key: of the roll-out's optimizer, as given to `Trainer.renew`.
        steps: optimizer steps done before.
        rate: the learning rate.
    """

    key: str
    steps: int
    rate: float


class Optimizer:
    """Owns the moments of ``parameters``; they are there, as zeros, before the first step.

    An update depends on weights, gradients, moments, seed and `Turn` alone, and not on which other
    parameters are updated with it: global random generators are neither read nor changed.
    """

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], settings: TrainSettings, *, seed: int
    ) -> None:
        """Takes the parameters, all on one device, by stable names.

        Raises:
            TrainError: the optimizer needs a library or a GPU that is not there.
        """
        self._parameters = parameters
        self._settings = settings
        self._seed = seed
        for parameter in parameters.values():
            parameter.data = parameter.data.contiguous()  # kernels go through it as one row
        self._rule = _rule(settings, next(iter(parameters.values())).device)
        self._moments = {
            name: self._rule.moments(parameter.detach()) for name, parameter in parameters.items()
        }

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        """What is updated, by name."""
        return self._parameters

    def zero(self) -> None:
        """Makes the state that of a new optimizer, bit by bit."""
        for moments in self._moments.values():
            for tensor in moments.values():
                tensor.zero_()
        self._rule.reset()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns the state itself, not copies, as ``kind.name`` and ``kind`` of what is shared."""
        kinds = dict.fromkeys(kind for moments in self._moments.values() for kind in moments)
        own = {
            f"{kind}.{name}": moments[kind]
            for kind in kinds
            for name, moments in self._moments.items()
            if kind in moments
        }
        return own | dict(self._rule.shared)

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies a state in, as `tensors` names it.

        Raises:
            SnapshotError: a tensor is not of this optimizer; nothing was changed.
        """
        own = self.tensors()
        if not own.keys() & tensors.keys():
            raise SnapshotError(
                f"crash copy: its moments are not those of train.optim = {self._settings.optim!r};"
                " the recipe's optimizer was changed"
            )
        check_tensors(tensors, own, what="crash copy")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])

    def park(self) -> None:
        """Moves the moments to the host; before a step they must be back, see `unpark`."""
        self._move(torch.device("cpu"))

    def unpark(self) -> None:
        """Moves the moments to where the parameters are; no bit changes on the way."""
        self._move(next(iter(self._parameters.values())).device)

    def _move(self, device: torch.device) -> None:
        for moments in self._moments.values():
            for kind, tensor in moments.items():
                if not is_paged(tensor):  # the driver moves those by itself
                    moments[kind] = tensor.to(device, copy=True)

    def complete_gradients(self) -> None:
        """Gives zeros to parameters without a gradient; their moments decay like the others'."""
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def forget_gradients(self) -> None:
        """Frees all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def norms(self) -> dict[str, torch.Tensor]:
        """Returns the Euclidean norm of every parameter's gradient, float32 without dimensions."""
        return {name: gradient_norm(p) for name, p in self._parameters.items()}

    def scale_gradients(self, factor: float) -> None:
        """Multiplies all gradients in place."""
        for parameter in self._parameters.values():
            _gradient(parameter).mul_(factor)

    @torch.no_grad()
    def step(self, turn: Turn, names: Iterable[str] | None = None) -> None:
        """Updates the parameters called ``names``, or all, by their gradients."""
        chosen = list(self._parameters if names is None else names)
        for rate, group in self._by_rate(chosen, turn.rate).items():
            whole = [name for name in group if not self._is_rounded(self._parameters[name])]
            if whole:
                targets = [self._target(name) for name in whole]
                self._rule.update(targets, rate=rate, steps=turn.steps)
            for name in group:
                if self._is_rounded(self._parameters[name]):
                    self._step_rounded(name, turn, rate)

    def _by_rate(self, names: Iterable[str], rate: float) -> dict[float, list[str]]:
        groups: dict[float, list[str]] = {}
        for name in names:
            ratio = self._settings.loraplus_lr_ratio if ".lora_B." in name else 1.0
            groups.setdefault(rate * ratio, []).append(name)
        return groups

    def _is_rounded(self, weight: torch.Tensor) -> bool:
        return weight.dtype == torch.bfloat16 and self._settings.bf16_update == "stochastic"

    def _target(self, name: str) -> Target:
        parameter = self._parameters[name]
        return Target(parameter.detach(), _gradient(parameter).contiguous(), self._moments[name])

    def _step_rounded(self, name: str, turn: Turn, rate: float) -> None:
        """Updates a bfloat16 parameter in float32, part by part, and rounds each part at random."""
        whole = self._target(name)
        weight, gradient = whole.weight.view(-1), whole.gradient.view(-1)
        generator = torch.Generator(weight.device)
        generator.manual_seed(rounding_seed_at(self._seed, turn.key, turn.steps, name))
        for start in range(0, weight.numel(), PART_ELEMENTS):
            stop = min(start + PART_ELEMENTS, weight.numel())
            exact = weight[start:stop].float()
            moments = self._rule.part(whole.moments, start, stop)
            target = Target(exact, gradient[start:stop].float(), moments)
            self._rule.update([target], rate=rate, steps=turn.steps)
            weight[start:stop] = round_stochastically(exact, generator)


def gradient_norm(parameter: torch.Tensor) -> torch.Tensor:
    """Returns the Euclidean norm of the gradient, float32 without dimensions."""
    return torch.linalg.vector_norm(_gradient(parameter), dtype=torch.float32)


def total_norm(norms: Iterable[torch.Tensor]) -> torch.Tensor:
    """Returns the norm of the whole gradient, without dimensions, from those of its tensors."""
    return torch.linalg.vector_norm(torch.stack(list(norms)))


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None, "gradients were completed before"
    return parameter.grad


def _rule(settings: TrainSettings, device: torch.device) -> UpdateRule:
    return FusedAdamW(settings) if settings.optim == "adamw" else BlockwiseAdamW(settings, device)
