"""In which order ways to make a step fit are taken: bytes by a formula, answers by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from msft_lite.model.memory.advice import Load
from msft_lite.model.memory.variants import fitting, intervals, variants

NOW = Load(
    per_device_train_batch_size=2,
    gradient_accumulation_steps=3,
    max_length=512,
    gradient_checkpointing=True,
    tuning="full",
    load_in_4bit=False,
    optim="adamw",
)
LAYERS = 4


def peak_of(load: Load) -> int:
    """100 of weights; of each row 10 a layer that is kept and 1 a layer that is computed again."""
    every = load.gradient_checkpointing
    again = -(-LAYERS // every) if every else 0
    return 100 + load.per_device_train_batch_size * (10 * (LAYERS - again) + again)


def told(free: int, *, layers: int | None, any_rows: bool) -> list[tuple[bool | int, int, int]]:
    groups = variants(NOW, layers=layers, any_rows=any_rows)
    return [
        (
            load.gradient_checkpointing,
            load.per_device_train_batch_size,
            load.gradient_accumulation_steps,
        )
        for load in fitting(groups, free_bytes=free, peak_of=peak_of)
    ]


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (1, (False, True)),
        (2, (False, 2, True)),
        (4, (False, 4, 3, 2, True)),
        (8, (False, 8, 4, 3, 2, True)),
        (28, (False, 28, 8, 4, 3, 2, True)),
    ],
)
def test_what_computes_least_again_comes_first(layers: int, found: tuple[bool | int, ...]) -> None:
    assert [str(k) for k in intervals(layers)] == [str(k) for k in found]  # 1 == True
    again = [-(-layers // k) if k else 0 for k in intervals(layers)]
    assert again == sorted(again)


def test_the_interval_is_chosen_for_the_rows_of_the_recipe() -> None:
    # Two rows take 180; with 4 of every four layers 162, with 3 and 2 144, with all 108.
    assert told(180, layers=LAYERS, any_rows=False)[0] == (False, 2, 3)
    assert told(179, layers=LAYERS, any_rows=False)[0] == (4, 2, 3)
    assert told(161, layers=LAYERS, any_rows=False)[0] == (3, 2, 3)
    assert told(143, layers=LAYERS, any_rows=False) == [(True, 2, 3)]
    assert told(107, layers=LAYERS, any_rows=False) == []


def test_the_rows_are_chosen_for_the_interval_of_the_recipe() -> None:
    # A row takes 4; 4 and 5 rows do not divide the 6 of a step.
    rows = [(True, 6, 1), (True, 3, 2), (True, 2, 3), (True, 1, 6)]
    assert told(124, layers=None, any_rows=True) == rows
    assert told(123, layers=None, any_rows=True) == rows[1:]
    assert told(103, layers=None, any_rows=True) == []


def test_of_both_the_interval_goes_first() -> None:
    # One row takes 140 with nothing computed again, and all six 124 with everything.
    assert told(140, layers=LAYERS, any_rows=True)[0] == (False, 1, 6)
    assert told(139, layers=LAYERS, any_rows=True)[0] == (4, 1, 6)  # 131
    assert told(129, layers=LAYERS, any_rows=True)[0] == (3, 1, 6)  # 122
    assert told(121, layers=LAYERS, any_rows=True)[0] == (True, 3, 2)  # 112


def test_a_group_whose_fewest_rows_do_not_fit_is_asked_one_question() -> None:
    asked: list[Load] = []

    def counted(load: Load) -> int:
        asked.append(load)
        return peak_of(load)

    groups = variants(NOW, layers=LAYERS, any_rows=True)
    first = next(fitting(groups, free_bytes=124, peak_of=counted))
    assert first == replace(
        NOW,
        gradient_checkpointing=3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=6,
    )
    assert [load.per_device_train_batch_size for load in asked] == [1, 1, 1, 6, 3, 2, 1]
