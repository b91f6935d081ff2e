"""Settings of a task's rows, its scoring and its lengths; plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Score = Literal["generate", "logprob"]


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Where the rows of a task come from and how they are answered and scored.

    The training rows come from ``preset``, from ``path``, or from ``dataset`` and ``split``. A
    held-out split of own rows comes from its path, else from its split of ``dataset``, else it is
    carved from the training rows.

    Attributes:
        preset: name of a preset; its rows come from ``directory`` if given, else from the hub.
        dataset: ``owner/name`` on the hub, ``owner/name:configuration``, or a local folder.
        columns: column name of the row format to column name in the source.
        split_by: column whose values divide the task into one task each.
        train_samples: most training rows; None takes all. Likewise for the held-out splits, but
            where they are carved None takes 200 control and 500 report rows.
        grade: name of a grader; None is the preset's, or ``marked``.
        grade_pattern: regular expression of the grader ``regex``.
        metric: ``accuracy``, ``f1``, ``loss`` or ``module:function``.
        score: ``generate`` grades what is written; ``logprob`` the likeliest letter of the choices.
        max_new_tokens: most tokens to generate; None is the preset's, or 512.
        num_fewshot: solved rows shown before each question; None is 5 for a preset, else 0.
        fewshot_source: ``fixed`` shows the preset's shots, training rows where there is no preset;
            ``train`` shows training rows.
        steer_on: ``report`` steers by the report rows and needs no control rows.
        on_overlap: what is done about training rows that repeat held-out prompts.
        on_too_long: what is done about training rows over the limit.
        apply_chat_template: whether plain rows are put into the chat template.
    """

    name: str
    preset: str | None = None
    directory: Path | None = None
    path: Path | None = None
    dataset: str | None = None
    split: str = "train"
    control_path: Path | None = None
    control_split: str | None = None
    report_path: Path | None = None
    report_split: str | None = None
    columns: Mapping[str, str] | None = None
    split_by: str | None = None
    train_samples: int | None = None
    control_samples: int | None = None
    report_samples: int | None = None
    grade: str | None = None
    grade_pattern: str | None = None
    metric: str = "accuracy"
    score: Score = "generate"
    max_new_tokens: int | None = None
    num_fewshot: int | None = None
    fewshot_source: Literal["fixed", "train"] = "fixed"
    steer_on: Literal["control", "report"] = "control"
    on_overlap: Literal["drop", "refuse"] = "drop"
    on_too_long: Literal["truncate", "drop"] = "truncate"
    apply_chat_template: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of a training row (prompt and answer) and of a prompt to evaluate."""

    max_length: int
    max_prompt_length: int
