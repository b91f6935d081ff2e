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
from msft_lite.model.batch import HostBatch, Row, as_given, in_batches, lay_out_examples
from msft_lite.model.load import apply, capture, trainable_parameters
from msft_lite.model.loss import evaluating, log_probabilities, row_losses, vocabulary_size
from msft_lite.model.loss_kernel import CHUNKED, LossKernel
from msft_lite.model.memory.exhausted import told_out_of_memory
from msft_lite.model.packing import takes_packed_rows
from msft_lite.model.weights import Weights
from msft_lite.train.determinism import deterministic
from msft_lite.train.in_backward import BackwardStep
from msft_lite.train.optimizer import Optimizer, Turn, total_norm
from msft_lite.train.refusals import bad_gradient, check_finite, check_not_zero, check_rows
from msft_lite.train.settings import TrainSettings, lr_at, seed_at

_TORN = ("weights", "moments")


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
    """Owns a model's trainable weights, an optimizer with its moments, and two counters.

    Every method leaves the global random generators as it found them, and what it computes does
    not depend on them. On the CPU a step is bitwise reproducible for one number of threads, on a
    GPU with ``deterministic``; whatever else the process allows torch is put back after each call.

    A step that fails while parameters are updated may have updated some and others not. With
    ``optimizer_in_backward`` that can come of a gradient that is not finite: parameters of later
    layers have been updated then. Otherwise it takes an interrupt, or too little memory. The
    trainer then refuses every further step until the weights have been put back by `load`, and the
    moments by `restore_state` or `renew`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        settings: TrainSettings,
        *,
        seed: int,
        pad_id: int,
        loss_kernel: LossKernel = CHUNKED,
    ) -> None:
        """Starts with zero moments under the key ``""``.

        Args:
            model: as `load_model` returns it.
            settings: of the optimizer.
            seed: of dropout and stochastic rounding.
            pad_id: token id that fills rows up; any valid one, since nothing looks at it.
            loss_kernel: as `resolve_loss_kernel` returns it for ``model``.

        Raises:
            TrainError: the optimizer needs a library or a GPU that is not there.
        """
        self._model = model
        self._settings = settings
        self._seed = seed
        self._pad_id = pad_id
        self._loss_kernel = loss_kernel
        self._parameters = trainable_parameters(model)
        self._vocabulary = vocabulary_size(model)
        self._packed = takes_packed_rows(model)
        self._device = next(iter(self._parameters.values())).device
        self._optimizer = Optimizer(self._parameters, settings, seed=seed)
        self._key = ""
        self._steps = 0
        self._torn: set[str] = set()  # what a step is updating, or left half updated

    @property
    def steps(self) -> int:
        """Optimizer steps done since `renew`."""
        return self._steps

    @property
    def loss_kernel(self) -> LossKernel:
        """How losses of training rows are computed."""
        return self._loss_kernel

    def load(self, weights: Weights) -> None:
        """Replaces the trainable weights in place; moments and counters stay.

        Raises:
            SnapshotError: the weights are of another model or tuning.
        """
        apply(self._model, weights)
        self._torn.discard("weights")

    def capture(self) -> Weights:
        """Returns copies of the trainable weights on the host."""
        return capture(self._model)

    def renew(self, key: str) -> None:
        """Starts a new optimizer: zero moments, no steps done, all chance drawn from ``key``."""
        self._optimizer.zero()
        self._key = key
        self._steps = 0
        self._torn.discard("moments")

    def step(self, examples: Sequence[Example]) -> StepResult:
        """Trains one optimizer step on ``examples``, in the order given.

        The loss is the mean over all tokens of the step that carry loss: it is divided once, so
        that the split into micro-batches does not matter beyond rounding.

        Raises:
            TrainError: a row cannot be trained on, the loss or the gradient is not finite, the
                loss is zero, or memory ran out. Weights, moments and counters are unchanged, but
                for what the class says. Or a step failed in that way before.
        """
        if not examples:
            raise TrainError(f"{self._next_step}: no rows to train on")
        self._check_whole()
        check_rows(examples, vocabulary=self._vocabulary, where=self._next_step)
        turn = Turn(self._key, self._steps, lr_at(self._settings, self._steps))
        try:
            with self._told_memory():
                if self._settings.optimizer_in_backward:
                    sums, norm = self._step_in_backward(examples, turn)
                else:
                    sums, norm = self._step_after_backward(examples, turn)
        finally:
            self._optimizer.forget_gradients()
        self._steps += 1
        return StepResult(_by_task(examples, sums), TokenCount.of(examples), norm, turn.rate)

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
            name: tensor.to("cpu", copy=True) for name, tensor in self._optimizer.tensors().items()
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
        self._optimizer.restore(moments)
        self._key, self._steps = key, steps
        self._torn.discard("moments")

    @contextmanager
    def parked(self) -> Iterator[None]:
        """Holds the moments on the host within the context; no step can be taken there."""
        self._optimizer.park()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            yield
        finally:
            self._optimizer.unpark()

    def losses(self, examples: Sequence[Example]) -> list[float]:
        """Returns each row's mean loss per token that carries loss, in nats, without dropout.

        Weights, moments, counters, random state and the model's mode stay as they are. Rows that
        share a forward pass change a result by rounding alone.

        Raises:
            TrainError: a row has no loss, a loss is not finite, or memory ran out.
        """
        check_rows(examples, vocabulary=self._vocabulary, where=self._next_step)
        batches = self._in_batches(examples)
        with self._told_memory(), evaluating(self._model):
            parts = [self._row_losses(self._laid_out(examples, of)) for of in batches]
            sums = as_given(torch.cat(parts).tolist() if parts else [], batches)
        check_finite(examples, sums, where=self._next_step)
        return [loss / e.trained_tokens for e, loss in zip(examples, sums, strict=True)]

    def log_probabilities(self, sequences: Sequence[Row]) -> list[tuple[float, ...]]:
        """Returns natural-log probabilities of the continuations of (prompt, continuation) pairs.

        Raises:
            TrainError: memory ran out.
        """
        rows = self._settings.per_device_train_batch_size
        with self._told_memory():
            return log_probabilities(self._model, sequences, batch_rows=rows)

    def peak_bytes(self) -> int:
        """Returns the most memory used so far: of the GPU by tensors, else of this process."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        unit_bytes = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes

    def _accumulate(
        self, examples: Sequence[Example], batches: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Adds up the step's gradient and returns each row's summed loss, in order of batches."""
        trained_tokens = sum(example.trained_tokens for example in examples)
        self._model.train()
        sums = []
        laid_out = (self._laid_out(examples, places) for places in batches)
        if self._device.type == "cuda":
            # All before the first pass, while the GPU still updates the weights of the step before:
            # from then on there is nothing but launches between one pass and the next.
            laid_out = list(laid_out)
        with _own_generator(self._device) as generator:
            for micro, batch in enumerate(laid_out):
                generator.manual_seed(seed_at(self._seed, self._key, self._steps, micro))
                losses = self._row_losses(batch)
                (losses.sum() / trained_tokens).backward()
                sums.append(losses.detach())
        return torch.cat(sums)

    def _in_batches(self, examples: Sequence[Example]) -> list[list[int]]:
        rows = [(example.prompt, example.answer) for example in examples]
        return in_batches(rows, self._settings.per_device_train_batch_size)

    def _laid_out(self, examples: Sequence[Example], places: Sequence[int]) -> HostBatch:
        return lay_out_examples(
            [examples[place] for place in places],
            pad_id=self._pad_id,
            device=self._device,
            packed=self._packed,
        )

    def _row_losses(self, batch: HostBatch) -> torch.Tensor:
        return row_losses(self._model, batch.on_device(), self._loss_kernel.token_losses)

    def _step_after_backward(
        self, examples: Sequence[Example], turn: Turn
    ) -> tuple[list[float], float]:
        """Takes a step once all gradients are there; returns each row's loss, and their norm."""
        batches = self._in_batches(examples)
        losses = self._accumulate(examples, batches)
        self._optimizer.complete_gradients()
        norms = self._optimizer.norms()
        # The only wait for the GPU in a step: what must be known before anything is updated.
        *sums, norm = torch.cat([losses, total_norm(norms.values())[None]]).tolist()
        sums = as_given(sums, batches)
        check_finite(examples, sums, where=self._next_step)
        check_not_zero(examples, sums, where=self._next_step)
        if not math.isfinite(norm):
            bad = [name for name, value in norms.items() if not value.isfinite()]
            name = bad[0] if bad else next(iter(norms))
            raise bad_gradient(name, examples, where=self._next_step)
        if 0 < self._settings.max_grad_norm < norm:
            self._optimizer.scale_gradients(self._settings.max_grad_norm / norm)
        self._torn = set(_TORN)
        self._optimizer.step(turn)
        self._torn.clear()
        return sums, norm

    def _step_in_backward(
        self, examples: Sequence[Example], turn: Turn
    ) -> tuple[list[float], float]:
        """Takes a step while gradients come; returns each row's loss, and the gradient's norm."""
        self._check_one_pass(examples)
        (places,) = self._in_batches(examples)

        def check(name: str, norm: float) -> None:
            if not math.isfinite(norm):
                raise bad_gradient(name, examples, where=self._next_step)
            self._torn = set(_TORN)

        step = BackwardStep(self._optimizer, turn, check=check)
        self._model.train()
        with _own_generator(self._device) as generator:
            generator.manual_seed(seed_at(self._seed, self._key, self._steps, 0))
            losses = self._row_losses(self._laid_out(examples, places))
            sums = as_given(losses.detach().tolist(), [places])
            check_finite(examples, sums, where=self._next_step)
            check_not_zero(examples, sums, where=self._next_step)
            norm = step.run(losses.sum() / sum(example.trained_tokens for example in examples))
        self._torn.clear()
        return sums, norm

    @property
    def _next_step(self) -> str:
        return f"step {self._steps + 1}"

    def _check_whole(self) -> None:
        if self._torn:
            raise TrainError(
                f"{self._next_step}: a step failed and left the "
                f"{' and the '.join(sorted(self._torn, reverse=True))} half updated; load a "
                "snapshot and renew or restore the optimizer first"
            )

    def _check_one_pass(self, examples: Sequence[Example]) -> None:
        rows = self._settings.per_device_train_batch_size
        if len(examples) > rows or self._settings.max_grad_norm > 0:
            raise TrainError(
                f"{self._next_step}: with optimizer_in_backward a step is one pass of at most "
                f"{rows} rows, without clipping; there are {len(examples)} rows and max_grad_norm "
                f"is {self._settings.max_grad_norm:g}"
            )

    @contextmanager
    def _told_memory(self) -> Iterator[None]:
        """Holds to the algorithms that are asked for; running out of memory is told as such."""
        with (
            told_out_of_memory(self._next_step, self._device.type),
            deterministic(self._next_step, on=self._settings.deterministic),
        ):
            yield


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
