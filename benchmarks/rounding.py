"""Held-out loss of full tuning under every way of rounding and every precision of the moments.

    python benchmarks/rounding.py [--steps 400] [--rates 1e-5 1e-4] [--recipe RECIPE]

The recipe's base is trained on all its tasks in one fixed order, five times a learning rate: in
float32, and in bfloat16 rounded stochastically and to nearest, with plain and with 8-bit moments.
Printed is the mean loss per token of the control rows, in nats.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from msft_lite.data.task import Example
from msft_lite.model.load import load_model, load_tokenizer
from msft_lite.model.settings import Dtype
from msft_lite.recipe import load
from msft_lite.run.build import build_tasks, model_settings
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

ROWS_PER_STEP = 16
SEED = 20


def settings_of(rate: float) -> dict[str, tuple[Dtype, TrainSettings]]:
    """Returns dtype of the weights and settings of the optimizer, by what is measured."""
    plain = TrainSettings(learning_rate=rate, per_device_train_batch_size=ROWS_PER_STEP)
    nearest = replace(plain, bf16_update="nearest")
    return {
        "float32": ("float32", plain),
        "bfloat16, stochastic, float32 moments": ("bfloat16", plain),
        "bfloat16, stochastic, 8-bit moments": ("bfloat16", replace(plain, optim="adamw_8bit")),
        "bfloat16, nearest, bfloat16 moments": ("bfloat16", nearest),
        "bfloat16, nearest, 8-bit moments": ("bfloat16", replace(nearest, optim="adamw_8bit")),
    }


def main() -> None:
    """Trains and prints a line a setting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4])
    parser.add_argument("--recipe", type=Path, default=Path("recipes/quickstart.toml"))
    arguments = parser.parse_args()
    recipe = load(arguments.recipe)
    model = replace(model_settings(recipe), tuning="full", device="cpu")
    tokenizer = load_tokenizer(model)
    tasks = build_tasks(recipe, tokenizer)
    rows = [row for task in tasks for row in task.train]
    held_out = [q.example for task in tasks for q in task.control if q.example is not None]
    for rate in arguments.rates:
        for name, (dtype, train) in settings_of(rate).items():
            started = time.monotonic()
            trainer = Trainer(
                load_model(replace(model, dtype=dtype), seed=SEED), train, seed=SEED, pad_id=0
            )
            before = mean_loss(trainer, held_out)
            train_on(trainer, rows, steps=arguments.steps)
            after = mean_loss(trainer, held_out)
            seconds = time.monotonic() - started
            print(
                f"rate {rate:g}, {name}: {before:.4f} -> {after:.4f} ({seconds:.0f} s)", flush=True
            )


def train_on(trainer: Trainer, rows: Sequence[Example], *, steps: int) -> None:
    """Takes ``steps`` steps on rows drawn in an order that is the same every time."""
    order = random.Random(SEED)
    for _ in range(steps):
        trainer.step(order.sample(rows, ROWS_PER_STEP))


def mean_loss(trainer: Trainer, rows: Sequence[Example]) -> float:
    """Returns the mean loss per token of ``rows``."""
    losses = trainer.losses(rows)
    total = sum(loss * row.trained_tokens for loss, row in zip(losses, rows, strict=True))
    return total / sum(row.trained_tokens for row in rows)


if __name__ == "__main__":
    main()
