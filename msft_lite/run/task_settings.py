"""Turns the tables of a recipe into settings of tasks; imports no torch."""

from __future__ import annotations

from msft_lite.data.settings import TaskSettings
from msft_lite.recipe import Recipe, TaskTable, samples


def task_settings(recipe: Recipe) -> tuple[TaskSettings, ...]:
    """Returns the settings of every task; what it leaves out comes from [data] and [eval]."""
    return tuple(_settings(recipe, table) for table in recipe.tasks)


def _settings(recipe: Recipe, table: TaskTable) -> TaskSettings:
    data, scoring = recipe.data, recipe.eval
    train, control, report = samples(recipe, table)
    shared = {
        "directory": data.dir,
        "metric": scoring.metric,
        "score": scoring.score,
        "max_new_tokens": scoring.max_new_tokens,
        "num_fewshot": scoring.num_fewshot,
        "fewshot_source": scoring.fewshot_source,
        "steer_on": scoring.steer_on,
        "on_overlap": data.on_overlap,
        "on_too_long": data.on_too_long,
        "apply_chat_template": data.apply_chat_template,
    }
    counts = {"train_samples": train, "control_samples": control, "report_samples": report}
    return TaskSettings(**{**shared, **table.model_dump(exclude_none=True), **counts})
