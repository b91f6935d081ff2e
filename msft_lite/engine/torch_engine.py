"""Evaluation by the trainer's own model: slow, needs nothing, and the reference for the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.replaced import difference, replaced
from msft_lite.errors import EngineError
from msft_lite.model.load import trainable_parameters
from msft_lite.model.weights import Weights

Sequences = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]  # prompt, continuation


class TorchEngine:
    """Answers with a causal language model of transformers or peft that lives in this process.

    The model may be the one in training. Swapped weights are in it only while `complete` or
    `log_probabilities` runs; afterwards every parameter, every module's training mode and all
    random state are bitwise what they were.
    """

    name = "torch"

    def __init__(
        self, model: nn.Module, *, eos_ids: Sequence[int], pad_id: int, batch_size: int = 16
    ) -> None:
        """Wraps ``model``; ``pad_id`` may be any id of its vocabulary."""
        self._model = model
        self._eos_ids = frozenset(eos_ids)
        self._pad_id = pad_id
        self._batch_size = batch_size
        self._weights: Weights | None = None

    @property
    def notices(self) -> tuple[str, ...]:
        """Returns nothing: there is nothing to tell."""
        return ()

    def ready(self) -> bool:
        """Returns True."""
        return True

    def awake(self) -> AbstractContextManager[None]:
        """Returns a context that does nothing."""
        return nullcontext()

    def swap(self, weights: Weights, label: str) -> None:
        """Makes ``weights`` the ones that answer; they are referred to, not copied.

        Raises:
            EngineError: names or shapes are not those of the model's trainable tensors.
        """
        problem = difference(trainable_parameters(self._model), weights.tensors)
        if problem:
            raise EngineError(f"snapshot {label} does not fit the model: {problem}")
        self._weights = weights

    def complete(
        self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
    ) -> list[Completion]:
        """Returns one greedy completion per prompt, in the order of ``prompts``.

        Before the first swap the model answers as it is.

        Raises:
            EngineError: a prompt is empty or asks for no token, or memory ran out.
        """
        for index, prompt in enumerate(prompts):
            if not prompt.ids or prompt.max_new_tokens < 1:
                raise EngineError(
                    f"prompt {index} has {len(prompt.ids)} tokens and asks for "
                    f"{prompt.max_new_tokens} new ones: both must be at least 1"
                )
        results: dict[int, Completion] = {}
        weighed = [place for place, prompt in enumerate(prompts) if prompt.candidates]
        written = [place for place, prompt in enumerate(prompts) if not prompt.candidates]
        with self._borrowed():
            for asked, answer in ((written, self._generate), (weighed, self._weigh)):
                for chosen in self._batches([len(prompts[place].ids) for place in asked]):
                    places = [asked[index] for index in chosen]
                    batch = [prompts[place] for place in places]
                    results.update(zip(places, answer(batch), strict=True))
        if not log_probabilities:
            results |= {place: Completion(results[place].ids) for place in written}
        return [results[place] for place in range(len(prompts))]

    def log_probabilities(self, sequences: Sequences) -> list[list[float]]:
        """Returns the natural-log probability of every continuation token after its prompt.

        One forward pass without a cache over prompt and continuation: another path through the
        model than `complete`, so the two check each other.

        Raises:
            EngineError: memory ran out.
        """
        results: dict[int, list[float]] = {}
        with self._borrowed():
            for places in self._batches([len(a) + len(b) for a, b in sequences]):
                batch = [sequences[place] for place in places]
                results.update(zip(places, self._score(batch), strict=True))
        return [results[place] for place in range(len(sequences))]

    def close(self) -> None:
        """Forgets the swapped weights."""
        self._weights = None

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        # Longest first: rows of a batch are then alike, and too large a batch fails at once.
        places = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        for start in range(0, len(places), self._batch_size):
            yield places[start : start + self._batch_size]

    @contextmanager
    def _borrowed(self) -> Iterator[None]:
        """The model with the swapped weights, in evaluation mode, put back at the end."""
        training = [module for module in self._model.modules() if module.training]
        with self._memory_advice(), torch.no_grad(), replaced(self._model, self._weights):
            try:
                self._model.eval()
                yield
            finally:
                for module in training:
                    module.training = True  # train() would also reach children that were not

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

    def _out_of_memory(self, error: Exception) -> EngineError:
        why = (str(error) or type(error).__name__).splitlines()[0]
        advice = f"lower engine.batch_size below {self._batch_size}"
        if self._batch_size == 1:
            advice = "engine.batch_size is 1 already: lower eval.max_prompt_length"
        return EngineError(
            f"the torch engine ran out of memory on {self._device.type} ({why}); {advice}"
        )

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        rows = [_Row(prompt.max_new_tokens, self._eos_ids, [], []) for prompt in prompts]
        ids, mask = self._left_padded([prompt.ids for prompt in prompts])
        cache: Any = None
        running = rows
        while True:
            output = self._forward(ids, mask, cache, keep=1)
            cache = output.past_key_values
            values, chosen = _greedy(output.logits[:, -1])
            for row, token, value in zip(running, chosen.tolist(), values.tolist(), strict=True):
                row.take(token, value)
            left = [place for place, row in enumerate(running) if not row.finished]
            if not left:
                return [Completion(tuple(row.ids), tuple(row.values)) for row in rows]
            ids, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)
            if 2 * len(left) <= len(running):
                places = torch.tensor(left, device=ids.device)
                running, ids, mask = [running[place] for place in left], ids[places], mask[places]
                cache.reorder_cache(places)  # made for beams; every kind of layer has it

    def _weigh(self, prompts: Sequence[Prompt]) -> list[Completion]:
        ids, mask = self._left_padded([prompt.ids for prompt in prompts])
        table = self._forward(ids, mask, None, keep=1).logits[:, -1].float().log_softmax(-1)
        return [
            Completion((), tuple(row[list(prompt.candidates)].tolist()))
            for row, prompt in zip(table, prompts, strict=True)
        ]

    def _score(self, sequences: Sequences) -> list[list[float]]:
        ids, mask = self._left_padded([prompt + continuation for prompt, continuation in sequences])
        longest = max(len(continuation) for _, continuation in sequences)
        logits = self._forward(ids, mask, None, keep=longest + 1).logits[:, -longest - 1 : -1]
        table = logits.float().log_softmax(-1)
        values = table.gather(-1, ids[:, -longest:, None])[..., 0] if longest else ids[:, :0]
        return [
            row[longest - len(continuation) :].tolist()
            for row, (_, continuation) in zip(values, sequences, strict=True)
        ]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, *, keep: int) -> Any:
        """Runs the model on the last columns of ``mask``, of shape (B, T)."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )

    def _left_padded(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(sequence) for sequence in sequences)
        ids = [[self._pad_id] * (width - len(one)) + list(one) for one in sequences]
        mask = [[0] * (width - len(one)) + [1] * len(one) for one in sequences]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)


@dataclass(slots=True)
class _Row:
    """One text in the making."""

    max_new_tokens: int
    eos_ids: frozenset[int]
    ids: list[int]
    values: list[float]

    @property
    def finished(self) -> bool:
        return len(self.ids) == self.max_new_tokens or bool(
            self.ids and self.ids[-1] in self.eos_ids
        )

    def take(self, token: int, value: float) -> None:
        if not self.finished:
            self.ids.append(token)
            self.values.append(value)


def _greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns log probability and id of the likeliest token per row of (B, V)."""
    table = logits.float().log_softmax(-1)
    chosen = logits.argmax(-1)
    return table.gather(-1, chosen[:, None])[:, 0], chosen
