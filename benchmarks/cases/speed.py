"""Measures training against TRL's SFTTrainer in the same run: tokens a second, and peak memory.

    python benchmarks/cases/speed.py [--tuning lora full] [--device cpu] [--steps 8] [--trl FOLDER]

A Qwen2 of random weights (10 million parameters) is trained on rows of 20 to 400 made-up tokens, of
which the last fifth carries loss: 32 rows a step in passes of 8, AdamW, one thread. Every side runs
in a process of its own, on the same rows in the same order. The first two steps warm up. Only real
tokens are counted, not padding. TRL also runs with rows grouped by length, which changes the order.
Tokens are divided by the clock's seconds and, as other jobs on the machine take from those, by the
process's own CPU seconds, by which sides are compared on a CPU.

TRL is no dependency: `pip install --no-deps --target FOLDER trl accelerate`. Without it, only our
side is measured. Printed are a Markdown table and, below it, the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    TrainerCallback,
)

SEED, VOCABULARY = 20, 8_000
ROWS, PASS_ROWS, WARM_UP = 32, 8, 2
SHORTEST, LONGEST = 20, 400
SIDES = ("msft-lite", "trl", "trl, grouped by length")
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 0,
}


def main() -> None:
    """Measures every side, and prints table and JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tuning", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=8, help="measured, after two to warm up")
    parser.add_argument("--trl", type=Path, help="folder that trl is installed in")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side = ours if given.side == "msft-lite" else trls
        print(json.dumps(side(given)))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        found = [
            {"tuning": tuning, "side": side, **in_a_process(side, tuning, folder, given)}
            for tuning in given.tuning
            for side in (SIDES if has_trl(given.trl) else SIDES[:1])
        ]
    report = {"setting": setting(given, load), "found": found}
    print(table(found, "tokens_per_cpu_second" if given.device == "cpu" else "tokens_per_second"))
    print(json.dumps(report))


def ours(given: argparse.Namespace) -> dict[str, float]:
    """Trains through `Trainer` and returns its figures."""
    from msft_lite.data.task import Example
    from msft_lite.model.load import ModelSettings, load_model
    from msft_lite.train.settings import TrainSettings
    from msft_lite.train.trainer import Trainer

    (tuning,) = given.tuning
    settings = ModelSettings(str(given.model), device=given.device, tuning=tuning)
    model = load_model(settings, seed=SEED)
    trainer = Trainer(model, TrainSettings(1e-4, PASS_ROWS), seed=SEED, pad_id=0)
    rows = [
        Example("made up", number, ids[:-answer], ids[-answer:])
        for number, (ids, answer) in enumerate(made_up_rows(given.steps))
    ]
    watch = Watch()
    for start in range(0, len(rows), ROWS):
        watch.on_step_begin()
        trainer.step(rows[start : start + ROWS])
        watch.on_step_end()
    return figures(watch, given)


def trls(given: argparse.Namespace) -> dict[str, float]:
    """Trains through TRL's SFTTrainer and returns its figures."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    rows = [
        {"input_ids": list(ids), "completion_mask": [0] * (len(ids) - n) + [1] * n}
        for ids, n in made_up_rows(given.steps)
    ]
    (tuning,) = given.tuning
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=str(given.model),
            args=SFTConfig(output_dir=folder, **trl_settings(given)),
            train_dataset=Dataset.from_list(rows),
            peft_config=lora if tuning == "lora" else None,
            callbacks=[watch],
        )
        trainer.train()
    return figures(watch, given)


def trl_settings(given: argparse.Namespace) -> dict[str, Any]:
    """Returns what both sides share, by TRL's names, and the order of rows."""
    is_grouped = given.side.endswith("grouped by length")
    return {
        "per_device_train_batch_size": PASS_ROWS,
        "gradient_accumulation_steps": ROWS // PASS_ROWS,
        "max_steps": given.steps + WARM_UP,
        "max_length": LONGEST,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": given.device == "cpu",
        "train_sampling_strategy": "group_by_length" if is_grouped else "sequential",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32"},
    }


class Watch(TrainerCallback):
    """Times the steps, by the clock and by the CPU time of this process."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.began = self.cpu_began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.cpu_seconds.append(time.process_time() - self.cpu_began)


def figures(watch: Watch, given: argparse.Namespace) -> dict[str, float]:
    """Returns real tokens a second of all measured steps together, and the process's peak."""
    rows = made_up_rows(given.steps)[WARM_UP * ROWS :]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if given.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    measured = watch.seconds[WARM_UP:]
    tokens = sum(len(ids) for ids, _ in rows)
    return {
        "tokens_per_second": tokens / sum(measured),
        "tokens_per_cpu_second": tokens / sum(watch.cpu_seconds[WARM_UP:]),
        "median_step_seconds": statistics.median(measured),
        "peak_bytes": peak,
    }


def made_up_rows(steps: int) -> list[tuple[tuple[int, ...], int]]:
    """Returns token ids of every row, and how many at their end carry loss."""
    rng = random.Random(SEED)
    rows: list[tuple[tuple[int, ...], int]] = []
    for _ in range((steps + WARM_UP) * ROWS):
        ids = tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randint(SHORTEST, LONGEST)))
        rows.append((ids, len(ids) // 5))
    return rows


def write_model(folder: Path) -> None:
    """Writes the model and a tokenizer that nothing is tokenised with, as TRL wants one."""
    torch.manual_seed(SEED)
    AutoModelForCausalLM.from_config(Qwen2Config.from_dict(SHAPE)).save_pretrained(folder)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="w1"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="w0", pad_token="w0"
    ).save_pretrained(folder)


def in_a_process(
    side: str, tuning: str, folder: str, given: argparse.Namespace
) -> dict[str, float]:
    """Measures one side in a process of its own."""
    paths = [str(given.trl)] if given.trl and side != "msft-lite" else []
    own = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    command = [sys.executable, __file__, "--side", side, "--tuning", tuning, "--model", folder]
    done = subprocess.run(
        [*command, "--device", given.device, "--steps", str(given.steps)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([*own, *paths]),
        },
    )
    if done.returncode:
        sys.exit(f"{side}, {tuning}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def has_trl(folder: Path | None) -> bool:
    """Returns whether TRL can be imported, from ``folder`` if it is given."""
    if folder is not None:
        return (folder / "trl").is_dir()
    try:
        version("trl")
    except PackageNotFoundError:
        return False
    return True


def table(found: list[dict[str, Any]], rate: str) -> str:
    """Returns the figures as Markdown, each tuning against TRL as it comes by ``rate``."""
    lines = [
        "| tuning | side | real tokens a second | a CPU second | of trl | peak GiB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for one in found:
        trl = [o for o in found if (o["tuning"], o["side"]) == (one["tuning"], "trl")]
        ratio = f"{one[rate] / trl[0][rate]:.2f}" if trl else ""
        lines.append(
            f"| {one['tuning']} | {one['side']} | {one['tokens_per_second']:,.0f} "
            f"| {one['tokens_per_cpu_second']:,.0f} | {ratio} "
            f"| {one['peak_bytes'] / 2**30:.2f} |"
        )
    return "\n".join(lines)


def setting(given: argparse.Namespace, load: float) -> dict[str, Any]:
    """Returns what the figures depend on."""
    return {
        "device": given.device,
        "machine": platform.processor() or platform.machine(),
        "load_at_start": load,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft")},
    }


if __name__ == "__main__":
    main()
