"""Scores one set of weights on a split of every task: by the answers given under them, or by loss.

The scorer of answers starts its engine when it is first asked for, so that a run steered by losses
has none before its report is due, and a run that is reported in losses too never has one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol, TypeAlias

from msft_lite.core import MILLION, Score
from msft_lite.data.task import NO_TOKENS, Example, Question, Task, TokenCount
from msft_lite.engine.base import Completion, EvalEngine, Prompt
from msft_lite.engine.canary import Canary
from msft_lite.errors import DataError, EngineLostError
from msft_lite.model.weights import Weights

Split: TypeAlias = Literal["control", "report"]
Asked: TypeAlias = Sequence[tuple[Task, Sequence[Question]]]  # tasks, with rows of one split


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores per task, and what they cost.

    Attributes:
        generated_tokens: a question whose options are weighed counts one.
        prompt_tokens: of the questions; what checks the engine is not counted.
        swap_seconds: until the engine could answer; a new engine's start, where the first one was
            lost, and what that one had done are included.
        cached_tokens: those of them that the engine's prefix cache served.
        generate_seconds: of answering the questions, or of computing their losses.
        read: tokens of the rows whose losses were computed.
        answers: what was generated, per task in row order.
    """

    scores: Mapping[str, Score]
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    swap_seconds: float = 0.0
    generate_seconds: float = 0.0
    read: TokenCount = NO_TOKENS
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


class Scorer(Protocol):
    """A way to score weights."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should be told once; it may grow."""
        ...

    def ready(self) -> bool:
        """Starts what is needed and returns at once whether `score` can go without waiting."""
        ...

    def score(self, weights: Weights, label: str, asked: Asked) -> Evaluation:
        """Returns the scores of ``weights``; the trainer must hold the same weights.

        Args:
            weights: all trainable tensors.
            label: the snapshot's id, for messages.
            asked: what to score them on.
        """
        ...

    def close(self) -> None:
        """Ends what was started; may be called twice."""
        ...


class Evaluator:
    """Scores weights on the control rows, which steer, and on the report rows."""

    def __init__(self, tasks: Sequence[Task], *, control: Scorer, report: Scorer) -> None:
        """Takes the scorer of each split; they may be one and the same."""
        self._scorers: Mapping[Split, Scorer] = {"control": control, "report": report}
        self._asked: Mapping[Split, Asked] = {
            "control": [(task, task.control) for task in tasks],
            "report": [(task, task.report) for task in tasks],
        }

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should be told once, in the order in which it came up; it may grow."""
        found = [notice for scorer in self._scorers.values() for notice in scorer.notices]
        return tuple(dict.fromkeys(found))

    def ready(self, split: Split) -> bool:
        """Starts what ``split`` needs and returns at once whether it can be scored at once.

        Raises:
            EngineError: the engine failed to start.
        """
        return self._scorers[split].ready()

    def evaluate(
        self, split: Split, weights: Weights, label: str, tasks: Collection[str]
    ) -> Evaluation:
        """Returns the scores of ``weights``, which the trainer must hold too, on ``split``.

        Args:
            split: name of the split.
            weights: all trainable tensors.
            label: the snapshot's id, for messages.
            tasks: names of those to score.

        Raises:
            EngineError: the engine failed, or does not hold the trainer's weights.
            TrainError: a loss is not finite, or memory ran out.
            DataError: a metric of the user's own failed.
        """
        asked = [(task, rows) for task, rows in self._asked[split] if task.name in tasks]
        return self._scorers[split].score(weights, label, asked)

    def close(self) -> None:
        """Ends what was started; may be called twice."""
        for scorer in self._scorers.values():
            scorer.close()


class Answers:
    """Swaps weights into the engine, checks them there, generates, and asks each task's metric."""

    def __init__(
        self,
        open_engine: Callable[[], EvalEngine],
        canary: Canary,
        *,
        decode: Callable[[Sequence[int]], str],
        meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Takes the parts; no engine is started.

        Args:
            open_engine: starts the engine; called once, when it is first needed.
            canary: compares engine and trainer after every swap.
            decode: turns generated ids into the text that metrics see.
            meanwhile: what holds while the engine is awake, such as memory that gives way to it.
        """
        self._open_engine = open_engine
        self._canary = canary
        self._decode = decode
        self._meanwhile = meanwhile
        self._opened: EvalEngine | None = None
        self._past_notices: tuple[str, ...] = ()  # of engines that were lost

    @property
    def notices(self) -> tuple[str, ...]:
        """The engine's, those of lost ones included."""
        return self._past_notices + (() if self._opened is None else self._opened.notices)

    def ready(self) -> bool:
        """Starts the engine if it is not yet, and returns at once whether it is up.

        Raises:
            EngineError: it failed to start.
        """
        return self._engine().ready()

    def score(self, weights: Weights, label: str, asked: Asked) -> Evaluation:
        """Returns what the answers under ``weights`` are worth.

        An engine that is lost on the way is replaced, and everything asked again, once.

        Raises:
            EngineLostError: the new engine was lost, too.
            EngineError: the engine failed, or does not hold the trainer's weights.
            DataError: a metric of the user's own failed.
        """
        start = time.monotonic()
        try:
            return self._answered(weights, label, asked, start)
        except EngineLostError as error:
            self._replace_engine(label, error)
            return self._answered(weights, label, asked, start)

    def _answered(self, weights: Weights, label: str, asked: Asked, start: float) -> Evaluation:
        engine = self._engine()
        questions = [question for _, rows in asked for question in rows]
        prompts = [prompt_of(task, question) for task, rows in asked for question in rows]
        with self._meanwhile(), engine.awake():
            engine.swap(weights, label)
            self._canary.check(engine, label)
            swapped = time.monotonic()
            answers = engine.complete(prompts)
            generated = time.monotonic()
        pairs = zip(questions, answers, strict=True)
        decoded = iter([self._decode(_chosen(question, answer)) for question, answer in pairs])
        texts = {task.name: tuple(islice(decoded, len(rows))) for task, rows in asked}
        return Evaluation(
            {task.name: _worth(task, rows, texts[task.name]) for task, rows in asked},
            generated_tokens=sum(len(answer.ids) or 1 for answer in answers),
            prompt_tokens=sum(len(prompt.ids) for prompt in prompts),
            cached_tokens=sum(answer.cached_tokens for answer in answers),
            swap_seconds=swapped - start,
            generate_seconds=generated - swapped,
            answers=texts,
        )

    def close(self) -> None:
        """Ends the engine if it was started."""
        if self._opened is not None:
            self._opened.close()

    def _replace_engine(self, label: str, error: EngineLostError) -> None:
        what = str(error).splitlines()[0]
        notice = f"while snapshot {label[:12]} was scored: {what}; a new engine starts over with it"
        self._past_notices = (*self.notices, notice)
        self.close()
        self._opened = None

    def _engine(self) -> EvalEngine:
        if self._opened is None:
            self._opened = self._open_engine()
        return self._opened


class Losses:
    """Scores by the trainer's own loss on the rows; there is nothing to start or to swap.

    A row is worth minus its mean loss per trained token. Rows without an example are left out.
    """

    notices: tuple[str, ...] = ()

    def __init__(self, losses: Callable[[Sequence[Example]], list[float]]) -> None:
        """Takes what computes the loss of each row under the weights that the trainer holds."""
        self._losses = losses

    def ready(self) -> bool:
        """Returns True."""
        return True

    def score(self, weights: Weights, label: str, asked: Asked) -> Evaluation:
        """Returns the losses; the weights are those that the trainer holds.

        Raises:
            TrainError: a loss is not finite, or memory ran out.
        """
        start = time.monotonic()
        examples = {task.name: loss_rows(rows) for task, rows in asked}
        every = [example for rows in examples.values() for example in rows]
        losses = iter(self._losses(every))
        scores = {
            name: Score(worth=tuple(-round(next(losses) * MILLION) for _ in rows))
            for name, rows in examples.items()
        }
        seconds = time.monotonic() - start
        return Evaluation(scores, generate_seconds=seconds, read=TokenCount.of(every))

    def close(self) -> None:
        """Does nothing."""


def prompt_of(task: Task, question: Question) -> Prompt:
    """Returns what the engine is asked for ``question``."""
    options = question.options
    if options is None:
        return Prompt(question.prompt, task.max_new_tokens)
    return Prompt(question.prompt + options.shared, 1, options.letters)


def _chosen(question: Question, answer: Completion) -> tuple[int, ...]:
    """Returns what was written, or the likeliest option, the first of equals."""
    options = question.options
    if options is None:
        return answer.ids
    weighed = zip(answer.log_probabilities, options.letters, strict=True)
    _, letter = max(weighed, key=lambda pair: pair[0])
    return (*options.shared, letter)


def loss_rows(questions: Sequence[Question]) -> list[Example]:
    """Returns the rows of ``questions`` whose loss can be computed."""
    return [question.example for question in questions if question.example is not None]


def _worth(task: Task, questions: Sequence[Question], texts: Sequence[str]) -> Score:
    try:
        worth = [
            task.metric.worth(text, question.gold)
            for text, question in zip(texts, questions, strict=True)
        ]
    except DataError as error:
        raise DataError(f"task {task.name!r}: {error}") from None
    if task.metric.is_graded:
        return Score(worth=tuple(round(one * MILLION) for one in worth))
    return Score("".join("1" if one else "0" for one in worth))
