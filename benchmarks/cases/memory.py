"""Predicts the memory of a training step for six models, and what to choose for a GPU.

    python benchmarks/cases/memory.py [--json FILE] [--models NAME ...]

Nothing is downloaded, loaded or measured: models have shapes (`shapes.py`) and no numbers. Takes
about a quarter of an hour on one core for all six. FILE gets a record with the tables of
docs/memory.md and the parts of every prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from record import markdown, record, table, write
from shapes import configs
from transformers import PretrainedConfig

from msft_lite.model.memory.shadow import shadow_model
from msft_lite.model.memory.step import (
    StepBytes,
    StepShape,
    counted,
    moments_bytes,
    predicted,
)
from msft_lite.model.settings import ModelSettings, Tuning
from msft_lite.train.optimizer_bytes import optimizer_bytes

MODELS = (
    "Qwen2.5-0.5B", "OLMo-2-1B", "Qwen2.5-1.5B", "Qwen2.5-3B", "Qwen2.5-7B", "Qwen3-8B",
)  # fmt: skip
MODEL_OF_INTERVALS = "Qwen2.5-1.5B"
LENGTHS = (512, 1024, 2048)
LONG = (4096, 8192, 16_384)  # for a base in 4 bits, as far as the model takes them
CARDS_GB = (8, 12, 16, 24)  # of 2**30 bytes
SCREEN_BYTES = 500_000_000
TUNINGS: tuple[tuple[Tuning, bool], ...] = (("full", False), ("lora", False), ("lora", True))
FULL = {
    "full": optimizer_bytes("adamw", "bfloat16", is_stochastic=True),
    "full, nearest": optimizer_bytes("adamw", "bfloat16", is_stochastic=False),
    "full, 8-bit": optimizer_bytes("adamw_8bit", "bfloat16", is_stochastic=True),
}
QLORA = "lora, 4-bit base"
CHOICES = ("full", "full, 8-bit", "lora", QLORA)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Peak of one step of one row, all of whose tokens but the first carry loss."""

    model: str
    tuning: str
    gradient_checkpointing: bool
    length: int
    parts: StepBytes


def predictions(name: str, config: PretrainedConfig) -> Iterator[Prediction]:
    """Yields the predictions of a model."""
    for tuning, four_bit in TUNINGS:
        for checkpointing in (True, False):
            settings = ModelSettings(
                name,
                dtype="bfloat16",
                tuning=tuning,
                load_in_4bit=four_bit,
                gradient_checkpointing=checkpointing,
            )
            with shadow_model(config, settings) as model:
                moments = {label: moments_bytes(model, each) for label, each in FULL.items()}
                for length in lengths(config, four_bit and checkpointing):
                    parts = counted(model, StepShape(1, length, length - 1, accumulates=True))
                    if tuning == "full":  # the moments are alive in all of a step
                        for label, held in moments.items():
                            own = replace(parts, moments=held)
                            yield Prediction(name, label, checkpointing, length, own)
                    else:
                        label = QLORA if four_bit else tuning
                        yield Prediction(name, label, checkpointing, length, parts)


def lengths(config: PretrainedConfig, is_long: bool) -> tuple[int, ...]:
    """Returns tokens of the rows that are predicted."""
    known = config.to_dict()["max_position_embeddings"]
    return (*LENGTHS, *(n for n in LONG if n <= known)) if is_long else LENGTHS


def tables(found: list[Prediction]) -> dict[str, Any]:
    """Returns the tables of docs/memory.md that are told from ``found``, and all of its parts."""
    models = list(dict.fromkeys(p.model for p in found))
    parts = [field.name for field in fields(StepBytes)]
    columns = {"model": "", "tuning": "", "checkpointing": "", "length": ",.0f"}
    rows = (
        (p.model, p.tuning, str(p.gradient_checkpointing), p.length, *astuple(p.parts))
        for p in found
    )
    return {
        "peaks": peaks(found),
        "cards": table(
            {"GPU": "", **dict.fromkeys(models, "")},
            (
                [f"{card} GB", *(choice(found, model, card) for model in models)]
                for card in CARDS_GB
            ),
        ),
        "qlora": table(
            {"GPU": "", **dict.fromkeys(models, "")},
            (
                [f"{card} GB", *(longest(found, model, card) for model in models)]
                for card in CARDS_GB
            ),
        ),
        "parts": table(columns | {f"{part}_bytes": ",.0f" for part in parts}, rows),
    }


def peaks(found: list[Prediction]) -> dict[str, Any]:
    """Returns the peaks in GB (10**9 bytes), allowance included."""
    kinds = [(checkpointing, n) for checkpointing in (True, False) for n in LENGTHS]
    columns = {f"{n:,}{'' if checkpointing else ', no ckpt.'}": ".1f" for checkpointing, n in kinds}
    by_kind = {(p.model, p.tuning, p.gradient_checkpointing, p.length): p.parts.peak for p in found}
    keys = dict.fromkeys((p.model, p.tuning) for p in found)
    rows = ([*key, *(by_kind[*key, *kind] / 1e9 for kind in kinds)] for key in keys)
    return table({"model": "", "tuning": "", **columns}, rows)


def fitting(found: Iterable[Prediction], model: str, tuning: str, card: int) -> list[Prediction]:
    """Returns what fits a card with checkpointing, the longest row last."""
    free = card * 2**30 - SCREEN_BYTES
    return sorted(
        (
            p
            for p in found
            if (p.model, p.tuning, p.gradient_checkpointing) == (model, tuning, True)
            and p.parts.peak <= free
        ),
        key=lambda p: p.length,
    )


def choice(found: list[Prediction], model: str, card: int) -> str:
    """Returns the first tuning that fits, and the longest row of `LENGTHS` that it fits with."""
    short = [p for p in found if p.length in LENGTHS]
    for tuning in CHOICES:
        if fits := fitting(short, model, tuning, card):
            return f"{tuning}, {fits[-1].length}"
    return "-"


def longest(found: list[Prediction], model: str, card: int) -> str:
    """Returns the longest row that fits over a base in 4 bits, and the peak with it."""
    fits = fitting(found, model, QLORA, card)
    return f"{fits[-1].length:,}: {fits[-1].parts.peak / 1e9:.1f} GB" if fits else "-"


def intervals(name: str, config: PretrainedConfig) -> dict[str, Any]:
    """Returns what every k-th layer checkpointed leaves of a step of 2,048 tokens."""
    shape = StepShape(1, 2048, 2047, accumulates=True)
    columns = {f"{name}: `gradient_checkpointing`": ""}
    for tuning in ("full", "lora"):
        columns |= {f"{tuning}, GB": ".2f", f"{tuning}, of it activations": ".2f"}
    rows = []
    for every, offload in [(False, False), (4, False), (2, False), (True, False), (True, True)]:
        row: list[Any] = [f"{str(every).lower()}{', `activation_offload`' if offload else ''}"]
        for tuning in ("full", "lora"):
            settings = ModelSettings(
                name,
                dtype="bfloat16",
                device="cuda",
                tuning=tuning,
                gradient_checkpointing=every,
                activation_offload=offload,
            )
            parts = predicted(config, settings, shape, optimizer=FULL["full"])
            step = parts.activations + parts.loss + parts.workspace
            row += [parts.tensors / 1e9, step / 1e9]
        rows.append(row)
    return table(columns, rows)


def main() -> None:
    """Prints the tables and stores the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the record")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    given = parser.parse_args()
    found = [p for name in given.models for p in predictions(name, configs()[name])]
    made = tables(found)
    if MODEL_OF_INTERVALS in given.models:
        made["intervals"] = intervals(MODEL_OF_INTERVALS, configs()[MODEL_OF_INTERVALS])
    packages = ("torch", "transformers", "peft", "bitsandbytes")
    write(given.json, record(made, device="cpu", conditions="predicted", packages=packages))
    print("\n\n".join(markdown(each) for name, each in made.items() if name != "parts"))


if __name__ == "__main__":
    main()
