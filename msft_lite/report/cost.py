"""What work cost in floating-point operations, told from counts of tokens and the model's rates."""

from __future__ import annotations

from dataclasses import dataclass

from msft_lite.report.fields import Fields
from msft_lite.report.spending import Spending, Work

FORMULA = """\
FLOPs of T tokens, A of which carry loss, in rows whose squared lengths add up to S:
forward and backward each take body x T + head x A + attention x S, with the rates of the start row.
The rates count the matrix products of this very model; 2, 4 and 6 operations a parameter and token
are what they come near to. Attention is counted dense; a causal kernel may do half.
Recomputed activations, probes and evaluation stand apart; rolled-back training counts.
Generation is counted without attention. Padding is not counted anywhere."""

_UNITS = ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs", "EFLOPs", "ZFLOPs")


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations of a token, of a token that carries loss, and of a squared token of a row.

    Attributes:
        body_recompute: of layers whose forward pass ran a second time in the backward pass.
        attention_recompute: of those layers.
        head_recompute: of logits that were computed a second time.
    """

    body_forward: int
    body_backward: int
    head_forward: int
    head_backward: int
    attention_forward: int
    attention_backward: int
    body_recompute: int = 0
    attention_recompute: int = 0
    head_recompute: int = 0


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations by what they were for.

    Attributes:
        model: of training, forward and backward; rolled-back stretches count.
        attention: the part of ``model`` that is the products of queries with keys and of weights
            with values.
        recompute: of activations that were computed a second time, in training and in probes.
        probe: of what a method looked at besides: losses of rows, virtual steps.
        evaluation: of scoring.
    """

    model: int = 0
    attention: int = 0
    recompute: int = 0
    probe: int = 0
    evaluation: int = 0

    @property
    def total(self) -> int:
        """All of them, as the hardware sees it; attention is in ``model`` already."""
        return self.model + self.recompute + self.probe + self.evaluation

    def __add__(self, other: Flops) -> Flops:
        """Returns both together."""
        return Flops(
            self.model + other.model,
            self.attention + other.attention,
            self.recompute + other.recompute,
            self.probe + other.probe,
            self.evaluation + other.evaluation,
        )


def rates_of(start: Fields) -> Rates | None:
    """Returns the rates that a start row gives, or None where it gives none.

    Raises:
        LedgerError: a rate is missing or of another type.
    """
    if start.values.get("flops") is None:
        return None
    fields = start.group("flops")
    body, attention = _layers_again(fields)
    return Rates(
        body_forward=fields.whole("body_forward"),
        body_backward=fields.whole("body_backward"),
        head_forward=fields.whole("head_forward"),
        head_backward=fields.whole("head_backward"),
        attention_forward=fields.whole("attention_forward"),
        attention_backward=fields.whole("attention_backward"),
        body_recompute=body,
        attention_recompute=attention,
        head_recompute=_head_recompute(fields),
    )


def _layers_again(fields: Fields) -> tuple[int, int]:
    """Returns the rates of layers; ledgers of before it could be some say whether it is all."""
    if "recompute" not in fields.values:
        return fields.whole("body_recompute"), fields.whole("attention_recompute")
    if not fields.truth("recompute"):
        return 0, 0
    return fields.whole("body_forward"), fields.whole("attention_forward")


def _head_recompute(fields: Fields) -> int:
    """Returns the rate, 0 for ledgers of before logits were computed again."""
    return fields.whole("head_recompute") if "head_recompute" in fields.values else 0


def flops_of(rates: Rates, spending: Spending) -> Flops:
    """Returns what all of ``spending`` took."""
    generated = generated_flops(
        rates,
        prompt_tokens=spending.prompt_tokens,
        cached_tokens=spending.cached_tokens,
        generated_tokens=spending.generated_tokens,
    )
    return (
        trained_flops(rates, spending.trained)
        + read_flops(rates, spending.read)
        + probe_flops(rates, trained=spending.probed, read=spending.audited)
        + generated
    )


def trained_flops(rates: Rates, work: Work) -> Flops:
    """Returns what training on ``work`` took: forward, backward and what was recomputed."""
    return Flops(
        model=_forward(rates, work) + _backward(rates, work),
        attention=(rates.attention_forward + rates.attention_backward) * work.squared_tokens,
        recompute=_again(rates, work),
    )


def read_flops(rates: Rates, work: Work) -> Flops:
    """Returns what scoring ``work`` by its loss took, which is forward alone."""
    return Flops(evaluation=_forward(rates, work))


def generated_flops(
    rates: Rates, *, prompt_tokens: int, cached_tokens: int, generated_tokens: int
) -> Flops:
    """Returns what answering questions took; attention is left out.

    Args:
        rates: of the model.
        prompt_tokens: of all questions.
        cached_tokens: those of them whose layers were served from a cache.
        generated_tokens: of all answers; the head runs for these alone.
    """
    tokens = prompt_tokens - cached_tokens + generated_tokens
    return Flops(evaluation=rates.body_forward * tokens + rates.head_forward * generated_tokens)


def probe_flops(rates: Rates, *, trained: Work, read: Work) -> Flops:
    """Returns what a probe took: ``trained`` forward and backward, ``read`` forward alone."""
    return Flops(
        recompute=_again(rates, trained),
        probe=_forward(rates, trained) + _backward(rates, trained) + _forward(rates, read),
    )


def flops_text(value: float) -> str:
    """Returns operations with three digits, as ``1.23 PFLOPs`` or ``-45.6 GFLOPs``."""
    amount, unit = abs(value), 0
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    digits = 0 if unit == 0 or amount >= 99.95 else 1 if amount >= 9.995 else 2
    sign = "-" if value < 0 else ""
    return f"{sign}{amount:.{digits}f} {_UNITS[unit]}"


def _forward(rates: Rates, work: Work) -> int:
    return (
        rates.body_forward * work.tokens
        + rates.head_forward * work.answer_tokens
        + rates.attention_forward * work.squared_tokens
    )


def _backward(rates: Rates, work: Work) -> int:
    return (
        rates.body_backward * work.tokens
        + rates.head_backward * work.answer_tokens
        + rates.attention_backward * work.squared_tokens
    )


def _again(rates: Rates, work: Work) -> int:
    return (
        rates.body_recompute * work.tokens
        + rates.head_recompute * work.answer_tokens
        + rates.attention_recompute * work.squared_tokens
    )
