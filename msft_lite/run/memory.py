"""Whether a recipe's training step fits: predicted from shapes, and measured in one real step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice
from typing import cast, get_args

import torch
from transformers import AutoConfig, PretrainedConfig

from msft_lite.data.task import Example, Task
from msft_lite.engine.cache_size import cache_bytes
from msft_lite.engine.tenancy import Demand, Tenancy, choose_tenancy
from msft_lite.engine.vllm_engine import MAX_NUM_SEQS
from msft_lite.errors import ModelError, MsftError, OutOfMemory
from msft_lite.model.folder import base_folder
from msft_lite.model.load import load_model
from msft_lite.model.loss import vocabulary_size
from msft_lite.model.memory.advice import Change, Load, advice
from msft_lite.model.memory.exhausted import give_back, return_unused, told_out_of_memory
from msft_lite.model.memory.free import free_bytes
from msft_lite.model.memory.live import LiveBytes
from msft_lite.model.memory.step import (
    CONTEXT_BYTES,
    StepBytes,
    StepShape,
    held_tensors,
    predicted,
)
from msft_lite.model.settings import Device, ModelSettings
from msft_lite.recipe import Recipe
from msft_lite.recipe.models import TrainTable
from msft_lite.report.wording import bytes_text
from msft_lite.run.build import model_settings, settle_process, train_settings
from msft_lite.run.engines import engine_choice, engine_length
from msft_lite.run.handover import handover_of, may_share, room_line
from msft_lite.run.kernels import loss_kernel
from msft_lite.run.survey import Survey
from msft_lite.train.optimizer_bytes import optimizer_bytes
from msft_lite.train.settings import Optim
from msft_lite.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `check` tells of memory before anything is loaded.

    Attributes:
        device: where the model is trained.
        shape: of the step: the longest row of the data, as many as one pass takes.
        parts: of its peak.
        step_bytes: what it needs: on a GPU with the allowance, on a CPU its tensors.
        engine_bytes: what vllm holds beside it at that time; 0 without vllm.
        free_bytes: of the device, now; None where the system does not tell.
        changes: that would make it fit, the cheapest first.
        tenancy: how vllm would share the device; None on a CPU or without vllm.
    """

    device: str
    shape: StepShape
    parts: StepBytes
    step_bytes: int
    engine_bytes: int
    free_bytes: int | None
    changes: tuple[Change, ...]
    tenancy: Tenancy | None = None

    @property
    def fits(self) -> bool | None:
        """Whether step and engine fit; None where what is free is not known."""
        needed = self.step_bytes + self.engine_bytes
        return None if self.free_bytes is None else needed <= self.free_bytes


@dataclass(frozen=True, slots=True)
class Measured:
    """What a real step took.

    Attributes:
        tensor_bytes: the peak of tensors: of torch's allocator on a GPU, counted on a CPU.
        reserved_bytes: what torch's allocator took from the GPU for them; None on a CPU.
    """

    tensor_bytes: int
    reserved_bytes: int | None


@dataclass(frozen=True, slots=True)
class Steps:
    """Tells what the training steps of a recipe and of its variants need, without taking one.

    Attributes:
        settings: of the model.
        shape: of the recipe's step: the longest row of the data, as many as one pass takes.
        load: of the recipe.
        parts_of: what a variant's step needs, by part; an answer is kept.
        engine_bytes: what vllm holds beside any of them; 0 without vllm.
        shares: whether that is without a copy of the weights.
        base_bytes: of the model in ``settings.dtype``, none of it in 4 bits.
    """

    settings: ModelSettings
    shape: StepShape
    load: Load
    parts_of: Callable[[Load], StepBytes]
    engine_bytes: int
    base_bytes: int
    shares: bool = False

    @property
    def held_bytes(self) -> int:
        """What the recipe's step needs of what stays from step to step."""
        parts = self.parts_of(self.load)
        return parts.weights + parts.adapter + parts.moments

    def needed(self, load: Load) -> int:
        """Returns what a variant's step needs: on a GPU with the allowance; 2**63 - 1: no step."""
        try:
            parts = self.parts_of(load)
        except ModelError:  # such as 4 bits without bitsandbytes: nothing to propose
            return sys.maxsize
        return parts.peak if self.settings.device == "cuda" else parts.tensors


def steps_of(recipe: Recipe, tasks: Sequence[Task], config: PretrainedConfig) -> Steps:
    """Returns what tells the memory of the recipe's training steps.

    Args:
        recipe: what a run would be given.
        tasks: all of its tasks.
        config: of its model.

    Raises:
        MsftError: device, engine or model cannot be used as the recipe says.
    """
    settings, shape = model_settings(recipe), longest_step(recipe, tasks)
    load = _load(recipe, settings)
    parts_of = _parts_of(config, settings, shape, recipe.train)
    dense = parts_of(replace(load, load_in_4bit=False)).weights
    shares = may_share(recipe, settings)
    engine = _engine_bytes(recipe, settings, tasks, 0 if shares else dense)
    return Steps(settings, shape, load, parts_of, engine, dense, shares)


def forecast(
    recipe: Recipe, found: Survey, *, free_of: Callable[[Device], int | None] = free_bytes
) -> Forecast | None:
    """Returns the memory of the recipe's training step, or None where data or model do not tell.

    Args:
        recipe: what a run would be given.
        found: what became of its tasks.
        free_of: tells what a device has free.

    Raises:
        MsftError: device, engine or model cannot be used as the recipe says.
    """
    if (steps := steps_found(recipe, found)) is None:
        return None
    free = free_of(steps.settings.device)
    engine_bytes, tenancy = steps.engine_bytes, tenancy_of(steps, free)
    if tenancy is not None and free is not None:
        engine_bytes = tenancy.while_training(demand_of(steps, free))
    return Forecast(
        device=steps.settings.device,
        shape=steps.shape,
        parts=steps.parts_of(steps.load),
        step_bytes=steps.needed(steps.load),
        engine_bytes=engine_bytes,
        free_bytes=free,
        changes=() if free is None else _changes(steps, free - engine_bytes),
        tenancy=tenancy,
    )


def steps_found(recipe: Recipe, found: Survey) -> Steps | None:
    """Returns `steps_of` what a survey found, or None where data or model do not tell."""
    tasks = [survey.task for survey in found.tasks if survey.task is not None]
    if found.problems or found.config is None or not tasks:
        return None
    return steps_of(recipe, tasks, found.config)


def passing_lines(recipe: Recipe, steps: Steps) -> list[str]:
    """Returns what goes to vllm through which folder; nothing without vllm or for an adapter."""
    how = handover_of(recipe, steps.settings)
    if not steps.engine_bytes or how == "adapter":
        return []
    return [room_line(how, steps.base_bytes, run_folder=recipe.output_dir)]


def remedies(steps: Steps, free: int | None) -> tuple[Change, ...]:
    """Returns the changes by which a step fits where the recipe's did not, the cheapest first.

    Args:
        steps: of the recipe.
        free: bytes of the device without the step; None where the system does not tell. What the
            failed step is said to need is too much, whatever this is.
    """
    failed = steps.needed(steps.load) - 1
    return _changes(steps, failed if free is None else min(failed, free - steps.engine_bytes))


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """Yields a line for each change that makes a step fit."""
    for change in changes:
        yield f"it fits with {bytes_text(change.peak_bytes)} by: {'; '.join(change.lines)}"
    if not changes:
        yield "no change of batch, length, optimizer or tuning makes it fit: take a smaller model"


def config_of(settings: ModelSettings) -> PretrainedConfig:
    """Returns the configuration of the base model, whose tokenizer has been loaded before."""
    return AutoConfig.from_pretrained(
        settings.name_or_path,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )


def longest_step(recipe: Recipe, tasks: Sequence[Task]) -> StepShape:
    """Returns a step of rows as long as the longest, with as many trained tokens as the most."""
    rows = [row for task in tasks for row in task.train]
    return StepShape(
        rows=recipe.train.per_device_train_batch_size,
        length=max(len(row.prompt) + len(row.answer) for row in rows),
        trained_tokens=max(row.trained_tokens for row in rows),
        accumulates=recipe.train.gradient_accumulation_steps > 1,
    )


def measure(recipe: Recipe, shape: StepShape, *, beside_bytes: int = 0) -> Measured:
    """Loads the model, trains it one step of ``shape`` and forgets it; nothing is written.

    On a CPU tensors are counted: what the process grows by holds the libraries, files that were
    mapped and memory that was freed and not given back, and differs from one call to the next.

    Args:
        recipe: what a run would be given.
        shape: of the step.
        beside_bytes: of a GPU, that the step must leave to others.

    Raises:
        OutOfMemory: the step does not fit.
        MsftError: the model cannot be loaded.
    """
    device = model_settings(recipe).device
    try:
        with told_out_of_memory("one step", device):
            return _measured(recipe, shape, beside_bytes)
    except OutOfMemory as error:
        give_back(error)
        raise
    finally:
        return_unused()


def _measured(recipe: Recipe, shape: StepShape, beside_bytes: int) -> Measured:
    settle_process(recipe)
    settings = model_settings(recipe)
    is_gpu = settings.device == "cuda"
    beside = torch.empty(beside_bytes if is_gpu else 0, dtype=torch.uint8, device=settings.device)
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    model = load_model(settings, seed=recipe.seed)
    live = LiveBytes()
    for part, tensor in held_tensors(model):
        live.watch([tensor], part)
    ids = islice(cycle(range(vocabulary_size(model))), shape.length)
    examples = _examples(tuple(ids), shape)
    optimizer, kernel = train_settings(recipe, settings), loss_kernel(recipe, model)
    with nullcontext() if is_gpu else live:
        Trainer(model, optimizer, seed=recipe.seed, pad_id=0, loss_kernel=kernel).step(examples)
    if is_gpu:
        return Measured(
            torch.cuda.max_memory_allocated() - beside.nbytes,
            torch.cuda.max_memory_reserved() - beside.nbytes,
        )
    return Measured(sum(live.peak.values()), None)


def has_weights(recipe: Recipe) -> bool:
    """Returns whether the model's files are here: nothing is downloaded for a measurement."""
    try:
        folder = base_folder(model_settings(recipe))
    except MsftError:
        return False
    return any(folder.glob("*.safetensors"))


def demand_of(steps: Steps, free: int) -> Demand:
    """Returns what the recipe's steps and its engine ask of a GPU.

    Args:
        steps: of the recipe.
        free: bytes of the GPU with the trainer's model and moments on it.
    """
    parts, context = steps.parts_of(steps.load), CONTEXT_BYTES
    copied = 0 if steps.shares else parts.weights
    return Demand(
        free=free,
        step=steps.needed(steps.load) - steps.held_bytes,
        weights=parts.weights,
        cache=steps.engine_bytes - copied - context,
        context=context,
        moments=parts.moments,
    )


def tenancy_of(steps: Steps, free: int | None) -> Tenancy | None:
    """Returns how vllm would share a GPU that has ``free`` bytes before anything is loaded."""
    if steps.settings.device != "cuda" or not steps.engine_bytes or free is None:
        return None
    is_full = steps.settings.tuning == "full"
    demand = demand_of(steps, free - steps.held_bytes)
    return choose_tenancy(demand, shares=steps.shares, sleeps=True, is_full=is_full)


def _examples(ids: tuple[int, ...], shape: StepShape) -> list[Example]:
    prompt = max(1, shape.length - shape.trained_tokens)
    row = Example("check", 0, ids[:prompt], ids[prompt:])
    return [replace(row, row=n) for n in range(shape.rows * (2 if shape.accumulates else 1))]


def _load(recipe: Recipe, settings: ModelSettings) -> Load:
    return Load(
        per_device_train_batch_size=recipe.train.per_device_train_batch_size,
        gradient_accumulation_steps=recipe.train.gradient_accumulation_steps,
        max_length=recipe.train.max_length,
        gradient_checkpointing=settings.gradient_checkpointing,
        tuning=recipe.model.tuning,
        load_in_4bit=recipe.model.load_in_4bit,
        optim=recipe.train.optim,
        optimizer_in_backward=recipe.train.optimizer_in_backward,
    )


def _optims() -> tuple[str, ...]:
    """Returns the optimizers that a recipe can name."""
    return get_args(TrainTable.model_fields["optim"].annotation)


def _changes(steps: Steps, free: int) -> tuple[Change, ...]:
    return advice(steps.load, free_bytes=free, peak_of=steps.needed, optims=_optims())


def _parts_of(
    config: PretrainedConfig, settings: ModelSettings, shape: StepShape, train: TrainTable
) -> Callable[[Load], StepBytes]:
    """Returns what tells the parts of a changed recipe's step; an answer is kept."""

    @cache
    def parts_of(load: Load) -> StepBytes:
        length = min(shape.length, load.max_length)
        return predicted(
            config,
            replace(
                settings,
                tuning=load.tuning,
                load_in_4bit=load.load_in_4bit,
                gradient_checkpointing=load.gradient_checkpointing,
            ),
            StepShape(
                rows=load.per_device_train_batch_size,
                length=length,
                trained_tokens=min(shape.trained_tokens, length - 1),
                accumulates=load.gradient_accumulation_steps > 1,
            ),
            optimizer=optimizer_bytes(
                cast("Optim", load.optim),
                "float32" if load.tuning == "lora" else settings.dtype,
                is_stochastic=train.bf16_update != "nearest",
                in_backward=train.optimizer_in_backward,
            ),
        )

    return parts_of


def _engine_bytes(
    recipe: Recipe, settings: ModelSettings, tasks: Sequence[Task], copy_bytes: int
) -> int:
    """Returns what vllm holds while it answers: its copy of the base if any, keys and values."""
    if engine_choice(recipe).kind != "vllm":
        return 0
    kept = recipe.engine.kv_cache_bytes or cache_bytes(
        base_folder(settings),
        settings.dtype,
        max_model_len=engine_length(tasks),
        max_num_seqs=recipe.engine.max_num_seqs or MAX_NUM_SEQS,
    )
    return copy_bytes + kept + (CONTEXT_BYTES if settings.device == "cuda" else 0)
