"""What a run will cost, told before it starts: the method is driven with assumed curves.

Nothing is trained and torch is not imported; a plan takes about a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from msft_lite.core import Clock
from msft_lite.data.rows import Row
from msft_lite.data.settings import TaskSettings
from msft_lite.data.splits import CARVED_CONTROL_ROWS, CARVED_REPORT_ROWS, SPLIT_SEED
from msft_lite.data.task_rows import MAX_NEW_TOKENS, TaskRows, resolved, task_rows
from msft_lite.data.tasks import preset
from msft_lite.errors import DataError
from msft_lite.methods import build_method
from msft_lite.model.settings import Dtype, ModelSettings
from msft_lite.model.size import ModelSize, model_size
from msft_lite.recipe import MsftTable, Recipe
from msft_lite.run.assumed import EARLIEST_PEAK, AssumedWorld, Tally, assumed_peaks
from msft_lite.run.disk import DiskPlan
from msft_lite.run.loop import drive
from msft_lite.run.task_settings import task_settings
from msft_lite.train.settings import moment_bytes

CHARACTERS_PER_TOKEN = 4  # of English text under a large vocabulary
HUB_ROWS = 2_000  # assumed where a data set would have to be downloaded to be counted


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Rows of a task, and the tokens of an average training row."""

    name: str
    train_rows: int
    control_rows: int
    report_rows: int
    tokens_per_row: Fraction
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What `plan` says.

    Attributes:
        tally: stages, steps, evaluations and snapshots.
        train_tokens: tokens of all rows drawn.
        generated_tokens_at_most: on control and report rows, were every answer of full length.
        size: sizes of the model, None if it is not in a local folder.
        disk: snapshots and crash copies; None where `size` is.
        written_bytes: of all snapshots and crash copies; None where `size` is.
        assumption: one line on the curves.
        notes: what was counted, estimated or left out.
    """

    method: str
    tasks: tuple[TaskPlan, ...]
    tally: Tally
    train_tokens: int
    generated_tokens_at_most: int
    size: ModelSize | None
    disk: DiskPlan | None
    written_bytes: int | None
    assumption: str
    notes: tuple[str, ...]


def plan(recipe: Recipe) -> Plan:
    """Returns what running ``recipe`` would come to if the tasks behaved as assumed.

    Raises:
        DataError: a data file cannot be used.
        ModelError: the model folder cannot be used.
    """
    size = model_size(_model_settings(recipe))
    counter = TokenCounter(Path(recipe.model.name_or_path))
    notes: list[str] = []
    tasks = tuple(
        task
        for settings in task_settings(recipe)
        for task in _task_plans(recipe, settings, counter, notes)
    )
    notes += _estimates(recipe, counter, size)
    if recipe.method.name == "ies":
        notes.append("assumed: no row is mastered, so none is left out; a run will train on fewer")
    epochs = _horizon(recipe)
    tally = simulate(recipe, {task.name: task.train_rows for task in tasks}, epochs)
    evaluated = sum(
        (tally.scored[task.name] * task.control_rows + 2 * task.report_rows) * task.max_new_tokens
        for task in tasks
    )
    disk = size and disk_plan(recipe, tally, size)
    if disk is not None:
        notes += [line for line in (disk.problem, *disk.notes) if line]
    return Plan(
        method=recipe.method.name,
        tasks=tasks,
        tally=tally,
        train_tokens=round(sum(tally.rows[task.name] * task.tokens_per_row for task in tasks)),
        generated_tokens_at_most=evaluated,
        size=size,
        disk=disk,
        written_bytes=disk and (disk.snapshot_bytes + disk.crash_bytes) * tally.snapshots_written,
        assumption=_assumption(len(tasks), epochs),
        notes=tuple(notes),
    )


def planned_disk(recipe: Recipe, sizes: Mapping[str, int]) -> DiskPlan | None:
    """Returns what the run takes of the disk at most; None where the model is not in a folder.

    Args:
        recipe: of the run.
        sizes: training rows per task.

    Raises:
        ModelError: the model folder cannot be used.
    """
    size = model_size(_model_settings(recipe))
    return size and disk_plan(recipe, simulate(recipe, sizes, _horizon(recipe)), size)


def disk_plan(recipe: Recipe, tally: Tally, size: ModelSize) -> DiskPlan:
    """Returns what the run takes of the disk at most."""
    crash_bytes = round(size.trainable_parameters * _moment_bytes(recipe))
    alive = tally.snapshots_alive
    return DiskPlan(size.snapshot_bytes, crash_bytes, alive, recipe.snapshots.max_bytes)


def simulate(recipe: Recipe, sizes: Mapping[str, int], epochs: int) -> Tally:
    """Returns the tally of the recipe's method on tasks of ``sizes`` training rows.

    Args:
        recipe: method, batch sizes, marks.
        sizes: training rows per task.
        epochs: the last task's peak.
    """
    clock = Clock(sizes, recipe.train.batch_rows, recipe.eval.marks_per_epoch)
    options = recipe.method.model_dump(exclude={"name", "signal"})
    world = AssumedWorld(
        clock,
        epochs,
        deferred=recipe.eval.at == "end",
        dropped_every=recipe.eval.dropped_every,
    )
    drive(build_method(recipe.method.name, clock, options), world.execute, world)
    return world.tally()


class TokenCounter:
    """Counts tokens with the model's own tokenizer where its file is at hand, else estimates."""

    def __init__(self, folder: Path) -> None:
        """Reads ``folder``/tokenizer.json if it is there."""
        # The tokenizer's engine alone: transformers' tokenizers import torch.
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else None

    @property
    def is_exact(self) -> bool:
        """Whether a tokenizer counts."""
        return self._tokenizer is not None

    def count(self, texts: Sequence[str]) -> list[int]:
        """Returns the tokens of each text, special tokens left out."""
        if self._tokenizer is None:
            return [max(1, len(text) // CHARACTERS_PER_TOKEN) for text in texts]
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encoded]


def _task_plans(
    recipe: Recipe, settings: TaskSettings, counter: TokenCounter, notes: list[str]
) -> list[TaskPlan]:
    """Returns the plan of a task, or of all that it is split into; adds to ``notes``."""
    if settings.path is None and settings.directory is None:
        return [_assumed_plan(recipe, settings, notes)]
    marks = recipe.eval.marks_per_epoch
    tasks = task_rows(settings, seed=SPLIT_SEED, least_train_rows=marks)
    return [_counted_plan(recipe, rows, counter, notes) for rows in tasks]


def _assumed_plan(recipe: Recipe, settings: TaskSettings, notes: list[str]) -> TaskPlan:
    """Returns the plan of a task whose rows would have to be downloaded to be counted."""
    known = preset(settings.preset) if settings.preset else None
    published = known.hub.rows if known else {}
    names = (known.hub.train, known.hub.control, known.hub.report) if known else ("", None, None)
    defaults = (HUB_ROWS, CARVED_CONTROL_ROWS, CARVED_REPORT_ROWS)
    train, control, report = (
        published.get(name or "", default) for name, default in zip(names, defaults, strict=True)
    )
    what = "its published size is taken" if known else f"{HUB_ROWS} rows are assumed"
    notes.append(f"{settings.name}: on the hub and not counted; {what}")
    if settings.split_by:
        notes.append(f"{settings.name}: planned as one task, as its rows were not read")
    return TaskPlan(
        settings.name,
        min(train, settings.train_samples or train),
        min(control, settings.control_samples or control),
        min(report, settings.report_samples or report),
        Fraction(recipe.train.max_length),
        _max_new_tokens(resolved(settings, known)),
    )


def _counted_plan(
    recipe: Recipe, rows: TaskRows, counter: TokenCounter, notes: list[str]
) -> TaskPlan:
    notes += [f"{rows.name}: {note}" for note in rows.notes]
    splits = rows.splits
    lengths = _lengths(splits.train, counter, recipe.train.max_length)
    if not lengths:
        raise DataError(
            f"task {rows.name!r}: no answer fits into train.max_length = {recipe.train.max_length}"
        )
    if len(lengths) < len(splits.train):
        notes.append(f"{rows.name}: {len(splits.train) - len(lengths)} answers are too long")
    return TaskPlan(
        rows.name,
        len(lengths),
        len(splits.control),
        len(splits.report),
        Fraction(sum(lengths), len(lengths)),
        _max_new_tokens(rows.settings),
    )


def _max_new_tokens(settings: TaskSettings) -> int:
    return settings.max_new_tokens or MAX_NEW_TOKENS


def _lengths(rows: Sequence[Row], counter: TokenCounter, max_length: int) -> list[int]:
    """Returns the tokens of every row that is trained on: answer, end of text, cut prompt."""
    prompts = counter.count([row.prompt for row in rows])
    answers = [tokens + 1 for tokens in counter.count([row.answer for row in rows])]
    return [
        min(prompt + answer, max_length)
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer < max_length
    ]


def _model_settings(recipe: Recipe) -> ModelSettings:
    table = recipe.model
    # Whether "auto" is a GPU takes torch to tell; float32 is the upper bound.
    on_gpu: Dtype = "bfloat16" if table.device == "cuda" else "float32"
    return ModelSettings(
        name_or_path=table.name_or_path,
        dtype=on_gpu if table.dtype == "auto" else table.dtype,
        tuning=table.tuning,
        lora_r=table.lora_r,
        lora_target_modules=table.lora_target_modules,
    )


def _moment_bytes(recipe: Recipe) -> float:
    dtype = "float32" if recipe.model.tuning == "lora" else _model_settings(recipe).dtype
    is_stochastic = recipe.train.bf16_update != "nearest"
    return moment_bytes(recipe.train.optim, dtype, is_stochastic=is_stochastic)


def _estimates(recipe: Recipe, counter: TokenCounter, size: ModelSize | None) -> list[str]:
    notes: list[str] = []
    if not counter.is_exact:
        notes.append(f"no tokenizer.json at hand: {CHARACTERS_PER_TOKEN} characters a token")
    if size is None:
        notes.append(f"{recipe.model.name_or_path} is not in a local folder: bytes are not known")
    if recipe.model.tuning == "full" and (recipe.model.dtype, recipe.model.device) == (
        "auto",
        "auto",
    ):
        notes.append("bytes are those of float32; on a GPU, bfloat16 takes half")
    return notes


def _horizon(recipe: Recipe) -> int:
    method = recipe.method
    return 2 * method.budget if isinstance(method, MsftTable) else method.epochs


def _assumption(count: int, epochs: int) -> str:
    if count == 1:
        return f"assumed: the task is best at epoch {float(assumed_peaks(1, epochs)[0]):g}"
    return (
        f"assumed: the {count} tasks, in the recipe's order, are best at evenly spread places "
        f"from epoch {float(EARLIEST_PEAK):g} to {epochs} of their own rows"
    )
