"""How answers become scores, with an engine of a few lines in place of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from msft_lite.core import Score
from msft_lite.data.grade import grader
from msft_lite.data.metric import build_metric
from msft_lite.data.task import Options, Question, Task
from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.canary import FLOAT32, Canary
from msft_lite.errors import EngineError, EngineLostError
from msft_lite.model.weights import Weights
from msft_lite.run.evaluator import Answers

WEIGHTS = Weights("adapter", {})
SNAPSHOT = "0123456789abcdef"


class Parrot:
    """Answers a prompt with its last token; fails as it is told to."""

    name = "parrot"

    def __init__(self, *failures: EngineError) -> None:
        self.failures = list(failures)
        self.notices: tuple[str, ...] = ("one notice",)
        self.swapped: list[str] = []
        self.closed = False

    def ready(self) -> bool:
        return True

    @contextmanager
    def awake(self) -> Iterator[None]:
        yield

    def swap(self, weights: Weights, label: str) -> None:
        self.swapped.append(label)

    def complete(
        self, prompts: Sequence[Prompt], *, log_probabilities: bool = False
    ) -> list[Completion]:
        if log_probabilities:  # the canary
            return [Completion(prompt.ids[-1:], (-1.0,)) for prompt in prompts]
        if self.failures:
            raise self.failures.pop(0)
        return [self.answer(prompt) for prompt in prompts]

    def answer(self, prompt: Prompt) -> Completion:
        """Likes the candidate that is nearest to the prompt's sum, the lower of two as near."""
        if not prompt.candidates:
            return Completion(prompt.ids[-1:], (), 2)
        values = tuple(-float(abs(sum(prompt.ids) - token)) for token in prompt.candidates)
        return Completion((), values, 2)

    def close(self) -> None:
        self.closed = True


def task() -> Task:
    questions = tuple(Question("t", row, (8, row), gold) for row, gold in enumerate("00234"))
    metric = build_metric("accuracy", grader("exact"))
    return Task("t", (), questions, questions, 1, metric, "digest")


def answers_of(*engines: Parrot) -> Answers:
    waiting = iter(engines)
    canary = Canary(
        [(1, 2)], tolerance=FLOAT32, log_probabilities=lambda pairs: [[-1.0] for _ in pairs]
    )
    return Answers(lambda: next(waiting), canary, decode=lambda ids: "".join(map(str, ids)))


def test_what_gives_way_to_the_engine_does_so_while_it_is_awake_also_if_it_is_lost() -> None:
    told: list[str] = []

    class Told(Parrot):
        def swap(self, weights: Weights, label: str) -> None:
            told.append("swap")
            if len(told) == 2:
                raise EngineLostError("gone")

    @contextmanager
    def meanwhile() -> Iterator[None]:
        told.append("away")
        try:
            yield
        finally:
            told.append("back")

    waiting = iter([Told(), Told()])
    canary = Canary(
        [(1, 2)], tolerance=FLOAT32, log_probabilities=lambda pairs: [[-1.0] for _ in pairs]
    )
    answers = Answers(lambda: next(waiting), canary, decode=str, meanwhile=meanwhile)
    answers.score(Weights("full", {}), "s1", asked())
    assert told == ["away", "swap", "back"] * 2


def asked() -> list[tuple[Task, Sequence[Question]]]:
    return [(task(), task().control)]


def test_answers_are_graded_and_counted() -> None:
    found = answers_of(Parrot()).score(WEIGHTS, SNAPSHOT, asked())
    assert found.scores == {"t": Score("10111")}
    assert found.answers == {"t": ("0", "1", "2", "3", "4")}
    assert (found.prompt_tokens, found.cached_tokens, found.generated_tokens) == (10, 10, 5)


def test_the_likeliest_option_is_the_answer_and_the_first_of_equals() -> None:
    options = Options((4,), (7, 9, 5))
    golds = {0: "45", 4: "47", 2: "47", 5: "49"}  # prompt and shared token sum to 4, 8, 6, 9
    questions = [Question("t", row, (row,), gold, None, options) for row, gold in golds.items()]
    found = answers_of(Parrot()).score(WEIGHTS, SNAPSHOT, [(task(), questions)])
    assert found.answers == {"t": ("45", "47", "47", "49")}
    assert found.scores == {"t": Score("1111")}
    assert (found.prompt_tokens, found.generated_tokens) == (8, 4)


def test_a_lost_engine_is_replaced_once_and_everything_asked_again() -> None:
    first, second = Parrot(EngineLostError("it died at complete\n  more")), Parrot()
    answers = answers_of(first, second)
    assert answers.score(WEIGHTS, SNAPSHOT, asked()).scores == {"t": Score("10111")}
    assert first.closed
    assert not second.closed
    assert second.swapped == [SNAPSHOT]
    assert answers.notices == (
        "one notice",
        "while snapshot 0123456789ab was scored: it died at complete; a new engine starts over "
        "with it",
        "one notice",
    )


def test_a_second_loss_at_the_same_snapshot_ends_it() -> None:
    lost = [EngineLostError("it hangs"), EngineLostError("it hangs again")]
    answers = answers_of(Parrot(lost[0]), Parrot(lost[1]), Parrot())
    with pytest.raises(EngineLostError, match="hangs again"):
        answers.score(WEIGHTS, SNAPSHOT, asked())


def test_another_failure_of_the_engine_is_not_tried_again() -> None:
    answers = answers_of(Parrot(EngineError("a token id outside the vocabulary")), Parrot())
    with pytest.raises(EngineError, match="outside the vocabulary"):
        answers.score(WEIGHTS, SNAPSHOT, asked())
