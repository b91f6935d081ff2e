"""Predicts the memory of a training step for six models; prints Markdown, and JSON on request.

    python benchmarks/cases/memory.py [--json FILE] [--models NAME ...]
    python benchmarks/cases/memory.py --intervals [--models NAME ...]

Nothing is downloaded, loaded or measured: the models' shapes are written here, as their published
config.json has them. Takes about a quarter of an hour on one core for all six.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import Olmo2Config, PretrainedConfig, Qwen2Config, Qwen3Config

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

LENGTHS = (512, 1024, 2048)
TUNINGS: tuple[tuple[Tuning, bool], ...] = (("full", False), ("lora", False), ("lora", True))
FULL = {
    "full": optimizer_bytes("adamw", "bfloat16", is_stochastic=True),
    "full, nearest": optimizer_bytes("adamw", "bfloat16", is_stochastic=False),
    "full, 8-bit": optimizer_bytes("adamw_8bit", "bfloat16", is_stochastic=True),
}
_QWEN_TOKENS = 151_936


@dataclass(frozen=True, slots=True)
class Prediction:
    """Peak of one step of one row, all of whose tokens but the first carry loss."""

    model: str
    tuning: str
    gradient_checkpointing: bool
    length: int
    parts: StepBytes


def configs() -> dict[str, PretrainedConfig]:
    """Returns the shapes of the models by name."""
    return {
        "Qwen2.5-0.5B": _qwen2((896, 4864), layers=24, heads=(14, 2)),
        "OLMo-2-1B": Olmo2Config(
            vocab_size=100_352,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=16,
            num_key_value_heads=16,
            tie_word_embeddings=False,
        ),
        "Qwen2.5-1.5B": _qwen2((1536, 8960), layers=28, heads=(12, 2)),
        "Qwen2.5-3B": _qwen2((2048, 11_008), layers=36, heads=(16, 2)),
        "Qwen2.5-7B": _qwen2((3584, 18_944), layers=28, heads=(28, 4), tokens=152_064),
        "Qwen3-8B": Qwen3Config(
            vocab_size=_QWEN_TOKENS,
            hidden_size=4096,
            intermediate_size=12_288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=False,
        ),
    }


def _qwen2(
    widths: tuple[int, int], *, layers: int, heads: tuple[int, int], tokens: int = _QWEN_TOKENS
) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=tokens,
        hidden_size=widths[0],
        intermediate_size=widths[1],
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        tie_word_embeddings=tokens == _QWEN_TOKENS,  # those up to 3B share embedding and head
    )


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
                for length in LENGTHS:
                    parts = counted(model, StepShape(1, length, length - 1, accumulates=True))
                    if tuning == "full":  # the moments are alive in all of a step
                        for label, held in moments.items():
                            own = replace(parts, moments=held)
                            yield Prediction(name, label, checkpointing, length, own)
                    else:
                        label = "lora, 4-bit base" if four_bit else tuning
                        yield Prediction(name, label, checkpointing, length, parts)


def markdown(found: list[Prediction]) -> str:
    """Returns the peaks as a table, in GB (10**9 bytes), allowance included."""
    lines = [
        "| model | tuning | 512 | 1024 | 2048 | 512, no ckpt. | 1024, no ckpt. | 2048, no ckpt. |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((p.model, p.tuning) for p in found):
        own = {
            (p.gradient_checkpointing, p.length): p.parts
            for p in found
            if (p.model, p.tuning) == key
        }
        sizes = [own[checkpointing, n] for checkpointing in (True, False) for n in LENGTHS]
        lines.append(f"| {' | '.join([*key, *(f'{s.peak / 1e9:.1f}' for s in sizes)])} |")
    return "\n".join(lines)


def intervals(name: str, config: PretrainedConfig) -> str:
    """Returns what every k-th layer checkpointed leaves of a step of 2,048 tokens, as Markdown."""
    shape = StepShape(1, 2048, 2047, accumulates=True)
    lines = [
        f"| {name}: `gradient_checkpointing` | full, GB | of it activations | "
        "lora, GB | of it activations |",
        "|---|---:|---:|---:|---:|",
    ]
    for every, offload in [(False, False), (4, False), (2, False), (True, False), (True, True)]:
        cells = [f"{str(every).lower()}{', `activation_offload`' if offload else ''}"]
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
            cells += [f"{parts.tensors / 1e9:.2f}", f"{step / 1e9:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table as it is told to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for every part of every prediction")
    parser.add_argument("--models", nargs="+", choices=list(configs()), default=list(configs()))
    parser.add_argument("--intervals", action="store_true", help="every k-th layer checkpointed")
    given = parser.parse_args()
    if given.intervals:
        print("\n\n".join(intervals(name, configs()[name]) for name in given.models))
        return
    found = [p for name in given.models for p in predictions(name, configs()[name])]
    print(markdown(found))
    if given.json:
        rows = [{**asdict(p), "peak": p.parts.peak} for p in found]
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
