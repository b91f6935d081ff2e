"""The parts of a run that exist before its engine does."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from msft_lite.core import Clock
from msft_lite.data.task import Task
from msft_lite.engine.choose import Choice
from msft_lite.engine.shared_weights import SharedWeights
from msft_lite.engine.tenancy import Tenancy
from msft_lite.ledger import Ledger
from msft_lite.model.settings import ModelSettings
from msft_lite.recipe import Recipe
from msft_lite.report.live import Watcher
from msft_lite.run.folder import RunFolder
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything of a run but its engine, which starts while training already goes on."""

    recipe: Recipe  # with nothing left to choose
    folder: RunFolder
    settings: ModelSettings
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel | PeftModel
    tasks: tuple[Task, ...]
    trainer: Trainer
    store: SnapshotStore
    ledger: Ledger
    clock: Clock
    watch: Watcher
    choice: Choice
    tenancy: Tenancy | None = None  # of vllm, once it is settled
    shared: SharedWeights | None = None  # None: vllm has a copy of its own
