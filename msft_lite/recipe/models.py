"""The tables of a recipe: strict, frozen pydantic models, and nothing else.

A key that is not here is refused. What can only be told with a second key in view is refused too,
so that no key is ever ignored in silence. Documentation of a key is the text below it; it is also
what `msft-lite schema` prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

LORA_KEYS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
KEY_PROBLEM = "key_problem"  # type of the errors below: `key` is appended to their location
LARGEST_SEED = 2**32 - 1  # what numpy's generators take too
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"  # task names become parts of file names

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fraction01 = Annotated[float, Field(ge=0.0, lt=1.0)]
Seconds = Annotated[float, Field(gt=0.0)]


def problem(key: str, message: str) -> PydanticCustomError:
    """Returns an error about ``key`` of the table at hand; '' for the table itself."""
    return PydanticCustomError(KEY_PROBLEM, "{message}", {"key": key, "message": message})


def absolute_path(value: Any, info: ValidationInfo) -> Any:
    """Returns a path made absolute against the folder in the validation's context.

    Links are kept as they are written: a virtual environment's interpreter and the files of a
    download cache are links whose targets have other names.
    """
    if not isinstance(value, str | Path):
        return value
    if not str(value) or "\0" in str(value):
        raise problem("", "a path is needed")
    folder = info.context["folder"] if info.context else Path.cwd()
    path: Path = folder / home_expanded(value)
    # Only the file system can tell where ".." leads: it may follow a link.
    return path.parent.resolve() / path.name if ".." in path.parent.parts else path


def working_path(value: Any) -> Any:
    """Returns a path made absolute against the working folder, whatever holds the recipe."""
    if not isinstance(value, str | Path):
        return value
    if not str(value) or "\0" in str(value):
        raise problem("", "a path is needed")
    return (Path.cwd() / home_expanded(value)).resolve()


def home_expanded(value: str | Path) -> Path:
    """Returns ``value`` with a leading ``~`` replaced by the home folder."""
    try:
        return Path(value).expanduser()
    except RuntimeError:  # no such user
        return Path(value)


def model_source(value: str, info: ValidationInfo) -> str:
    """Returns an absolute folder, or a hub name such as ``Qwen/Qwen2.5-0.5B`` unchanged."""
    folder = Path(absolute_path(value, info))
    if value.startswith((".", "/", "~")) or folder.is_dir():
        return str(folder)
    if value.count("/") > 1 or "\\" in value or " " in value:
        raise problem("", f"no folder {folder}; a model on the hub is named as owner/name")
    return value


def target_modules(value: Any) -> Any:
    """Returns "all-linear" or a tuple of module names."""
    if isinstance(value, list | tuple):
        names = tuple(cast(list[Any] | tuple[Any, ...], value))
        if names and all(isinstance(name, str) and name for name in names):
            return names
    elif value == "all-linear":
        return value
    raise problem("", 'needed is "all-linear" or a list of names such as ["q_proj", "v_proj"]')


RecipePath = Annotated[Path, BeforeValidator(absolute_path)]


class Table(BaseModel):
    """A strict table: no unknown keys, no conversions between types, no infinities."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class ModelTable(Table):
    """[model]: what is tuned and how."""

    name_or_path: Annotated[str, Field(min_length=1), AfterValidator(model_source)]
    """Folder of the base model, or its name on the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on a GPU, float32 on the CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    tuning: Literal["lora", "full"] = "lora"
    """lora trains an adapter, full trains every weight."""
    lora_r: Positive = 16
    """Rank of the adapter."""
    lora_alpha: Positive = 32
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_r."""
    lora_dropout: Fraction01 = 0.0
    """Chance of an adapter's input to be dropped in training."""
    lora_target_modules: Annotated[
        Literal["all-linear"] | tuple[str, ...], BeforeValidator(target_modules)
    ] = "all-linear"
    """Modules that get an adapter: all linear ones but the head, or a list of names."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention kernel in training; left out: the model library's choice."""
    gradient_checkpointing: bool = False
    """Trade time for memory: activations are computed again in the backward pass."""
    trust_remote_code: bool = False
    """Run model code that comes with the model."""

    @model_validator(mode="after")
    def _lora_keys_belong_to_lora(self) -> ModelTable:
        explicit = [key for key in LORA_KEYS if key in self.model_fields_set]
        if self.tuning == "full" and explicit:
            raise problem(explicit[0], 'has no effect with tuning = "full"; take it out')
        return self


class TrainTable(Table):
    """[train]: the optimizer and its batches."""

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    """Constant after the warm-up. Left out: 2e-4 with tuning = "lora", 1e-5 with "full"."""
    per_device_train_batch_size: Positive = 8
    """Rows of one forward and backward pass."""
    gradient_accumulation_steps: Positive = 8
    """Passes of one optimizer step: a step holds the product of the two in rows."""
    max_length: Annotated[int, Field(ge=2)] = 512
    """Most tokens of a training row; what is longer is cut."""
    optim: Literal["adamw"] = "adamw"
    """The optimizer."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay."""
    warmup_steps: Count = 0
    """Optimizer steps over which the learning rate rises from 0."""
    adam_beta1: Fraction01 = 0.9
    """Decay of the first moment."""
    adam_beta2: Fraction01 = 0.999
    """Decay of the second moment."""
    adam_epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    """Added to the denominator of the update."""
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 0.0
    """Gradients are clipped to this norm; 0: never."""
    threads: Positive | None = None
    """CPU threads of training; left out: all."""


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


class EvalTable(Table):
    """[eval]: when and how tasks are scored."""

    at: Literal["mark", "end"] = "mark"
    """Score while training goes on, or all at once at the end of each stage. Same scores."""
    marks_per_epoch: Positive = 4
    """Times an epoch is scored, at equal distances."""
    num_fewshot: Count = 0
    """Solved training rows put before each question."""
    max_prompt_length: Positive = 700
    """Most tokens of a question with its shots; what is longer is cut."""
    max_new_tokens: Positive = 512
    """Most tokens of an answer."""


class EngineTable(Table):
    """[engine]: what generates the answers; all but the name changes results by rounding only."""

    name: Literal["auto", "vllm", "torch"] = "auto"
    """auto: vllm where it can be used, else torch."""
    python: RecipePath | None = None
    """Interpreter of another environment that holds vllm."""
    threads: Positive | None = None
    """CPU threads of vllm; left out: all."""
    kv_cache_bytes: Positive | None = None
    """Memory for the key-value cache of vllm; left out: what the questions need."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the GPU's whole memory that must be free when vllm starts."""
    enforce_eager: bool | None = None
    """No compilation and no CUDA graphs in vllm: starts sooner, answers slower."""
    max_num_seqs: Positive | None = None
    """Questions that vllm answers at once."""
    batch_size: Positive | None = None
    """Questions that the torch engine answers at once."""
    start_timeout_seconds: Seconds = 900.0
    """Longest wait for vllm to start."""
    call_timeout_seconds: Seconds = 1800.0
    """Longest wait for vllm to answer one request."""


class DataTable(Table):
    """[data]: how many rows of every task are used; a task's own keys come first."""

    train_samples: Positive | None = None
    """Rows to train on; left out: all."""
    control_samples: Positive | None = None
    """Rows that steer the run; left out: all of a split of its own, 200 where it is carved."""
    report_samples: Positive | None = None
    """Rows for the final scores; left out: all of a split of its own, 500 where it is carved."""


class TaskTable(Table):
    """[[tasks]]: one sub-dataset, from local files or from a dataset on the hub."""

    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
    """How ledger and report call it."""
    path: RecipePath | None = None
    """JSON-lines file of training rows."""
    dataset: Annotated[str, Field(min_length=1)] | None = None
    """owner/name, or owner/name:configuration, of a dataset on the hub; goes with `split`."""
    split: Annotated[str, Field(min_length=1)] | None = None
    """Its split to train on."""
    control_path: RecipePath | None = None
    """File of control rows; left out: carved from the training rows."""
    control_split: Annotated[str, Field(min_length=1)] | None = None
    """Split of control rows; left out: carved from the training rows."""
    report_path: RecipePath | None = None
    """File of report rows; left out: carved from the training rows."""
    report_split: Annotated[str, Field(min_length=1)] | None = None
    """Split of report rows; left out: carved from the training rows."""
    train_samples: Positive | None = None
    """In place of data.train_samples."""
    control_samples: Positive | None = None
    """In place of data.control_samples."""
    report_samples: Positive | None = None
    """In place of data.report_samples."""
    grade: Literal["exact", "marked"] = "marked"
    """marked: what follows #### is the answer; exact: the whole text is."""
    max_new_tokens: Positive | None = None
    """In place of eval.max_new_tokens."""
    num_fewshot: Count | None = None
    """In place of eval.num_fewshot."""

    @model_validator(mode="after")
    def _one_source(self) -> TaskTable:
        if self.path is None and self.dataset is None:
            raise problem("", "needs path (a file of rows), or dataset and split")
        if self.path is not None and self.dataset is not None:
            raise problem("dataset", "a task has a path or a dataset, not both; take one out")
        if self.dataset is not None and self.split is None:
            raise problem("split", 'is needed with dataset, such as split = "train"')
        self._no_splits_of_files()
        self._one_of(self.control_path, self.control_split, "control")
        self._one_of(self.report_path, self.report_split, "report")
        return self

    def _no_splits_of_files(self) -> None:
        splits = {
            "split": self.split,
            "control_split": self.control_split,
            "report_split": self.report_split,
        }
        for key, value in splits.items():
            if self.dataset is None and value is not None:
                raise problem(key, "goes with dataset, not with path; take it out")

    def _one_of(self, path: Path | None, split: str | None, kind: str) -> None:
        if path is not None and split is not None:
            raise problem(f"{kind}_split", f"{kind}_path is there too; take one out")


class Recipe(Table):
    """A whole run, resolved: every path absolute, every default filled in."""

    output_dir: Annotated[Path, BeforeValidator(working_path)]
    """Folder of the run, relative to the working folder. Left out: runs/<name of the recipe>."""
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 20
    """Orders the rows and draws the adapter. Splits are carved by a seed of their own."""
    model: ModelTable
    train: TrainTable
    method: Annotated[MsftTable | SftTable, Field(discriminator="name")]
    eval: EvalTable = EvalTable()
    engine: EngineTable = EngineTable()
    data: DataTable = DataTable()
    tasks: Annotated[tuple[TaskTable, ...], Field(strict=False, min_length=1)]

    @field_validator("tasks", mode="after")
    @classmethod
    def _different_names(cls, tasks: tuple[TaskTable, ...]) -> tuple[TaskTable, ...]:
        first: dict[str, int] = {}
        for index, task in enumerate(tasks):
            # Names become file names, and some file systems do not tell a from A.
            earlier = first.setdefault(task.name.lower(), index)
            if earlier != index:
                raise problem(
                    f"{index}.name",
                    f"tasks.{earlier} is called {tasks[earlier].name!r} already; names must differ",
                )
        return tasks
