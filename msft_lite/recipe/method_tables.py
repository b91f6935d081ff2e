"""The tables [method] of a recipe: one a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from msft_lite.recipe.keys import Positive, Table, problem

Signal: TypeAlias = Literal["metric", "loss"]


class MsftTable(Table):
    """[method] with name = "msft": roll back and drop the task that over-fits first, repeat."""

    name: Literal["msft"] = "msft"
    """Train, roll back, drop, repeat."""
    budget: Positive = 3
    """Epochs of a stage, the compute budget C."""
    start_counts: bool = True
    """Whether the start of a stage may be a task's peak."""
    keep_optimizer: bool = False
    """Carry moments and data order over a roll-back instead of starting them afresh."""
    drop_all_tied: bool = False
    """Drop every task that shares the earliest peak, not only the first by name."""
    max_stages: Positive | None = None
    """Most stages; left out: twice the tasks plus 2."""
    detector: Literal["peak", "significant"] = "peak"
    """peak: any fall counts as over-fitting; significant: only one that a paired test confirms."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Level of that test."""
    signal: Signal = "metric"
    """What steers: the tasks' metric, or the loss on the control rows, which is less coarse."""

    @model_validator(mode="after")
    def _alpha_belongs_to_the_test(self) -> MsftTable:
        if self.detector == "peak" and "alpha" in self.model_fields_set:
            raise problem("alpha", 'has no effect with detector = "peak"; take it out')
        return self


class SftTable(Table):
    """[method] with name = "sft": plain training on the full mixture, best checkpoint returned."""

    name: Literal["sft"]
    """Train once on everything."""
    epochs: Positive = 10
    """Length of the run."""
    signal: Signal = "metric"
    """What picks the checkpoint: the tasks' metric, or the loss on the control rows."""


class ContinualTable(Table):
    """[method] with name = "continual": one task after another."""

    name: Literal["continual"]
    """Train the tasks in the recipe's order, each from the best checkpoint of the one before."""
    epochs: Positive = 10
    """Passes over each task."""
    signal: Signal = "metric"
    """What picks checkpoints: the tasks' metric, or the loss on the control rows."""


class SroTable(Table):
    """[method] with name = "sro" or "soft_sro": a search, then each task as long as it found."""

    name: Literal["sro", "soft_sro"]
    """sro stops each task at its best mark of the search, soft_sro draws it as often as that."""
    epochs: Positive = 10
    """Length of the search."""
    signal: Signal = "metric"
    """What finds best marks: the tasks' metric, or the loss on the control rows."""


class DynamixTable(Table):
    """[method] with name = "dynamix": a bandit chooses the task of every row."""

    name: Literal["dynamix"]
    """Draw tasks by how much a step on each lowers its loss."""
    epochs: Positive = 10
    """Length of the run, in rows as many as so many passes over all tasks."""
    period: Positive = 50
    """Optimizer steps from one probe of all tasks to the next."""
    beta: Annotated[float, Field(ge=0.0)] = 4.0
    """How strongly the bandit's estimates tilt the chances."""
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    """Share of rows drawn from all tasks alike."""
    alpha: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    """Weight of an estimate's past."""
    signal: Signal = "metric"
    """What picks the checkpoint: the tasks' metric, or the loss on the control rows."""


class IesTable(Table):
    """[method] with name = "ies": rows whose loss no longer bends are left out."""

    name: Literal["ies"]
    """Leave out mastered rows, anew every epoch."""
    epochs: Positive = 10
    """Length of the run."""
    delta: Annotated[float, Field(gt=0.0)] = 0.01
    """A row is mastered while the second difference of its loss is below this, in nats."""
    signal: Signal = "metric"
    """What picks the checkpoint: the tasks' metric, or the loss on the control rows."""


class ShiftTable(Table):
    """[method] with name = "shift": go on from the first peak with and without its task."""

    name: Literal["shift"]
    """Train, go back to the first peak, and on from it along two branches."""
    epochs: Positive = 10
    """Length of the first roll-out, and of what leads to the end of either branch."""
    signal: Signal = "metric"
    """What finds best marks: the tasks' metric, or the loss on the control rows."""


MethodTable: TypeAlias = (
    MsftTable | SftTable | ContinualTable | SroTable | DynamixTable | IesTable | ShiftTable
)
METHOD_TABLES: Mapping[str, type[Table]] = {
    "msft": MsftTable,
    "sft": SftTable,
    "continual": ContinualTable,
    "sro": SroTable,
    "soft_sro": SroTable,
    "dynamix": DynamixTable,
    "ies": IesTable,
    "shift": ShiftTable,
}
