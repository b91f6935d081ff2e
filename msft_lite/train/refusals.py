"""What a step refuses: rows that cannot be trained on, and losses that nothing can be made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msft_lite.data.task import Example
from msft_lite.errors import TrainError

_MOST_ROWS_NAMED = 8


def check_rows(examples: Sequence[Example], *, vocabulary: int, where: str) -> None:
    """Checks that every row has a prompt, a loss and tokens of the model.

    Args:
        examples: the rows of a step.
        vocabulary: token ids that the model has a logit for.
        where: names the step in a message.

    Raises:
        TrainError: naming the first row that has not.
    """
    for example in examples:
        name = f"{where}: {example.task} row {example.row}"
        if not example.prompt or not example.answer:
            part = "answer" if example.prompt else "prompt"
            raise TrainError(f"{name} has an empty {part}; a row needs a prompt and an answer")
        if example.trained_tokens < 1:
            raise TrainError(f"{name} has no token that carries loss; leave the row out")
        if (largest := max(*example.prompt, *example.answer)) >= vocabulary:
            raise TrainError(
                f"{name} has token id {largest}, the model knows {vocabulary}; the "
                "tokenizer is not its own"
            )


def check_finite(examples: Sequence[Example], sums: Sequence[float], *, where: str) -> None:
    """Checks that the loss of every row is a finite number.

    Raises:
        TrainError: naming the rows whose loss is not.
    """
    bad = [e for e, loss in zip(examples, sums, strict=True) if not math.isfinite(loss)]
    if bad:
        raise TrainError(
            f"{where}: the loss is not finite (nan or inf) on {named_rows(bad)}; "
            "lower learning_rate, set max_grad_norm, or look at these rows"
        )


def check_not_zero(examples: Sequence[Example], sums: Sequence[float], *, where: str) -> None:
    """Checks that some row has a loss.

    Raises:
        TrainError: all losses are exactly zero.
    """
    if not any(sums):
        raise TrainError(
            f"{where}: the loss is exactly zero on {named_rows(examples)}; nothing "
            "can be learned from them: look for repeated rows, or lower learning_rate"
        )


def bad_gradient(name: str, examples: Sequence[Example], *, where: str) -> TrainError:
    """Returns the error of a gradient that is not finite, first in the parameter ``name``."""
    return TrainError(
        f"{where}: the gradient is not finite, first in {name!r}, on "
        f"{named_rows(examples)}; lower learning_rate or train in float32"
    )


def named_rows(examples: Sequence[Example]) -> str:
    """Returns the names of the first rows, and how many more there are."""
    named = ", ".join(f"{e.task} row {e.row}" for e in examples[:_MOST_ROWS_NAMED])
    more = len(examples) - _MOST_ROWS_NAMED
    return f"{named} and {more} more rows" if more > 0 else named
