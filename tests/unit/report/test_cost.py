from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from msft_lite.errors import LedgerError
from msft_lite.report.cost import (
    FORMULA,
    Flops,
    Rates,
    flops_text,
    generated_flops,
    probe_flops,
    rates_of,
    read_flops,
    trained_flops,
)
from msft_lite.report.fields import Fields
from msft_lite.report.spending import Work, work_of

# Every rate is another power of ten, so that each digit of a sum says what went into it.
RATES = Rates(
    body_forward=1,
    body_backward=10,
    head_forward=100,
    head_backward=1_000,
    attention_forward=10_000,
    attention_backward=100_000,
)
CHECKPOINTED = replace(RATES, body_recompute=1, attention_recompute=10_000)
WORK = Work(tokens=7, answer_tokens=3, squared_tokens=5)


def fields(values: dict[str, Any]) -> Fields:
    return Fields(values, "ledger.jsonl, line 1")


def test_work_adds_up() -> None:
    assert WORK + Work(10, 20, 30) == Work(17, 23, 35)
    assert sum([WORK, WORK], Work()) == Work(14, 6, 10)


def test_training_is_forward_and_backward() -> None:
    assert trained_flops(RATES, WORK) == Flops(model=553_377, attention=550_000)


def test_recomputed_activations_stand_apart_and_leave_out_the_head() -> None:
    found = trained_flops(CHECKPOINTED, WORK)
    assert found == Flops(model=553_377, attention=550_000, recompute=50_007)


def test_layers_that_are_not_computed_again_are_left_out() -> None:
    half = replace(RATES, body_recompute=2, attention_recompute=4_000)
    assert trained_flops(half, WORK).recompute == 2 * 7 + 4_000 * 5


def test_logits_that_are_computed_again_count_with_what_is_recomputed() -> None:
    rates = replace(RATES, head_recompute=1_000_000)
    assert trained_flops(rates, WORK) == Flops(
        model=553_377, attention=550_000, recompute=3_000_000
    )
    both = replace(CHECKPOINTED, head_recompute=1_000_000)
    assert trained_flops(both, WORK).recompute == 3_050_007
    assert read_flops(both, WORK) == Flops(evaluation=50_307)


def test_reading_is_forward_alone_and_never_recomputes() -> None:
    assert read_flops(RATES, WORK) == Flops(evaluation=50_307)
    assert read_flops(CHECKPOINTED, WORK) == Flops(evaluation=50_307)


def test_generation_passes_what_is_not_cached_and_asks_the_head_for_new_tokens_alone() -> None:
    found = generated_flops(RATES, prompt_tokens=50, cached_tokens=30, generated_tokens=4)
    assert found == Flops(evaluation=24 + 400)


def test_a_probe_counts_what_it_trained_and_what_it_read() -> None:
    found = probe_flops(RATES, trained=WORK, read=Work(1, 1, 1))
    assert found == Flops(probe=553_377 + 10_101)
    found = probe_flops(CHECKPOINTED, trained=WORK, read=Work(1, 1, 1))
    assert found == Flops(probe=553_377 + 10_101, recompute=50_007)


def test_flops_add_up_and_attention_is_counted_once() -> None:
    found = Flops(1, 2, 3, 4, 5) + Flops(10, 20, 30, 40, 50)
    assert found == Flops(model=11, attention=22, recompute=33, probe=44, evaluation=55)
    assert found.total == 11 + 33 + 44 + 55


@pytest.mark.parametrize("rates", [RATES, CHECKPOINTED])
def test_rates_are_read_from_the_start_row(rates: Rates) -> None:
    assert rates_of(fields({"flops": asdict(rates)})) == rates


@pytest.mark.parametrize(("recompute", "rates"), [(False, RATES), (True, CHECKPOINTED)])
def test_ledgers_of_before_say_whether_all_layers_are_computed_again(
    recompute: bool, rates: Rates
) -> None:
    old = {name: value for name, value in asdict(RATES).items() if "recompute" not in name}
    assert rates_of(fields({"flops": old | {"recompute": recompute}})) == rates


@pytest.mark.parametrize("row", [{}, {"flops": None}])
def test_a_row_without_rates_leaves_them_unknown(row: dict[str, Any]) -> None:
    assert rates_of(fields(row)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body_forward": -1}, r"flops.body_forward = -1 is not a whole number of 0 or more"),
        ({"head_backward": 1.5}, r"flops.head_backward = 1.5 is not a whole number"),
        ({"recompute": 1}, r"flops.recompute = 1 is not true or false"),
    ],
)
def test_damaged_rates_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LedgerError, match=message):
        rates_of(fields({"flops": asdict(RATES) | change}))


def test_logits_are_not_computed_again_where_a_ledger_does_not_say_so() -> None:
    rates = {name: value for name, value in asdict(RATES).items() if name != "head_recompute"}
    assert rates_of(fields({"flops": rates})) == RATES


@pytest.mark.parametrize("key", sorted(set(asdict(RATES)) - {"head_recompute"}))
def test_a_missing_rate_is_named(key: str) -> None:
    rates = {name: value for name, value in asdict(RATES).items() if name != key}
    with pytest.raises(LedgerError, match=f"line 1: there is no flops.{key};"):
        rates_of(fields({"flops": rates}))


def test_work_is_read_from_a_row_and_zero_where_it_says_nothing() -> None:
    row = fields(
        {
            "trained_tokens": 7,
            "trained_answer_tokens": 3,
            "trained_squared_tokens": 5,
            "read_tokens": 2,
        }
    )
    assert work_of(row, "trained") == WORK
    assert work_of(row, "read") == Work(tokens=2)
    assert work_of(fields({}), "read") == Work()


def test_damaged_work_is_named() -> None:
    with pytest.raises(LedgerError, match="read_squared_tokens = 'x' is not a whole number"):
        work_of(fields({"read_squared_tokens": "x"}), "read")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 FLOPs"),
        (999, "999 FLOPs"),
        (1_000, "1.00 kFLOPs"),
        (1_234_567, "1.23 MFLOPs"),
        (9_996_000, "10.0 MFLOPs"),
        (45_600_000_000, "45.6 GFLOPs"),
        (99_960_000_000, "100 GFLOPs"),
        (999_400_000_000, "999 GFLOPs"),
        (999_600_000_000, "1.00 TFLOPs"),
        (1_230_000_000_000_000, "1.23 PFLOPs"),
        (-120_300_000_000_000_000, "-120 PFLOPs"),
        (5 * 10**18, "5.00 EFLOPs"),
        (1_234 * 10**21, "1234 ZFLOPs"),
    ],
)
def test_operations_are_written_with_three_digits(value: int, text: str) -> None:
    assert flops_text(value) == text


def test_the_formula_is_a_few_short_lines() -> None:
    lines = FORMULA.splitlines()
    assert 3 <= len(lines) <= 6
    assert all(0 < len(line) <= 100 for line in lines)
