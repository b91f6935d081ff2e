"""Recipes that are refused, and what every refusal says."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msft_lite.errors import RecipeError
from msft_lite.recipe import dump_toml, load

SMALL = """
[model]
name_or_path = "Qwen/Qwen2.5-0.5B"
[[tasks]]
name = "add"
path = "add.jsonl"
[[tasks]]
name = "sort"
path = "sort.jsonl"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, overrides)
    return str(caught.value)


REFUSED = {
    "train.learning_rate=fast": 'train.learning_rate = "fast" (from the command line): a number',
    "snapshots.max_bytes=0": "must be at least 1",
    "snapshots.where=tmpfs": "'disk'",
    "train.lernrate=1": "train.lernrate = 1 (from the command line): unknown key",
    "train.learning_rat=1": "did you mean 'learning_rate'?",
    "trian.max_length=1": "did you mean 'train'?",
    "lora_r=4": "did you mean 'model.lora_r'?",
    "model.seed=4": "'seed' belongs at the top of the file",
    "tasks.sort.grad=exact": 'tasks.sort.grad = "exact" (from the command line): unknown key; did',
    "method.epochs=4": "option of method 'sft', not of 'msft'",
    "method.name=mstf": "'ies', 'shift'; did you mean 'msft'?",
    "method.budget=0": "method.budget = 0 (from the command line): must be at least 1",
    "method.budget=1.5": "a whole number is needed",
    "method.start_counts=1": "true or false is needed",
    "method.alpha=0.1": 'no effect with detector = "peak"',
    "train.learning_rate=inf": "finite number",
    "train.learning_rate=0": "must be greater than 0",
    "train.adam_beta1=1.0": "must be less than 1",
    "train.auto_micro_batch=1": "true or false is needed",
    "train.optim=adam8": "'paged_adamw_8bit'",
    "train.bf16_update=nearest": 'has no effect with tuning = "lora", whose adapters are float32',
    "snapshots.delta=true": "adapters are stored whole, so it has no effect; take it out",
    "snapshots.delta=1": "true or false is needed",
    "snapshots.deltas=true": "did you mean 'delta'?",
    "train.loraplus_lr_ratio=0.5": "must be at least 1",
    "eval.score=letters": "'generate', 'logprob'",
    "train.optimizer_in_backward=true": "there are 8: set gradient_accumulation_steps = 1",
    "model.gradient_checkpointing=0": 'needed is true, false, "auto", or a whole number k',
    "model.gradient_checkpointing=-2": 'needed is true, false, "auto", or a whole number k',
    "model.gradient_checkpointing=1.5": 'needed is true, false, "auto", or a whole number k',
    "model.gradient_checkpointing=all": 'needed is true, false, "auto", or a whole number k',
    "model.activation_offload=true": "set gradient_checkpointing = true, or to every how many",
    "model.activation_offload=1": "true or false is needed",
    "engine.share_weights=1": 'needed is true, false or "auto"',
    "engine.share_weights=always": 'needed is true, false or "auto"',
    "model.tuning=loar": "must be one of 'lora', 'full'; did you mean 'lora'?",
    "train.deterministic=1": "true or false is needed",
    "train.padding_free=1": "true or false is needed",
    "train.loss_kernel=ligr": "must be one of 'auto', 'chunked', 'liger', 'cut_cross_entropy'",
    "model.liger_kernels=1": "true or false is needed",
    "model.revision=12": "text in quotes",
    "model.name_or_path=": "model.name_or_path (from the command line): is missing",
    "model.name_or_path=a/b/c": "no folder",
    "model.lora_target_modules=all": '"all-linear" or a list',
    "model.lora_target_modules=[1]": '"all-linear" or a list',
    "model.lora_target_modules=[q_proj]": "not a TOML value",
    "seed=-1": "must be at least 0",
    "seed=true": "a whole number is needed",
    "train=3": "a table of keys is needed",
    "method=3": "a table of keys is needed",
    "tasks=3": "a list is needed: names of presets, or tables each headed [[tasks]]",
    "tasks=[3]": "a table of keys is needed",
    "tasks=": "at least one [[tasks]] table",
    "tasks=[]": "at least one [[tasks]] table",
    "tasks.sort.path=3": "tasks.sort.path = 3 (from the command line): a path in quotes",
    "tasks.sort.dataset=x": "a path or a dataset, not both",
    "tasks.sort.split=train": "goes with dataset, not with path",
    "tasks.sort.columns=3": "a table of texts is needed",
    "tasks.sort.columns={a = 1}": "text in quotes is needed",
    "tasks.sort.grade=regx": "'regex'; did you mean 'regex'?",
    "tasks.sort.grade=regex": 'tasks.sort.grade_pattern: is needed with grade = "regex"',
    "tasks.sort.grade_pattern=x": 'has no effect without grade = "regex"',
    "tasks.sort.metric=acuracy": "file.py:name; did you mean 'accuracy'?",
    "eval.metric=my/metrics.txt:score": "must be one of 'accuracy', 'f1', 'loss', or a function",
    "eval.metric=:score": "or a function of your own",
    "eval.metric=metrics:2": "or a function of your own",
    "data.dir=rows": "has no effect: no task is a preset",
    "eval.fewshot_source=train": "no task shows solved rows; set eval.num_fewshot",
    "tasks.sort.name=ADD": "tasks.0 is called 'add' already",
    "tasks.sort.name=a/b": "must be letters, digits",
    "tasks.srot.path=x": "tasks.srot: no such task; did you mean 'sort'? (tasks here: add, sort)",
    "tasks.2.path=x": "no such task",
    "tasks.0=x": "names a whole task",
    "extends=x.toml": "what a recipe extends can only stand in a file",
    "model.extends=x.toml": "'extends' belongs at the top of the file",
    "extend=x.toml": "did you mean 'extends'?",
    "seed.x=1": "seed is a value and has no keys",
    "seed": "is not a change; write key.path=value",
    "=3": "is not a change",
    "train..x=3": "is not a change",
}


@pytest.mark.parametrize("override", REFUSED)
def test_refusals_of_one_change(small: Path, override: str) -> None:
    small.write_text("seed = 1\n" + SMALL)
    assert REFUSED[override] in refusal(small, override)


def test_lora_options_are_refused_only_where_they_are_written(small: Path) -> None:
    assert load(small, ["model.tuning=full"]).model.tuning == "full"
    message = refusal(small, "model.tuning=full", "model.lora_r=4")
    assert "model.lora_r = 4 (from the command line): has no effect" in message


TOGETHER = {
    ("model.tuning=full", "model.dtype=float32", "train.bf16_update=stochastic"): (
        'train.bf16_update = "stochastic" (from the command line): has no effect with '
        'model.dtype = "float32"; take it out'
    ),
    ("model.tuning=full", "train.loraplus_lr_ratio=1.0"): (
        "train.loraplus_lr_ratio = 1.0 (from the command line): has no effect with "
        'tuning = "full"; take it out'
    ),
    (
        "train.optimizer_in_backward=true",
        "train.gradient_accumulation_steps=1",
        "train.max_grad_norm=1.0",
    ): "the norm that clips is known only after the last gradient; set max_grad_norm = 0",
    (
        "train.optimizer_in_backward=true",
        "train.gradient_accumulation_steps=1",
        "train.auto_micro_batch=true",
    ): "a step is one pass, whose rows are the batch itself; take it out",
    (
        "train.per_device_train_batch_size=1",
        "train.gradient_accumulation_steps=1",
        "train.auto_micro_batch=true",
    ): "train.auto_micro_batch = true (from the command line): has no effect on a step of one row",
    (
        "model.device=cpu",
        "model.gradient_checkpointing=2",
        "model.activation_offload=true",
    ): "on the CPU there is nothing to offload, activations are in the host's memory; take it out",
    ("model.gradient_checkpointing=auto", "model.activation_offload=true"): (
        "layers that are computed again; set gradient_checkpointing = true, or to every how many"
    ),
    ("model.attn_implementation=flash_attention_2", "train.deterministic=true"): (
        "train.deterministic = true (from the command line): the backward pass of "
        "flash_attention_2 adds up in any order"
    ),
    ("model.device=cpu", "model.liger_kernels=true"): (
        "model.liger_kernels = true (from the command line): the kernels are for NVIDIA GPUs"
    ),
    ("model.device=cpu", "train.loss_kernel=liger"): (
        'train.loss_kernel = "liger" (from the command line): the kernel is for NVIDIA GPUs and'
    ),
    ("train.deterministic=true", "train.loss_kernel=cut_cross_entropy"): (
        "adds gradients up in any order, and train.deterministic is true"
    ),
    ("model.dtype=float32", "train.loss_kernel=cut_cross_entropy"): (
        "takes no float32, which model.dtype is"
    ),
    ("model.device=cpu", "train.optim=paged_adamw_8bit"): (
        "paging needs a GPU and model.device is cpu; take 'adamw_8bit'"
    ),
}


@pytest.mark.parametrize("overrides", TOGETHER)
def test_keys_that_exclude_each_other(small: Path, overrides: tuple[str, ...]) -> None:
    assert TOGETHER[overrides] in refusal(small, *overrides)


def test_keys_of_the_optimizer_that_go_together(small: Path) -> None:
    full = load(
        small,
        [
            "model.tuning=full",
            "model.dtype=bfloat16",
            "model.device=cuda",
            "train.optim=paged_adamw_8bit",
            "train.bf16_update=nearest",
            "train.optimizer_in_backward=true",
            "train.gradient_accumulation_steps=1",
        ],
    )
    assert full.train.bf16_update == "nearest"
    small.write_text(dump_toml(full))  # says nothing of LoRA+, which would be refused
    assert load(small) == full
    assert load(small, ["model.tuning=lora", "train.bf16_update=", "train.loraplus_lr_ratio=16"])


def test_rows_one_after_another_have_an_attention_of_their_own(small: Path) -> None:
    kernel = "model.attn_implementation=eager"
    message = refusal(small, "train.padding_free=true", kernel)
    assert "train.padding_free = true (from the command line): rows that lie one after" in message
    assert load(small, ["train.padding_free=false", kernel]).train.padding_free is False
    assert load(small, ["train.padding_free=true"]).train.padding_free is True
    assert load(small, [kernel]).train.padding_free is None


def test_dataset_needs_a_split(small: Path) -> None:
    message = refusal(small, "tasks.add.path=", "tasks.add.dataset=owner/name")
    assert "tasks.add.split: is needed with dataset" in message


def test_all_problems_are_told_at_once(small: Path) -> None:
    message = refusal(small, "train.max_length=0", "model.lora_rank=3", "tasks.add.pth=x")
    assert message.startswith(f"{small}: 3 problems\n")
    for key in ("train.max_length", "model.lora_rank", "tasks.add.pth"):
        assert f"\n  {key} = " in message


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"seed = 1\nmodel = [\n", "at end of document"),
        (b"seed = \n", "(at line 1, column 8)"),
        (b"seed = 1\nseed = 2\n", "line 2"),
        (b"name = '\xff'", "not UTF-8 text (byte 8)"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"", "model: is missing"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(str(path))
    assert fragment in message


def test_missing_recipe_and_folder_in_its_place(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.toml")
    assert "cannot read the recipe" in refusal(tmp_path)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_message(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "r.toml"
    path.write_bytes(content)
    assert str(path) in refusal(path)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
KEYS = ["seed", "model", "train", "method", "eval", "tasks", "tasks.add", "tasks.0.path", "x"]
KEYS += ["model.tuning", "method.name", "train.max_length", "engine.python", "tasks.0.name"]


@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=3))
def test_arbitrary_changes_give_a_recipe_or_a_message(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, object]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "changes.toml"
    path.write_text(SMALL)
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes]
    try:
        recipe = load(path, overrides)
    except RecipeError as error:
        assert len(str(error)) > 20
    else:
        assert tomllib.loads(dump_toml(recipe))["seed"] == recipe.seed


def test_a_bound_on_the_disk_and_snapshots_in_memory_exclude_each_other(small: Path) -> None:
    message = refusal(small, "snapshots.max_bytes=1000", "snapshots.where=ram")
    assert (
        "snapshots.max_bytes = 1000 (from the command line): bounds what is on the disk" in message
    )
    assert load(small, ["snapshots.max_bytes=1000"]).snapshots.max_bytes == 1000
    assert load(small, ["snapshots.where=ram"]).snapshots.where == "ram"
