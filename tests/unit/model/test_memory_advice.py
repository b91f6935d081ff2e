"""Which changes make a step fit: bytes by a formula, answers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

from msft_lite.model.memory.advice import Change, Load, advice

NOW = Load(
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    max_length=512,
    gradient_checkpointing=False,
    tuning="full",
    load_in_4bit=False,
    optim="adamw",
)
OPTIMS = ("adamw", "adamw_8bit")


def peak_of(load: Load) -> int:
    """100 of weights, 200 of moments, 100 of gradients; a row of 512 takes 40, or 10."""
    weights = 30 if load.load_in_4bit else 100
    trained = 0 if load.tuning == "lora" else 200 if load.optim.endswith("8bit") else 300
    row = 10 if load.gradient_checkpointing else 40
    return weights + trained + row * load.per_device_train_batch_size * load.max_length // 512


def told(free: int, now: Load = NOW, optims: tuple[str, ...] = OPTIMS) -> list[tuple[str, int]]:
    found = advice(now, free_bytes=free, peak_of=peak_of, optims=optims)
    return [("; ".join(change.lines), change.peak_bytes) for change in found]


def test_what_fits_needs_no_advice() -> None:
    assert told(720) == []  # 100 + 300 + 8 * 40


def test_every_single_change_that_suffices_is_told_cheapest_first() -> None:
    assert told(650) == [
        (
            "train.per_device_train_batch_size = 4; train.gradient_accumulation_steps = 4",
            560,
        ),
        ("model.gradient_checkpointing = true", 480),
        ('train.optim = "adamw_8bit"', 620),
        ("train.max_length = 384", 640),
        ('model.tuning = "lora"', 420),
        ('model.tuning = "lora"; model.load_in_4bit = true', 350),
    ]


def test_the_rows_of_a_step_stay() -> None:
    (change, *_) = advice(
        replace(NOW, per_device_train_batch_size=6, gradient_accumulation_steps=3),
        free_bytes=560,
        peak_of=peak_of,
    )
    # 5 and 4 do not divide 18; 3 rows take 400 + 120.
    assert change.load.per_device_train_batch_size == 3
    assert change.load.batch_rows == 18
    assert change.peak_bytes == 520


def test_cheap_changes_are_put_together_where_none_suffices_alone() -> None:
    # One row takes 440, checkpointing 480, 8-bit moments 620: only together below 420.
    assert told(419) == [
        (
            "train.per_device_train_batch_size = 1; train.gradient_accumulation_steps = 16; "
            "model.gradient_checkpointing = true",
            410,
        ),
        ('model.tuning = "lora"; model.load_in_4bit = true', 350),
    ]


def test_all_changes_together_are_the_last_resort() -> None:
    small = replace(NOW, tuning="lora")
    assert told(110, small) == [
        (
            "train.per_device_train_batch_size = 1; train.gradient_accumulation_steps = 16; "
            "model.gradient_checkpointing = true",
            110,
        )
    ]
    assert told(35, small) == [
        (
            "train.per_device_train_batch_size = 1; train.gradient_accumulation_steps = 16; "
            "train.max_length = 128; model.gradient_checkpointing = true; "
            "model.load_in_4bit = true",
            32,
        )
    ]
    assert told(31, small) == []


def test_an_optimizer_is_only_proposed_where_a_recipe_can_name_it() -> None:
    assert [lines for lines, _ in told(620, optims=("adamw",)) if "optim" in lines] == []
    assert 'train.optim = "adamw_8bit"' in [lines for lines, _ in told(620)]


def test_a_change_tells_the_recipe_that_it_makes() -> None:
    change = advice(NOW, free_bytes=480, peak_of=peak_of)[0]
    assert change == Change(
        ("train.per_device_train_batch_size = 2", "train.gradient_accumulation_steps = 8"),
        480,
        replace(NOW, per_device_train_batch_size=2, gradient_accumulation_steps=8),
    )
