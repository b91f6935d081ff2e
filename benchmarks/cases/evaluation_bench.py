"""What `evaluation.py` measures with: models, ten tasks, an engine, and what processes take."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from dynamics_tasks import TASKS as NAMES
from dynamics_tasks import splits
from safetensors.torch import save_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from msft_lite.data.build import build_task
from msft_lite.data.grade import text_of
from msft_lite.data.prompts import Encoder
from msft_lite.data.rows import Row
from msft_lite.data.settings import Limits, TaskSettings
from msft_lite.data.splits import Splits
from msft_lite.data.task import Task
from msft_lite.data.task_rows import TaskRows
from msft_lite.engine.base import EvalEngine, Prompt
from msft_lite.engine.canary import PROBE_NEW_TOKENS, Canary, tolerance_of
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.model.adapter import adapter_config
from msft_lite.model.dense import dense_tensors
from msft_lite.model.load import load_model
from msft_lite.model.settings import ModelSettings, Tuning
from msft_lite.model.weights import Weights
from msft_lite.run.evaluator import Answers
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

BASE = Path(__file__).parents[2] / "recipes" / "quickstart" / "base"
SEED, SHOTS, NEW_TOKENS = 20, 5, 12
LENGTH = 256  # positions of all models
SPREAD = 0.01  # of the noise that makes a checkpoint of a model
SIZES = {
    "random": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "small": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}


class Bench:
    """A model to tune, ten tasks, and what evaluates them."""

    def __init__(self, base: Path, tuning: Tuning, *, rows: int, folder: Path) -> None:
        """Loads model and tasks; no engine is started."""
        self.base, self.tuning, self.folder = base, tuning, folder
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        settings = ModelSettings(str(base), device="cpu", dtype="float32", tuning=tuning)
        self.model: Any = load_model(settings, seed=SEED)
        pad = self.tokenizer.pad_token_id
        self.trainer = Trainer(self.model, TrainSettings(1e-3, 8), seed=SEED, pad_id=pad)
        self.tasks = [task_of(name, Encoder(self.tokenizer), rows) for name in NAMES]
        self.root = self.trainer.capture()

    @property
    def prompts(self) -> list[Prompt]:
        """All questions, task after task."""
        return [Prompt(q.prompt, NEW_TOKENS) for task in self.tasks for q in task.control]

    def checkpoint(self, seed: int) -> Weights:
        """Returns the weights after training that went somewhere."""
        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: tensor + SPREAD * torch.randn(tensor.shape, generator=generator)
            for name, tensor in self.root.tensors.items()
        }
        return Weights(self.root.kind, moved)

    def engine(self, base: Path, *, takes_adapters: bool = True) -> VllmEngine:
        """Starts an engine and waits for it.

        Args:
            base: folder of the model that it loads.
            takes_adapters: under LoRA; False: it is given whole weights.
        """
        settings = self.engine_settings(base)
        engine = VllmEngine(settings if takes_adapters else replace(settings, adapter=None))
        with engine.awake():
            return engine

    def engine_settings(self, base: Path) -> VllmSettings:
        """Returns what an engine is started with."""
        return VllmSettings(
            model_folder=base,
            dtype="float32",
            max_model_len=LENGTH,
            eos_ids=(self.tokenizer.eos_token_id,),
            log_path=self.folder / "engine.log",
            adapter=adapter_config(self.model) if self.tuning == "lora" else None,
            threads=1,
        )

    def write_checkpoint(self, folder: Path) -> Path:
        """Writes the model as it is, an adapter merged, and returns ``folder``."""
        folder.mkdir()
        save_file(dict(dense_tensors(self.model, merged=True)), folder / "model.safetensors")
        shutil.copy(self.base / "config.json", folder)
        return folder

    def answers(self, engine: EvalEngine) -> Answers:
        """Returns what a run evaluates with."""
        canary = Canary(
            [task.control[0].prompt[: LENGTH - PROBE_NEW_TOKENS] for task in self.tasks[:4]],
            tolerance=tolerance_of("float32"),
            log_probabilities=self.trainer.log_probabilities,
        )
        return Answers(lambda: engine, canary, decode=lambda ids: text_of(self.tokenizer, ids))

    def graded(self, ids: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """Decodes and grades answers, and returns their texts."""
        texts = tuple(text_of(self.tokenizer, one) for one in ids)
        questions = [(task, question) for task in self.tasks for question in task.control]
        for (task, question), text in zip(questions, texts, strict=True):
            task.metric.worth(text, question.gold)
        return texts


def task_of(name: str, encoder: Encoder, rows: int) -> Task:
    """Returns a task with ``rows`` questions after five shots."""
    found = {
        split: tuple(Row(f"{name}, {split}", row["prompt"], row["answer"]) for row in entries)
        for split, entries in splits(name).items()
    }
    shots, train = found["train"][:SHOTS], found["train"][SHOTS:]
    settings = TaskSettings(
        name, grade="marked", max_new_tokens=NEW_TOKENS, num_fewshot=SHOTS, steer_on="control"
    )
    questions = (*found["control"], *found["report"])
    given = Splits(train, control=questions[:rows], report=found["report"][-1:])
    limits = Limits(max_length=64, max_prompt_length=LENGTH - NEW_TOKENS)
    return build_task(TaskRows(settings, given, shots, None), encoder=encoder, limits=limits)


def cpu_seconds(engine: VllmEngine | None = None) -> float:
    """Returns what this process, and an engine's, have computed so far."""
    if engine is None:
        return time.process_time()
    fields = Path(f"/proc/{engine.process_id}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def rss_bytes(process: int) -> int:
    """Returns what a process holds in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def write_model(size: str, folder: Path) -> Path:
    """Writes a random Qwen2 with the tokenizer of the quickstart's base."""
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    shape = {
        "vocab_size": 260,
        "max_position_embeddings": LENGTH,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = Qwen2ForCausalLM(Qwen2Config.from_dict(shape | SIZES[size]))
    with torch.no_grad():  # or greedy choices would be nearly tied
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
