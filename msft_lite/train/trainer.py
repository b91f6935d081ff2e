"""Optimizer steps whose outcome is a function of weights, moments, counters and rows alone."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from msft_lite.data.task import Example, TokenCount
from msft_lite.errors import SnapshotError, TrainError
from msft_lite.model.batch import Batch, Row, as_given, collate_examples, in_batches
from msft_lite.model.load import apply, capture, check_tensors, trainable_parameters
from msft_lite.model.loss import evaluating, log_probabilities, row_losses, vocabulary_size
from msft_lite.model.packing import takes_packed_rows
from msft_lite.model.weights import Weights
from msft_lite.train.settings import TrainSettings, lr_at, seed_at

_MOMENTS = ("exp_avg", "exp_avg_sq")
_MOST_ROWS_NAMED = 8


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Cross-entropy added up over the ``tokens`` that carry loss, in natural units."""

    loss_sum: float
    tokens: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step reports.

    Attributes:
        losses: per task of the step's rows, before the update.
        work: tokens of the step.
        gradient_norm: Euclidean norm of the gradient before clipping.
        learning_rate: rate of this step.
    """

    losses: Mapping[str, TokenLoss]
    work: TokenCount
    gradient_norm: float
    learning_rate: float


class Trainer:
    """Owns a model's trainable weights, AdamW's moments and two counters.

    Every method leaves the global random generators as it found them, and what it computes does
    not depend on them. On the CPU a step is bitwise reproducible for one number of threads.
    """

    def __init__(
        self, model: torch.nn.Module, settings: TrainSettings, *, seed: int, pad_id: int
    ) -> None:
        """Starts with zero moments under the key ``""``.

        Args:
            model: as `load_model` returns it.
            settings: of the optimizer.
            seed: of dropout.
            pad_id: token id that fills rows up; any valid one, since nothing looks at it.
        """
        self._model = model
        self._settings = settings
        self._seed = seed
        self._pad_id = pad_id
        self._parameters = trainable_parameters(model)
        self._vocabulary = vocabulary_size(model)
        self._packed = takes_packed_rows(model)
        self._device = next(iter(self._parameters.values())).device
        self._optimizer = _adamw(self._parameters, settings)
        self._key = ""
        self._steps = 0

    @property
    def steps(self) -> int:
        """Optimizer steps done since `renew`."""
        return self._steps

    def load(self, weights: Weights) -> None:
        """Replaces the trainable weights in place; moments and counters stay.

        Raises:
            SnapshotError: the weights are of another model or tuning.
        """
        apply(self._model, weights)

    def capture(self) -> Weights:
        """Returns copies of the trainable weights on the host."""
        return capture(self._model)

    def renew(self, key: str) -> None:
        """Starts a new optimizer: zero moments, no steps done, dropout drawn from ``key``."""
        for parameter in self._parameters.values():
            for value in self._optimizer.state[parameter].values():
                value.zero_()
        self._key = key
        self._steps = 0

    def step(self, examples: Sequence[Example]) -> StepResult:
        """Trains one optimizer step on ``examples``, in the order given.

        The loss is the mean over all tokens of the step that carry loss: it is divided once, so
        that the split into micro-batches does not matter beyond rounding.

        Raises:
            TrainError: a row cannot be trained on, the loss or the gradient is not finite, the
                loss is zero, or memory ran out. Weights, moments and counters are unchanged.
        """
        if not examples:
            raise TrainError(f"{self._next_step}: no rows to train on")
        self._check_rows(examples)
        try:
            with self._memory_advice():
                sums = self._accumulate(examples)
                self._check_finite(examples, sums)
                self._check_not_zero(examples, sums)
                norm = self._gradient_norm()
                self._check_norm(examples, norm)
                rate = self._update(norm)
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
        return StepResult(_by_task(examples, sums), TokenCount.of(examples), norm, rate)

    def probe(
        self, batches: Mapping[str, Sequence[Example]]
    ) -> dict[str, tuple[list[float], list[float]]]:
        """Returns the losses of every batch's rows before and after one step on that batch.

        Every step is taken from the present state and undone from copies on the host: weights,
        moments and counters are afterwards what they were, bit by bit.

        Raises:
            TrainError: a row cannot be trained on, a loss is not finite, or memory ran out.
        """
        weights, (moments, counters) = self.capture(), self.state()
        found: dict[str, tuple[list[float], list[float]]] = {}
        for name, examples in batches.items():
            before = self.losses(examples)
            try:
                self.step(examples)
                found[name] = before, self.losses(examples)
            finally:
                self.load(weights)
                self.restore_state(moments, counters)
        return found

    def state(self) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]:
        """Returns copies of the moments on the host, by stable names, and the counters."""
        moments = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in self._moments().items()
        }
        return moments, {"key": self._key, "steps": self._steps}

    def restore_state(
        self, moments: Mapping[str, torch.Tensor], counters: Mapping[str, Any]
    ) -> None:
        """Puts back what `state` returned, exactly.

        Raises:
            SnapshotError: a tensor or counter is not of this trainer; nothing was changed.
        """
        key, steps = counters.get("key"), counters.get("steps")
        if not isinstance(key, str) or not isinstance(steps, int) or steps < 0:
            raise SnapshotError(f"crash copy: the trainer's counters are damaged: {counters!r}")
        own = self._moments()
        check_tensors(moments, own, what="crash copy")
        for name, tensor in own.items():
            tensor.copy_(moments[name])
        for parameter in self._parameters.values():
            self._optimizer.state[parameter]["step"].fill_(float(steps))
        self._key, self._steps = key, steps

    def losses(self, examples: Sequence[Example]) -> list[float]:
        """Returns each row's mean loss per token that carries loss, in nats, without dropout.

        Weights, moments, counters, random state and the model's mode stay as they are. Rows that
        share a forward pass change a result by rounding alone.

        Raises:
            TrainError: a row has no loss, a loss is not finite, or memory ran out.
        """
        self._check_rows(examples)
        batches = self._in_batches(examples)
        with self._memory_advice(), evaluating(self._model):
            parts = [row_losses(self._model, self._collate(examples, of)) for of in batches]
            sums = as_given(torch.cat(parts).tolist() if parts else [], batches)
        self._check_finite(examples, sums)
        return [loss / e.trained_tokens for e, loss in zip(examples, sums, strict=True)]

    def log_probabilities(self, sequences: Sequence[Row]) -> list[tuple[float, ...]]:
        """Returns natural-log probabilities of the continuations of (prompt, continuation) pairs.

        Raises:
            TrainError: memory ran out.
        """
        rows = self._settings.per_device_train_batch_size
        with self._memory_advice():
            return log_probabilities(self._model, sequences, batch_rows=rows)

    def peak_bytes(self) -> int:
        """Returns the most memory used so far: of the GPU by tensors, else of this process."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes

    def _accumulate(self, examples: Sequence[Example]) -> list[float]:
        """Adds up the step's gradient and returns each row's summed loss."""
        batches = self._in_batches(examples)
        trained_tokens = sum(example.trained_tokens for example in examples)
        self._model.train()
        sums = []
        with _own_generator(self._device) as generator:
            for micro, places in enumerate(batches):
                generator.manual_seed(seed_at(self._seed, self._key, self._steps, micro))
                losses = row_losses(self._model, self._collate(examples, places))
                (losses.sum() / trained_tokens).backward()
                sums.append(losses.detach())
        # one wait for the GPU a step, not one a micro-batch
        return as_given(torch.cat(sums).tolist(), batches)

    def _in_batches(self, examples: Sequence[Example]) -> list[list[int]]:
        rows = [(example.prompt, example.answer) for example in examples]
        return in_batches(rows, self._settings.per_device_train_batch_size)

    def _collate(self, examples: Sequence[Example], places: Sequence[int]) -> Batch:
        return collate_examples(
            [examples[place] for place in places],
            pad_id=self._pad_id,
            device=self._device,
            packed=self._packed,
        )

    def _gradient_norm(self) -> float:
        for parameter in self._parameters.values():
            if parameter.grad is None:  # unused in this step; its moments decay like the others'
                parameter.grad = torch.zeros_like(parameter)
        norms = [
            torch.linalg.vector_norm(parameter.grad, dtype=torch.float32)
            for parameter in self._parameters.values()
        ]
        return float(torch.linalg.vector_norm(torch.stack(norms)))

    def _update(self, norm: float) -> float:
        """Clips, takes the optimizer step and returns its learning rate."""
        limit = self._settings.max_grad_norm
        if 0 < limit < norm:
            for parameter in self._parameters.values():
                if parameter.grad is not None:
                    parameter.grad.mul_(limit / norm)
        rate = lr_at(self._settings, self._steps)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        return rate

    def _moments(self) -> dict[str, torch.Tensor]:
        return {
            f"{moment}.{name}": self._optimizer.state[parameter][moment]
            for moment in _MOMENTS
            for name, parameter in self._parameters.items()
        }

    @property
    def _next_step(self) -> str:
        return f"step {self._steps + 1}"

    def _check_rows(self, examples: Sequence[Example]) -> None:
        for example in examples:
            name = f"{self._next_step}: {example.task} row {example.row}"
            if not example.prompt or not example.answer:
                part = "answer" if example.prompt else "prompt"
                raise TrainError(f"{name} has an empty {part}; a row needs a prompt and an answer")
            if example.trained_tokens < 1:
                raise TrainError(f"{name} has no token that carries loss; leave the row out")
            if (largest := max(*example.prompt, *example.answer)) >= self._vocabulary:
                raise TrainError(
                    f"{name} has token id {largest}, the model knows {self._vocabulary}; the "
                    "tokenizer is not its own"
                )

    def _check_finite(self, examples: Sequence[Example], sums: Sequence[float]) -> None:
        bad = [e for e, loss in zip(examples, sums, strict=True) if not math.isfinite(loss)]
        if bad:
            raise TrainError(
                f"{self._next_step}: the loss is not finite (nan or inf) on {_rows(bad)}; "
                "lower learning_rate, set max_grad_norm, or look at these rows"
            )

    def _check_not_zero(self, examples: Sequence[Example], sums: Sequence[float]) -> None:
        if not any(sums):
            raise TrainError(
                f"{self._next_step}: the loss is exactly zero on {_rows(examples)}; nothing "
                "can be learned from them: look for repeated rows, or lower learning_rate"
            )

    def _check_norm(self, examples: Sequence[Example], norm: float) -> None:
        if math.isfinite(norm):
            return
        name = next(
            name
            for name, parameter in self._parameters.items()
            if parameter.grad is None or not parameter.grad.isfinite().all()
        )
        raise TrainError(
            f"{self._next_step}: the gradient is not finite, first in {name!r}, on "
            f"{_rows(examples)}; lower learning_rate or train in float32"
        )

    @contextmanager
    def _memory_advice(self) -> Iterator[None]:
        """Turns running out of memory into advice; other errors pass."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._out_of_memory(error) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            raise self._out_of_memory(error) from error

    def _out_of_memory(self, error: Exception) -> TrainError:
        rows = self._settings.per_device_train_batch_size
        smaller = f"below {rows}" if rows > 1 else "(it is 1 already)"
        return TrainError(
            f"{self._next_step}: out of memory on {self._device.type} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); lower "
            f"per_device_train_batch_size {smaller} (results stay the same), set "
            "gradient_checkpointing = true, lower max_length, or tune with LoRA"
        )


def _adamw(
    parameters: Mapping[str, torch.nn.Parameter], settings: TrainSettings
) -> torch.optim.AdamW:
    """Returns AdamW with its moments laid out as zeros, so that they exist before step 1.

    ``fused`` is the one kernel that computes in float32 for bfloat16 weights too; its result does
    not depend on how parameters are grouped.
    """
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    for parameter in parameters.values():
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        moments = {moment: torch.zeros_like(parameter.detach()) for moment in _MOMENTS}
        optimizer.state[parameter] = {"step": step, **moments}
    return optimizer


@contextmanager
def _own_generator(device: torch.device) -> Iterator[torch.Generator]:
    """Yields the generator that dropout on ``device`` draws from, and puts its state back."""
    if device.type == "cpu":
        generator = torch.default_generator
    else:
        torch.cuda.init()
        generator = torch.cuda.default_generators[device.index or 0]
    state = generator.get_state()
    try:
        yield generator
    finally:
        generator.set_state(state)


def _by_task(examples: Sequence[Example], sums: Sequence[float]) -> dict[str, TokenLoss]:
    losses: dict[str, TokenLoss] = {}
    for example, loss_sum in zip(examples, sums, strict=True):
        before = losses.get(example.task, TokenLoss(0.0, 0))
        losses[example.task] = TokenLoss(
            before.loss_sum + loss_sum, before.tokens + example.trained_tokens
        )
    return losses


def _rows(examples: Sequence[Example]) -> str:
    named = ", ".join(f"{e.task} row {e.row}" for e in examples[:_MOST_ROWS_NAMED])
    more = len(examples) - _MOST_ROWS_NAMED
    return f"{named} and {more} more rows" if more > 0 else named
