"""The tables of a recipe: strict, frozen pydantic models, and nothing else.

A key that is not here is refused. What can only be told with a second key in view is refused too,
so that no key is ever ignored in silence. Documentation of a key is the text below it; it is also
what `msft-lite schema` prints.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from msft_lite.recipe.keys import (
    Count,
    Fraction01,
    MetricSource,
    ModelSource,
    Positive,
    RecipePath,
    Seconds,
    Table,
    WorkingPath,
    layer_interval,
    problem,
    target_modules,
    true_false_or_auto,
)
from msft_lite.recipe.method_tables import MethodTable
from msft_lite.recipe.rules import conflicts
from msft_lite.recipe.task_table import TaskTable

LORA_KEYS = (
    "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora",
)  # fmt: skip
LARGEST_SEED = 2**32 - 1  # what numpy's generators take too


class ModelTable(Table):
    """[model]: what is tuned and how."""

    name_or_path: ModelSource
    """Folder of the base model, or its name on the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on a GPU, float32 on the CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    tuning: Literal["lora", "full"] = "lora"
    """lora trains an adapter, full trains every weight."""
    load_in_4bit: bool = False
    """Hold the frozen base in 4 bits (NF4, double quantised), for lora; vllm holds it unpacked."""
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
    use_rslora: bool = False
    """Scale the adapter by lora_alpha / sqrt(lora_r), which suits high ranks."""
    use_dora: bool = False
    """Train the length of every weight column apart from its direction; vllm gets it merged."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention kernel in training; left out: the model library's choice."""
    liger_kernels: bool = False
    """Compute norms, rotary positions and gated layers in liger-kernel's kernels; for a GPU."""
    gradient_checkpointing: Annotated[
        bool | Positive | Literal["auto"], BeforeValidator(layer_interval)
    ] = False
    """Compute layers again in the backward pass: true all, k every k-th, auto as few as fits."""
    activation_offload: bool = False
    """Hold the inputs of layers that are computed again in the host's memory; for a GPU."""
    trust_remote_code: bool = False
    """Run model code that comes with the model."""

    @model_validator(mode="after")
    def _lora_keys_belong_to_lora(self) -> ModelTable:
        explicit = [key for key in LORA_KEYS if key in self.model_fields_set]
        if self.tuning == "full" and explicit:
            raise problem(explicit[0], 'has no effect with tuning = "full"; take it out')
        if self.tuning == "full" and self.load_in_4bit:
            raise problem(
                "load_in_4bit", 'weights of 4 bits cannot be trained; set tuning = "lora"'
            )
        return self

    @model_validator(mode="after")
    def _what_is_for_a_gpu(self) -> ModelTable:
        if self.activation_offload and self.gradient_checkpointing in (False, "auto"):
            raise problem(
                "activation_offload",
                "what is moved are the inputs of layers that are computed again; set "
                "gradient_checkpointing = true, or to every how many layers",
            )
        if self.activation_offload and self.device == "cpu":
            raise problem(
                "activation_offload",
                "on the CPU there is nothing to offload, activations are in the host's memory; "
                "take it out",
            )
        if self.liger_kernels and self.device == "cpu":
            raise problem("liger_kernels", "the kernels are for NVIDIA GPUs; take it out")
        return self


class TrainTable(Table):
    """[train]: the optimizer and its batches."""

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    """Constant after the warm-up. Left out: 2e-4 with tuning = "lora", 1e-5 with "full"."""
    per_device_train_batch_size: Positive = 8
    """Rows of one forward and backward pass."""
    gradient_accumulation_steps: Positive = 8
    """Passes of one optimizer step: a step holds the product of the two in rows."""
    auto_micro_batch: bool = False
    """Keep that product, and take the most rows of a pass that fit when the run begins."""
    padding_free: bool | None = None
    """Lay the rows of a pass one after another, unpadded; left out: wherever it is safe."""
    loss_kernel: Literal["auto", "chunked", "liger", "cut_cross_entropy"] = "auto"
    """auto: on a GPU the fused kernel of liger-kernel where it is installed, else chunked."""
    max_length: Annotated[int, Field(ge=2)] = 512
    """Most tokens of a training row; what is longer is cut."""
    optim: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"
    """AdamW; with moments of 8 bits; with moments that leave a full GPU for the host; both."""
    bf16_update: Literal["stochastic", "nearest"] | None = None
    """How full tuning rounds updates of bfloat16 weights; left out: stochastic, without bias."""
    optimizer_in_backward: bool = False
    """Update each parameter as soon as its gradient is there: gradients take next to no memory."""
    loraplus_lr_ratio: Annotated[float, Field(ge=1.0)] = 1.0
    """LoRA+: the learning rate of an adapter's B matrices is this many times the rate."""
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
    deterministic: bool = False
    """Train by deterministic algorithms alone: the same bits on one GPU every time, but slower."""
    threads: Positive | None = None
    """CPU threads of training; left out: all."""

    @property
    def batch_rows(self) -> int:
        """The most rows of an optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @model_validator(mode="after")
    def _there_is_a_micro_batch_to_choose(self) -> TrainTable:
        if self.auto_micro_batch and self.optimizer_in_backward:
            raise problem(
                "auto_micro_batch",
                "with optimizer_in_backward a step is one pass, whose rows are the batch itself; "
                "take it out",
            )
        if self.auto_micro_batch and self.batch_rows == 1:
            raise problem("auto_micro_batch", "has no effect on a step of one row; take it out")
        return self

    @model_validator(mode="after")
    def _a_step_in_backward_is_one_pass(self) -> TrainTable:
        if self.optimizer_in_backward and self.gradient_accumulation_steps > 1:
            raise problem(
                "optimizer_in_backward",
                "a gradient is complete after the only pass of a step; there are "
                f"{self.gradient_accumulation_steps}: set gradient_accumulation_steps = 1",
            )
        if self.optimizer_in_backward and self.max_grad_norm > 0:
            raise problem(
                "optimizer_in_backward",
                "the norm that clips is known only after the last gradient; set max_grad_norm = 0",
            )
        return self


class EvalTable(Table):
    """[eval]: when and how tasks are scored."""

    at: Literal["mark", "end"] = "mark"
    """Score while training goes on, or all at once at the end of each stage. Same scores."""
    marks_per_epoch: Positive = 4
    """Times an epoch is scored, at equal distances."""
    dropped_every: Positive = 1
    """Tasks that left the mixture are scored at every so many marks, and at a stage's ends."""
    steer_on: Literal["control", "report"] = "control"
    """report: steer by the reported rows, as the paper does; its scores are then too good."""
    metric: MetricSource = "accuracy"
    """accuracy, f1, loss, or a function of one's own: package.module:name or file.py:name."""
    score: Literal["generate", "logprob"] = "generate"
    """generate: grade what is written; logprob: the likeliest letter of a question's choices."""
    num_fewshot: Count | None = None
    """Solved rows put before each question; left out: 5 for a preset, 0 for own rows."""
    fewshot_source: Literal["fixed", "train"] = "fixed"
    """fixed: the preset's own shots, training rows where there are none; train: training rows."""
    max_prompt_length: Positive = 700
    """Most tokens of a question with its shots: shots are left out first, then it is cut."""
    max_new_tokens: Positive | None = None
    """Most tokens of an answer; left out: what the preset needs, 512 for own rows."""


class EngineTable(Table):
    """[engine]: what generates the answers; all but the name changes results by rounding only."""

    name: Literal["auto", "vllm", "torch"] = "auto"
    """auto: vllm where it can be used and a 4-bit base, unpacked, is no burden; else torch."""
    python: RecipePath | None = None
    """Interpreter of another environment that holds vllm."""
    threads: Positive | None = None
    """CPU threads of vllm; left out: all."""
    kv_cache_bytes: Positive | None = None
    """Memory for the key-value cache of vllm; left out: what the questions need."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the GPU's whole memory that must be free when vllm starts."""
    share_weights: Annotated[bool | Literal["auto"], BeforeValidator(true_false_or_auto)] = "auto"
    """vllm computes with the trainer's weights and holds none; auto: on a GPU, if it can."""
    enforce_eager: bool | None = None
    """No compilation and no CUDA graphs in vllm: starts sooner, answers slower."""
    max_num_seqs: Positive | None = None
    """Questions that vllm answers at once."""
    batch_size: Positive | None = None
    """Questions that the torch engine answers at once."""
    start_timeout_seconds: Seconds = 900.0
    """Longest wait for vllm to start."""
    call_timeout_seconds: Seconds = 1800.0
    """Longest wait for vllm to answer one request; one new engine is then tried, as if it died."""


class DataTable(Table):
    """[data]: where rows come from and how many are used; a task's own keys come first."""

    dir: RecipePath | None = None
    """Folder with the presets' rows, <task>.<split>.jsonl; left out: they come from the hub."""
    cache_dir: RecipePath | None = None
    """Folder of tokenised rows, safe to delete; left out: ~/.cache/msft_lite."""
    on_too_long: Literal["truncate", "drop"] = "truncate"
    """Training rows over train.max_length: cut from the prompt's left, or leave out. Counted."""
    on_overlap: Literal["drop", "refuse"] = "drop"
    """Training rows that repeat held-out ones: leave out and count, or stop."""
    apply_chat_template: bool = False
    """Put rows of prompt and answer into the model's chat template; chats always are."""
    chat_template: RecipePath | None = None
    """Jinja file of a chat template, used in place of the tokenizer's own where it has one."""
    train_samples: Positive | None = None
    """Rows to train on; left out: all."""
    control_samples: Positive | None = None
    """Rows that steer the run; left out: all of a split of its own, 200 where it is carved."""
    report_samples: Positive | None = None
    """Rows for the final scores; left out: all of a split of its own, 500 where it is carved."""


class SnapshotsTable(Table):
    """[snapshots]: how the weights at a mark are stored."""

    delta: bool | None = None
    """Store what differs from the base or the start of the stage; left out: with full tuning."""
    where: Literal["disk", "ram"] = "disk"
    """ram: nothing is written at a mark; a killed run trains the roll-out in progress again."""
    max_bytes: Positive | None = None
    """Most bytes of snapshots and crash copies; points beyond it are trained again when needed."""


class Recipe(Table):
    """A whole run, resolved: every path absolute, every default filled in."""

    output_dir: WorkingPath
    """Folder of the run, relative to the working folder. Left out: runs/<name of the recipe>."""
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 20
    """Orders the rows and draws the adapter. Splits are carved by a seed of their own."""
    model: ModelTable
    train: TrainTable
    method: Annotated[MethodTable, Field(discriminator="name")]
    eval: EvalTable = EvalTable()
    engine: EngineTable = EngineTable()
    data: DataTable = DataTable()
    snapshots: SnapshotsTable = SnapshotsTable()
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

    @model_validator(mode="after")
    def _tables_fit_together(self) -> Recipe:
        for key, message in conflicts(self):
            raise problem(key, message)
        return self
