"""Trains one side of a comparison, ours or TRL's, and prints its figures as JSON.

    python benchmarks/cases/side.py SIDE SETUP

`speed.py` and `ladder.py` call it, so that every side has a process of its own. SETUP is a `Setup`
as JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from record import peak_rss_bytes
from shapes import SEED, VOCABULARY
from transformers import BitsAndBytesConfig, TrainerCallback

from msft_lite.data.task import Example
from msft_lite.model.flops import flop_rates
from msft_lite.model.load import load_model
from msft_lite.model.memory.live import LiveBytes
from msft_lite.model.memory.step import OptimizerBytes, StepShape, held_tensors
from msft_lite.model.settings import Device, Dtype, ModelSettings, Tuning
from msft_lite.train.optimizer_bytes import optimizer_bytes
from msft_lite.train.settings import Optim, TrainSettings
from msft_lite.train.trainer import Trainer

WARM_UP = 2  # steps; in the first a CPU counts tensors, where rows are of one length


@dataclass(frozen=True, slots=True)
class Setup:
    """What a side trains.

    Attributes:
        model: folder, as `shapes.write_model` leaves it.
        pass_rows: in a forward and backward pass.
        step_rows: in an optimizer step.
        shortest: tokens of a row, at least; ``longest`` at most.
        answer: one token in so many, at a row's end, carries loss; 1 is all but the first.
        steps: measured, after `WARM_UP` others.
        limit_bytes: of the GPU that torch's allocator may take; None is all.
    """

    model: str
    device: Device = "cpu"
    dtype: Dtype = "float32"
    tuning: Tuning = "lora"
    load_in_4bit: bool = False
    gradient_checkpointing: bool = False
    optim: Optim = "adamw"
    optimizer_in_backward: bool = False
    pass_rows: int = 8
    step_rows: int = 32
    shortest: int = 20
    longest: int = 400
    answer: int = 5
    steps: int = 8
    limit_bytes: int | None = None

    @property
    def settings(self) -> ModelSettings:
        """How the model is loaded."""
        return ModelSettings(
            self.model,
            device=self.device,
            dtype=self.dtype,
            tuning=self.tuning,
            load_in_4bit=self.load_in_4bit,
            gradient_checkpointing=self.gradient_checkpointing,
        )

    @property
    def shape(self) -> StepShape:
        """The step, where all rows are as long as the longest."""
        accumulates = self.step_rows > self.pass_rows
        return StepShape(self.pass_rows, self.longest, self.trained(self.longest), accumulates)

    @property
    def optimizer(self) -> OptimizerBytes:
        """What the optimizer keeps."""
        return optimizer_bytes(
            self.optim,
            self.dtype if self.tuning == "full" else "float32",
            is_stochastic=True,
            in_backward=self.optimizer_in_backward,
        )

    def trained(self, length: int) -> int:
        """Returns how many tokens of a row carry loss."""
        return min(length - 1, length // self.answer)

    def rows(self) -> list[Example]:
        """Returns made-up rows for all steps, the same every time."""
        rng = random.Random(SEED)
        rows: list[Example] = []
        for number in range((self.steps + WARM_UP) * self.step_rows):
            length = rng.randint(self.shortest, self.longest)
            ids = tuple(rng.randrange(1, VOCABULARY) for _ in range(length))
            prompt = length - self.trained(length)
            rows.append(Example("made up", number, ids[:prompt], ids[prompt:]))
        return rows


class Watch(TrainerCallback):
    """Times the steps, by the clock and by the CPU time of this process."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.began = self.cpu_began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if self.device == "cuda":
            if not self.seconds:
                torch.cuda.reset_peak_memory_stats()  # loading may have held more
            torch.cuda.synchronize()
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.began)
        self.cpu_seconds.append(time.process_time() - self.cpu_began)


def measured(side: str, setup: Setup) -> dict[str, Any]:
    """Returns the figures of ``side``."""
    if setup.limit_bytes is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, setup.limit_bytes / total))
    return ours(setup) if side == "msft-lite" else trls(side, setup)


def ours(setup: Setup) -> dict[str, Any]:
    """Trains through `Trainer`."""
    model = load_model(setup.settings, seed=SEED)
    rates = flop_rates(model)
    live = LiveBytes()
    for part, tensor in held_tensors(model):
        live.watch([tensor], part)
    counts = setup.device == "cpu" and setup.shortest == setup.longest
    watch, rows = Watch(setup.device), setup.rows()
    train = TrainSettings(
        1e-4,
        setup.pass_rows,
        optim=setup.optim,
        optimizer_in_backward=setup.optimizer_in_backward,
    )
    with live if counts else nullcontext():
        trainer = Trainer(model, train, seed=SEED, pad_id=0)
    for start in range(0, len(rows), setup.step_rows):
        watch.on_step_begin()
        with live if counts and not start else nullcontext():
            trainer.step(rows[start : start + setup.step_rows])
        watch.on_step_end()
    found = figures(watch, setup)
    if counts:
        found["tensor_bytes"] = sum(live.peak.values())
    if rates is not None:
        operations = sum(
            (rates.body_forward + rates.body_backward) * (tokens := len(e.prompt) + len(e.answer))
            + (rates.head_forward + rates.head_backward) * e.trained_tokens
            + (rates.attention_forward + rates.attention_backward) * tokens**2
            for e in rows[WARM_UP * setup.step_rows :]
        )
        found["model_flops_per_second"] = operations / sum(watch.seconds[WARM_UP:])
    return found


def trls(side: str, setup: Setup) -> dict[str, Any]:
    """Trains through TRL's SFTTrainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    rows = [
        {
            "input_ids": [*e.prompt, *e.answer],
            "completion_mask": [0] * len(e.prompt) + [1] * len(e.answer),
        }
        for e in setup.rows()
    ]
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    watch = Watch(setup.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=setup.model,
            args=SFTConfig(output_dir=folder, **trl_settings(side, setup)),
            train_dataset=Dataset.from_list(rows),
            peft_config=lora if setup.tuning == "lora" else None,
            callbacks=[watch],
        )
        trainer.train()
    return figures(watch, setup)


def trl_settings(side: str, setup: Setup) -> dict[str, Any]:
    """Returns what both sides share, by TRL's names, and what the side is about."""
    grouped = side.endswith("grouped by length")
    loading: dict[str, Any] = {"dtype": setup.dtype}
    if setup.load_in_4bit:
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, setup.dtype),
        )
    return {
        "per_device_train_batch_size": setup.pass_rows,
        "gradient_accumulation_steps": setup.step_rows // setup.pass_rows,
        "max_steps": setup.steps + WARM_UP,
        "max_length": setup.longest,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": setup.gradient_checkpointing,
        "bf16": setup.dtype == "bfloat16",
        "use_cpu": setup.device == "cpu",
        "use_liger_kernel": side.endswith("liger"),
        "train_sampling_strategy": "group_by_length" if grouped else "sequential",
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "model_init_kwargs": loading,
    }


def figures(watch: Watch, setup: Setup) -> dict[str, Any]:
    """Returns real tokens a second of all measured steps together, and peaks of memory."""
    rows = setup.rows()[WARM_UP * setup.step_rows :]
    tokens = sum(len(row.prompt) + len(row.answer) for row in rows)
    seconds = watch.seconds[WARM_UP:]
    found: dict[str, Any] = {
        "tokens_per_second": tokens / sum(seconds),
        "tokens_per_cpu_second": tokens / sum(watch.cpu_seconds[WARM_UP:]),
        "median_step_seconds": statistics.median(seconds),
    }
    if setup.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        reserved = torch.cuda.max_memory_reserved()
        return found | {"peak_bytes": peak, "tensor_bytes": peak, "reserved_bytes": reserved}
    return found | {"peak_bytes": peak_rss_bytes()}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Setup(**json.loads(sys.argv[2])))))
