"""What `check` and `show-data` tell: every task read, split and tokenised, and every problem.

No weights are loaded. One task's problem does not keep the next from being looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msft_lite.data.metric import LOSS
from msft_lite.data.settings import Limits, TaskSettings
from msft_lite.data.splits import CARVED_CONTROL_ROWS, SPLIT_SEED
from msft_lite.data.task import Task
from msft_lite.data.task_rows import TaskRows, overlaps, task_rows
from msft_lite.errors import DataError, ModelError, MsftError, RecipeError, did_you_mean
from msft_lite.model.settings import ModelSettings
from msft_lite.recipe import Recipe
from msft_lite.run.disk import DiskPlan
from msft_lite.run.folder import RunFolder
from msft_lite.run.plan import planned_disk
from msft_lite.run.task_settings import task_settings

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from msft_lite.data.prompts import Encoder

FEW_CONTROL_ROWS = 100  # fewer: the standard error of an accuracy can exceed 5 points
MOST_NAMED = 5  # tasks in one warning


@dataclass(frozen=True, slots=True)
class TaskSurvey:
    """What became of one task.

    Attributes:
        table: name in the recipe; another than ``name`` where the task is split.
        rows: as read and split; None where that failed.
        task: tokenised; None where that failed or there is no tokenizer.
        problem: why it cannot be trained on or scored; empty if it can.
    """

    name: str
    table: str
    rows: TaskRows | None = None
    task: Task | None = None
    problem: str = ""

    @property
    def form(self) -> str:
        """How rows become text: ``plain``, ``chats``, or ``template`` for plain ones put in it."""
        if self.rows is None:
            return "-"
        if self.rows.splits.train[0].messages:
            return "chats"
        return "template" if self.rows.settings.apply_chat_template else "plain"


@dataclass(frozen=True, slots=True)
class Survey:
    """What became of a recipe's tasks.

    Attributes:
        tasks: in the recipe's order.
        tokenizer: of the model; None where it could not be had.
        config: of the model; None where it could not be had.
        general: problems that are no single task's.
        notes: rows that tasks share with the held-out rows of others, the chat template in use,
            and what was tokenised.
        warnings: what does not keep the recipe from running.
    """

    tasks: tuple[TaskSurvey, ...]
    tokenizer: PreTrainedTokenizerBase | None
    config: PretrainedConfig | None
    general: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """All problems; the recipe cannot run while there is one."""
        return (*self.general, *(task.problem for task in self.tasks if task.problem))


def survey(recipe: Recipe, *, only: str | None = None) -> Survey:
    """Returns what became of the recipe's tasks, and every problem found on the way.

    Args:
        recipe: what a run would be given.
        only: the task to tokenise and return; a table that is split stands for all its tasks.

    Raises:
        RecipeError: there is no task called ``only``.
    """
    tasks = _read(recipe, only)
    problems = _repeated_names(tasks)
    notes = overlaps([task.rows for task in tasks if task.rows is not None])
    if any(task.form in ("chats", "template") for task in tasks):
        template = recipe.data.chat_template or "the tokenizer's own"
        notes += (f"chat template: {template}",)
    optimizer_problems, optimizer_notes = _optimizer(recipe)
    problems += optimizer_problems
    notes += optimizer_notes
    tokenizer, config = None, None
    try:
        tokenizer = _tokenizer(recipe)
        model = _without_weights(recipe)
        config = model.config
        encoder = _encoder(recipe, tokenizer)
        tasks = [_tokenised(task, recipe, encoder, model) for task in tasks]
        problems += _too_long(recipe, tasks, model)
        notes += encoder.notes
    except ModelError as error:
        problems.insert(0, f"lengths were not counted: {error}")
    disk = _disk(recipe, tasks) if only is None else None
    return Survey(
        tasks=tuple(tasks),
        tokenizer=tokenizer,
        config=config,
        general=(*problems, *([disk.problem] if disk and disk.problem else [])),
        notes=(*notes, *(disk.notes if disk else ())),
        warnings=(
            *_run_warnings(recipe, disk),
            *_few_control_rows(recipe, tasks),
        ),
    )


def _read(recipe: Recipe, only: str | None) -> list[TaskSurvey]:
    """Returns every task read and split, or those that ``only`` stands for."""
    least = recipe.eval.marks_per_epoch
    tables = task_settings(recipe)
    if only is None:
        return [task for table in tables for task in _of_table(table, least)]
    # A table is only read if its task, or one split off it, can be called that.
    near = [t for t in tables if only == t.name or (t.split_by and only.startswith(f"{t.name}-"))]
    read = [task for table in near for task in _of_table(table, least)]
    chosen = [task for task in read if only in (task.name, task.table) or task.rows is None]
    if not chosen:
        names = [task.name for task in read or tables]
        raise RecipeError(
            f"--task {only!r}: no such task{did_you_mean(only, names)} "
            f"(tasks here: {', '.join(names)})"
        )
    return chosen


def _of_table(settings: TaskSettings, least_train_rows: int) -> tuple[TaskSurvey, ...]:
    name = settings.name
    try:
        found = task_rows(settings, seed=SPLIT_SEED, least_train_rows=least_train_rows)
    except MsftError as error:
        return (TaskSurvey(name, name, problem=_named(name, error)),)
    return tuple(TaskSurvey(rows.name, name, rows) for rows in found)


def _named(task: str, error: MsftError) -> str:
    """Returns the message of ``error``, which may name a file only, with the task's name."""
    text = str(error)
    return text if repr(task) in text else f"task {task!r}: {text}"


def _repeated_names(tasks: Sequence[TaskSurvey]) -> list[str]:
    names = [task.name for task in tasks]
    return [
        f"two tasks are called {task.name!r}; give tasks.{task.table} another name"
        for index, task in enumerate(tasks)
        if task.name in names[:index]
    ]


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    from msft_lite.model.load import load_tokenizer

    model = recipe.model
    return load_tokenizer(
        ModelSettings(
            name_or_path=model.name_or_path,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            chat_template=recipe.data.chat_template,
        )
    )


def _without_weights(recipe: Recipe) -> PreTrainedModel:
    """Returns the model that the recipe's config.json describes, its tensors without values.

    Raises:
        ModelError: it describes none.
    """
    from msft_lite.model.dense import without_values

    model = recipe.model
    return without_values(
        ModelSettings(
            name_or_path=model.name_or_path,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
        )
    )


def _encoder(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    from msft_lite.data.prompts import Encoder
    from msft_lite.data.token_cache import TokenCache
    from msft_lite.run.build import CACHE_FOLDER

    return Encoder(tokenizer, TokenCache(recipe.data.cache_dir or CACHE_FOLDER))


def _tokenised(
    survey: TaskSurvey, recipe: Recipe, encoder: Encoder, model: PreTrainedModel
) -> TaskSurvey:
    """Returns ``survey`` with its task, or with what is wrong with it."""
    from msft_lite.data.build import build_task, check_tasks
    from msft_lite.run.engines import check_scoring

    if survey.rows is None:
        return survey
    limits = Limits(recipe.train.max_length, recipe.eval.max_prompt_length)
    task = None
    try:
        task = build_task(survey.rows, encoder=encoder, limits=limits)
        check_tasks([task], recipe.eval.marks_per_epoch, batch_rows=recipe.train.batch_rows)
        check_scoring(recipe, [task], model)
    except RecipeError:  # of positions, which one line tells for all tasks: see _too_long
        return replace(survey, task=task)
    except MsftError as error:
        return replace(survey, task=task, problem=_named(survey.name, error))
    return replace(survey, task=task)


def _optimizer(recipe: Recipe) -> tuple[list[str], tuple[str, ...]]:
    """Returns what is wrong with the optimizer on this machine, and what is to be known of it."""
    from msft_lite.run.build import model_settings, train_settings, update_notes

    try:
        model = model_settings(recipe)
        return [], update_notes(model, train_settings(recipe, model))
    except ModelError:  # a GPU is asked for and not here: the recipe may be meant elsewhere
        return [], ()
    except RecipeError as error:
        return [str(error)], ()


def _too_long(recipe: Recipe, tasks: Sequence[TaskSurvey], model: PreTrainedModel) -> list[str]:
    """Returns what is wrong if the model has too few positions for a task."""
    from msft_lite.run.engines import check_scoring

    built = [survey.task for survey in tasks if survey.task is not None]
    try:
        if built:
            check_scoring(recipe, built, model)
    except RecipeError as error:
        return [str(error)]
    except DataError:  # told with its task
        pass
    return []


def _disk(recipe: Recipe, tasks: Sequence[TaskSurvey]) -> DiskPlan | None:
    """Returns what a run may take of the disk; None where that cannot be told yet."""
    rows = {task.name: len(task.rows.splits.train) for task in tasks if task.rows is not None}
    if len(rows) < len(tasks):
        return None
    try:
        return planned_disk(recipe, rows)
    except MsftError:  # told of the model where its lengths are counted
        return None


def _run_warnings(recipe: Recipe, disk: DiskPlan | None) -> list[str]:
    folder, warnings = RunFolder(recipe.output_dir), list[str]()
    if folder.ledger.exists():
        warnings.append(
            f"{folder.path} holds a run: go on with it by --resume, replace it by --overwrite, or "
            "name another folder by output_dir=FOLDER"
        )
    if disk is not None and (shortage := disk.shortage(folder.path)):
        warnings.append(shortage)
    if recipe.eval.steer_on == "report":
        warnings.append(
            'eval.steer_on = "report": the run is steered by the rows it reports, as the paper\'s '
            "are, so its scores will be too good"
        )
    return warnings


def _few_control_rows(recipe: Recipe, tasks: Sequence[TaskSurvey]) -> list[str]:
    """Returns a warning if few rows steer a task whose score is a share of right answers."""
    if recipe.method.signal == LOSS:
        return []
    counts = {
        task.name: len(task.rows.splits.control)
        for task in tasks
        if task.rows is not None and task.rows.settings.metric != LOSS
    }
    few = sorted((rows, name) for name, rows in counts.items() if rows < FEW_CONTROL_ROWS)
    if not few:
        return []
    named = ", ".join(f"{name} {rows}" for rows, name in few[:MOST_NAMED])
    others = f" and {len(few) - MOST_NAMED} more tasks" if len(few) > MOST_NAMED else ""
    return [
        f"few control rows ({named}{others}): the standard error of a score is up to "
        f"{standard_error_points(few[0][0]):.1f} points; {CARVED_CONTROL_ROWS} rows bring it to "
        f"{standard_error_points(CARVED_CONTROL_ROWS):.1f}"
    ]


def standard_error_points(rows: int) -> float:
    """Returns the largest standard error, in points, of an accuracy on ``rows`` rows."""
    return 50 / math.sqrt(rows)
