"""[[tasks]] of a recipe: where a task's rows come from and how its answers are judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from msft_lite.recipe.keys import (
    NAME_PATTERN,
    Count,
    MetricSource,
    Pattern,
    Positive,
    RecipePath,
    Table,
    Text,
    problem,
)

SPLIT_KEYS = ("split", "control_split", "report_split")


class TaskTable(Table):
    """[[tasks]]: one sub-dataset: a preset, local files, or a dataset on the hub."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
    """How ledger and report call it; left out: the preset's name."""
    preset: Text | None = None
    """A benchmark that `msft-lite tasks` lists; left out without path and dataset: the name."""
    path: RecipePath | None = None
    """Training rows: .jsonl, .json, .csv, .tsv, .parquet, or a folder saved by datasets."""
    dataset: Text | None = None
    """owner/name, or owner/name:configuration, of a dataset on the hub; goes with `split`."""
    split: Text | None = None
    """Its split to train on."""
    control_path: RecipePath | None = None
    """File of control rows; left out: carved from the training rows."""
    control_split: Text | None = None
    """Split of control rows; left out: carved from the training rows."""
    report_path: RecipePath | None = None
    """File of report rows; left out: carved from the training rows."""
    report_split: Text | None = None
    """Split of report rows; left out: carved from the training rows."""
    train_samples: Positive | None = None
    """In place of data.train_samples."""
    control_samples: Positive | None = None
    """In place of data.control_samples."""
    report_samples: Positive | None = None
    """In place of data.report_samples."""
    columns: dict[str, str] | None = None
    """What own rows call a column: { question = "stem", answer = "key" }."""
    split_by: Text | None = None
    """Column whose values divide this task into one task each, such as "subject"."""
    grade: Literal["marked", "exact", "number", "choice", "yes_no", "regex"] | None = None
    """Which part of an answer counts; left out: the preset's, "marked" (after ####) elsewhere."""
    grade_pattern: Pattern | None = None
    """Regular expression of grade = "regex": its first group, or all of its match, counts."""
    metric: MetricSource | None = None
    """In place of eval.metric."""
    score: Literal["generate", "logprob"] | None = None
    """In place of eval.score."""
    max_new_tokens: Positive | None = None
    """In place of eval.max_new_tokens."""
    num_fewshot: Count | None = None
    """In place of eval.num_fewshot."""

    @model_validator(mode="after")
    def _one_source(self) -> TaskTable:
        given = [k for k in ("preset", "path", "dataset") if getattr(self, k) is not None]
        if not given:
            raise problem("", "needs a preset, or path (a file of rows), or dataset and split")
        if len(given) > 1:
            raise problem(
                given[1], f"a task has a {given[0]} or a {given[1]}, not both; take one out"
            )
        if given == ["preset"]:
            why = "a preset knows its own columns and splits; own rows are named in path"
            self._refuse(("columns", "control_path", "report_path", *SPLIT_KEYS), why)
        if given == ["path"]:
            self._refuse(SPLIT_KEYS, "goes with dataset, not with path; take it out")
        if given == ["dataset"] and self.split is None:
            raise problem("split", 'is needed with dataset, such as split = "train"')
        return self

    @model_validator(mode="after")
    def _keys_fit_together(self) -> TaskTable:
        for kind in ("control", "report"):
            if getattr(self, f"{kind}_path") is not None:
                self._refuse((f"{kind}_split",), f"{kind}_path is there too; take one out")
        if self.grade != "regex":
            self._refuse(("grade_pattern",), 'has no effect without grade = "regex"')
        elif self.grade_pattern is None:
            raise problem("grade_pattern", 'is needed with grade = "regex"')
        return self

    def _refuse(self, keys: Iterable[str], why: str) -> None:
        for key in keys:
            if getattr(self, key) is not None:
                raise problem(key, why)
