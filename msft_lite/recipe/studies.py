"""Which runs a study of the paper is made of, as variants of one recipe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from msft_lite.errors import RecipeError
from msft_lite.recipe.load import SEVERAL, Draft, read_draft
from msft_lite.recipe.several import Variant, method_table

ROWS = "train_samples"


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """What a study takes from the command line.

    Attributes:
        epochs: of every method but msft; None: [method]'s own where it names the method, else the
            method's default.
        budgets: of msft, in the study of budgets alone.
    """

    epochs: int | None = None
    budgets: tuple[int, ...] = (1, 3, 5)


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a study: what it is called and what it changes in the recipe.

    Attributes:
        method: a table [method]; options it leaves out are the recipe's where that names it.
        changes: tables and keys from the top of the recipe to put in place of its own.
    """

    label: str
    method: Mapping[str, Any]
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])


Plan: TypeAlias = Callable[[Draft, StudyOptions], Sequence[Trial]]


def load_study(
    name: str,
    path: Path,
    *,
    overrides: Sequence[str] = (),
    output_dir: Path | None = None,
    options: StudyOptions = StudyOptions(),
) -> tuple[Path, tuple[Variant, ...]]:
    """Returns the folder of study ``name`` of the recipe at ``path``, and the runs it needs.

    The folder is called by the study and lies in ``output_dir``, or else in the recipe's own. Each
    run's lies in it and is called by the run's label.

    Raises:
        RecipeError: a file, an override or one of the runs cannot be used, or the recipe lacks what
            the study compares.
    """
    draft = read_draft(path, overrides)
    for key in SEVERAL:
        if key in draft.document:
            raise RecipeError(
                f"{path}: {key}: a study chooses its own methods and has one seed; take it out by "
                f"{key}="
            )
    draft.recipe(draft.document)  # so that plans need not doubt what they read
    parent = output_dir or Path(str(draft.document.get("output_dir", f"runs/{path.stem}")))
    folder = parent.absolute() / name
    variants = [
        Variant(trial.label, draft.recipe(_document(draft, trial, folder)))
        for trial in PLANS[name](draft, options)
    ]
    return folder, tuple(variants)


def _document(draft: Draft, trial: Trial, folder: Path) -> dict[str, Any]:
    own = copy.deepcopy(draft.document) | copy.deepcopy(dict(trial.changes))
    method = method_table(draft.document, trial.method)
    return own | {"method": method, "output_dir": str(folder / trial.label)}


def _of(name: str, options: StudyOptions) -> dict[str, Any]:
    """Returns [method] of ``name`` with as many epochs as the command line says."""
    return {"name": name} if options.epochs is None else {"name": name, "epochs": options.epochs}


def _sft_alone(_draft: Draft, options: StudyOptions) -> list[Trial]:
    return [Trial("sft", _of("sft", options))]


def _shift_alone(_draft: Draft, options: StudyOptions) -> list[Trial]:
    return [Trial("shift", _of("shift", options))]


def _sft_and_msft(_draft: Draft, options: StudyOptions) -> list[Trial]:
    return [Trial("sft", _of("sft", options)), Trial("msft", {"name": "msft"})]


def _budget(_draft: Draft, options: StudyOptions) -> list[Trial]:
    trials = [
        Trial(f"msft-budget-{budget}", {"name": "msft", "budget": budget})
        for budget in options.budgets
    ]
    return [Trial("sft", _of("sft", options)), *trials]


def _granularity(draft: Draft, options: StudyOptions) -> list[Trial]:
    if not any("split_by" in task for task in _tasks(draft)):
        raise RecipeError(
            f"{draft.path}: the study granularity compares methods on the parts of a dataset, and "
            'no task of [tasks] is divided: write split_by = "COLUMN" in one, such as '
            'tasks = [{ name = "medmcqa", split_by = "subject" }]'
        )
    methods = (_of("sft", options), _of("ies", options), {"name": "msft"})
    return [Trial(method["name"], method) for method in methods]


def _scale(draft: Draft, options: StudyOptions) -> list[Trial]:
    """Returns sft and msft on half and all of the tasks, with half and all of the rows."""
    tasks = _tasks(draft)
    if len(tasks) < 2:
        raise RecipeError(
            f"{draft.path}: the study scale runs on half of [tasks] and on all of them, and there "
            "is one entry; give two or more"
        )
    cells = [
        _cell(draft, tasks[:count], divisor)
        for count in (len(tasks) // 2, len(tasks))
        for divisor in (2, 1)
    ]
    return [
        Trial(f"{cell}/{method['name']}", method, changes)
        for cell, changes in cells
        for method in (_of("sft", options), {"name": "msft"})
    ]


def _cell(
    draft: Draft, tasks: Sequence[Mapping[str, Any]], divisor: int
) -> tuple[str, dict[str, Any]]:
    """Returns what tells apart a number of tasks and rows, and what it changes in the recipe."""
    shared: Mapping[str, Any] = draft.document.get("data", {})
    rows = [_rows(draft, task, shared) for task in tasks]
    own = [{**task, ROWS: count // divisor} for task, count in zip(tasks, rows, strict=True)]
    total = sum(count // divisor for count in rows)
    return f"{len(tasks)}-tasks-{total}-rows", {"tasks": own}


def _rows(draft: Draft, task: Mapping[str, Any], shared: Mapping[str, Any]) -> int:
    count = task.get(ROWS, shared.get(ROWS))
    if type(count) is not int or count < 2:
        name = task.get("name", task.get("preset"))
        raise RecipeError(
            f"{draft.path}: the study scale trains on half of the rows and on all of them: say how "
            f"many that is by data.{ROWS}=N, 2 or more (task {name!r} has {count!r})"
        )
    return count


def _tasks(draft: Draft) -> list[Mapping[str, Any]]:
    """Returns the tables of the tasks; a name alone is a preset's."""
    given = cast(list[Any], draft.document["tasks"])
    return [{"name": task, "preset": task} if isinstance(task, str) else task for task in given]


PLANS: Mapping[str, Plan] = {
    "heterogeneity": _sft_alone,
    "shift": _shift_alone,
    "budget": _budget,
    "scale": _scale,
    "granularity": _granularity,
    "decomposition": _sft_and_msft,
    "loss": _sft_and_msft,
}
