"""Rules over several tables of a recipe: values that exclude each other, keys without effect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from msft_lite.recipe.models import Recipe
    from msft_lite.recipe.task_table import TaskTable

Conflict: TypeAlias = tuple[str, str]  # a key from the top of the recipe, and what is wrong with it
PRESET_FEWSHOT = 5  # solved rows that a preset shows where no number is given


def conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Yields what is wrong with a recipe whose tables are right, each for itself."""
    yield from _sharing(recipe)
    yield from _optimizer(recipe)
    yield from _loss_kernel(recipe)
    yield from _snapshots(recipe)
    yield from _batches(recipe)
    yield from _presets(recipe)
    yield from _metrics(recipe)
    yield from _scores(recipe)
    yield from _control_rows(recipe)
    yield from _shots(recipe)


def _sharing(recipe: Recipe) -> Iterator[Conflict]:
    key, model = "engine.share_weights", recipe.model
    if recipe.engine.name == "torch" and "share_weights" in recipe.engine.model_fields_set:
        yield key, 'has no effect with the engine "torch", which is in the trainer; take it out'
    elif recipe.engine.share_weights is True and (model.load_in_4bit or model.use_dora):
        what = "a base in 4 bits" if model.load_in_4bit else "a DoRA adapter"
        yield key, f"vllm cannot compute with {what} as the trainer holds it; take it out"


def _optimizer(recipe: Recipe) -> Iterator[Conflict]:
    model, train = recipe.model, recipe.train
    if model.tuning == "full" and "loraplus_lr_ratio" in train.model_fields_set:
        yield "train.loraplus_lr_ratio", 'has no effect with tuning = "full"; take it out'
    if model.tuning == "lora" and train.bf16_update is not None:
        yield (
            "train.bf16_update",
            'has no effect with tuning = "lora", whose adapters are float32; take it out',
        )
    if model.dtype == "float32" and train.bf16_update is not None:
        yield "train.bf16_update", 'has no effect with model.dtype = "float32"; take it out'
    if model.device == "cpu" and train.optim.startswith("paged_"):
        yield (
            "train.optim",
            f"paging needs a GPU and model.device is cpu; take {train.optim[6:]!r}",
        )
    if train.deterministic and model.attn_implementation == "flash_attention_2":
        yield (
            "train.deterministic",
            "the backward pass of flash_attention_2 adds up in any order; take "
            'model.attn_implementation out, or set it to "sdpa"',
        )


def _loss_kernel(recipe: Recipe) -> Iterator[Conflict]:
    key, name = "train.loss_kernel", recipe.train.loss_kernel
    if name in ("liger", "cut_cross_entropy") and recipe.model.device == "cpu":
        yield key, 'the kernel is for NVIDIA GPUs and model.device is cpu; take "chunked" or "auto"'
    if name == "cut_cross_entropy" and recipe.train.deterministic:
        yield key, 'adds gradients up in any order, and train.deterministic is true; take "auto"'
    if name == "cut_cross_entropy" and recipe.model.dtype == "float32":
        yield key, 'takes no float32, which model.dtype is; take "liger" or "auto"'


def _snapshots(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.snapshots.where == "ram" and recipe.snapshots.max_bytes is not None:
        yield (
            "snapshots.max_bytes",
            'bounds what is on the disk, where with snapshots.where = "ram" little is; take one '
            "of them out",
        )
    if recipe.model.tuning == "lora" and recipe.snapshots.delta is not None:
        yield "snapshots.delta", "adapters are stored whole, so it has no effect; take it out"


def _batches(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.train.padding_free and recipe.model.attn_implementation is not None:
        yield (
            "train.padding_free",
            "rows that lie one after another have an attention kernel of their own; take "
            "model.attn_implementation out, or this key, and rows are padded",
        )


def _presets(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.data.dir is not None and all(task.preset is None for task in recipe.tasks):
        yield "data.dir", "has no effect: no task is a preset; take it out"


def _metrics(recipe: Recipe) -> Iterator[Conflict]:
    is_loss = [_metric(recipe, task) == "loss" for task in recipe.tasks]
    if all(is_loss):
        unused = _given(
            recipe,
            eval_keys=("num_fewshot", "max_new_tokens"),
            task_keys=("num_fewshot", "max_new_tokens", "grade"),
        )
        yield from ((key, 'has no effect with the metric "loss"; take it out') for key in unused)
    elif any(is_loss):
        shared = recipe.eval.metric == "loss"
        for index, task in enumerate(recipe.tasks):
            if task.metric is not None and is_loss[index] != shared:
                other = recipe.tasks[is_loss.index(shared)]
                yield (
                    f"tasks.{index}.metric",
                    f'"loss" is the metric of all tasks or of none: {other.name!r} has '
                    f"{_metric(recipe, other)!r}",
                )


def _scores(recipe: Recipe) -> Iterator[Conflict]:
    scores = [task.score or recipe.eval.score for task in recipe.tasks]
    if all(_metric(recipe, task) == "loss" for task in recipe.tasks):
        if recipe.eval.score == "logprob":
            yield "eval.score", 'has no effect with the metric "loss"; take it out'
        yield from (
            (f"tasks.{index}.score", 'has no effect with the metric "loss"; take it out')
            for index, task in enumerate(recipe.tasks)
            if task.score is not None
        )
        return
    why = 'has no effect with score = "logprob", which writes nothing; take it out'
    for index, task in enumerate(recipe.tasks):
        if scores[index] == "logprob" and task.max_new_tokens is not None:
            yield f"tasks.{index}.max_new_tokens", why
    if set(scores) == {"logprob"} and recipe.eval.max_new_tokens is not None:
        yield "eval.max_new_tokens", why


def _control_rows(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.eval.steer_on == "control":
        return
    unused = _given(
        recipe,
        data_keys=("control_samples",),
        task_keys=("control_path", "control_split", "control_samples"),
    )
    for key in unused:
        yield key, 'has no effect with eval.steer_on = "report"; take it out'


def _shots(recipe: Recipe) -> Iterator[Conflict]:
    if recipe.eval.fewshot_source == "train" and not any(
        _shows_shots(recipe, task) for task in recipe.tasks
    ):
        yield (
            "eval.fewshot_source",
            "has no effect: no task shows solved rows; set eval.num_fewshot, or take it out",
        )


def _shows_shots(recipe: Recipe, task: TaskTable) -> bool:
    default = PRESET_FEWSHOT if task.preset else 0
    numbers = (task.num_fewshot, recipe.eval.num_fewshot, default)
    count = next(number for number in numbers if number is not None)
    return count > 0 and _metric(recipe, task) != "loss"


def _metric(recipe: Recipe, task: TaskTable) -> str:
    return task.metric or recipe.eval.metric


def _given(
    recipe: Recipe,
    *,
    eval_keys: Iterable[str] = (),
    data_keys: Iterable[str] = (),
    task_keys: Iterable[str],
) -> list[str]:
    """Returns those of the keys that have a value, from the top of the recipe."""
    tables = [("eval", recipe.eval, eval_keys), ("data", recipe.data, data_keys)]
    tables += [(f"tasks.{i}", task, task_keys) for i, task in enumerate(recipe.tasks)]
    return [
        f"{name}.{key}"
        for name, table, keys in tables
        for key in keys
        if getattr(table, key) is not None
    ]
