"""Scores one set of weights on the questions of every task, through the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msft_lite.core import Score
from msft_lite.data.task import Question, Task
from msft_lite.engine.base import EvalEngine, Prompt
from msft_lite.engine.canary import Canary
from msft_lite.model.weights import Weights


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores per task, and what they cost."""

    scores: Mapping[str, Score]
    generated_tokens: int
    swap_seconds: float
    generate_seconds: float


class Evaluator:
    """Swaps weights into the engine, checks them there, generates and grades."""

    def __init__(
        self,
        engine: EvalEngine,
        canary: Canary,
        *,
        tasks: Sequence[Task],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """Takes the parts; ``decode`` turns generated ids into the text that graders see."""
        self.engine = engine
        self._canary = canary
        self._tasks = tasks
        self._decode = decode

    def control(self, weights: Weights, label: str) -> Evaluation:
        """Returns the scores of ``weights`` on the control rows.

        The trainer must hold the same weights: the canary compares the two.
        """
        return self._evaluate(weights, label, [task.control for task in self._tasks])

    def report(self, weights: Weights, label: str) -> Evaluation:
        """Returns the scores of ``weights`` on the report rows; as `control` otherwise."""
        return self._evaluate(weights, label, [task.report for task in self._tasks])

    def _evaluate(
        self, weights: Weights, label: str, splits: Sequence[Sequence[Question]]
    ) -> Evaluation:
        with self.engine.awake():
            start = time.monotonic()
            self.engine.swap(weights, label)
            self._canary.check(self.engine, label)
            swapped = time.monotonic()
            answers = self.engine.complete(self._prompts(splits))
            generated = time.monotonic()
        texts = iter([self._decode(answer.ids) for answer in answers])
        scores = {
            task.name: Score("".join(str(int(task.grade(next(texts), q.gold))) for q in questions))
            for task, questions in zip(self._tasks, splits, strict=True)
        }
        tokens = sum(len(answer.ids) for answer in answers)
        return Evaluation(scores, tokens, swapped - start, generated - swapped)

    def _prompts(self, splits: Sequence[Sequence[Question]]) -> list[Prompt]:
        return [
            Prompt(question.prompt, task.max_new_tokens)
            for task, questions in zip(self._tasks, splits, strict=True)
            for question in questions
        ]
