"""A table of what users get wrong: every case ends with code 2 and a message that helps.

To add a case, add a row to `CASES`: what differs from a recipe that runs, and what the message
must say. `{folder}` stands for the recipe's folder, `{model}` for a copy of a small model.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from msft_lite.cli import app

TRAIN_ROWS, HELD_OUT_ROWS = 20, 4
RECIPE = """
output_dir = "run"
[model]
name_or_path = "model"
lora_r = 2
[train]
per_device_train_batch_size = 4
gradient_accumulation_steps = 1
max_length = 64
[method]
budget = 1
[eval]
max_new_tokens = 4
[engine]
name = "torch"
[[tasks]]
name = "add"
path = "add.jsonl"
control_path = "add.control.jsonl"
report_path = "add.report.jsonl"
[[tasks]]
name = "sort"
path = "sort.jsonl"
control_path = "sort.control.jsonl"
report_path = "sort.report.jsonl"
"""


def row(prompt: str, answer: str) -> str:
    return json.dumps({"prompt": prompt, "answer": answer}) + "\n"


def rows(word: str, count: int) -> str:
    return "".join(row(f"{word} {n}? ", f"#### {n}") for n in range(count))


def chat(question: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "#### 1"}]
    return json.dumps({"messages": messages}) + "\n"


@dataclass(frozen=True, slots=True)
class Case:
    """What differs from `RECIPE`, and what the message must hold.

    Attributes:
        says: fragments of the message: what is wrong, where, and what to do.
        changes: arguments after the recipe.
        files: content by name, written over; None removes.
        command: arguments in place of ``run RECIPE``.
    """

    says: tuple[str, ...]
    changes: tuple[str, ...] = ()
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)
    command: tuple[str, ...] = ("run", "{folder}/recipe.toml")


ADD = rows("add", TRAIN_ROWS)
OTHER_RUN = json.dumps({"kind": "start", "format": 1, "recipe": "0" * 64}) + "\n"

RECIPE_CASES = {
    "unknown key": Case(
        ("recipe.toml: train.lerning_rate = 1", "unknown key", "did you mean 'learning_rate'?"),
        ("train.lerning_rate=1",),
    ),
    "key in the wrong table": Case(("lora_r = 4", "did you mean 'model.lora_r'?"), ("lora_r=4",)),
    "unknown table": Case(("modle", "did you mean 'model'?"), ("modle.dtype=auto",)),
    "wrong type": Case(
        ('train.learning_rate = "fast"', "a number is needed"), ("train.learning_rate=fast",)
    ),
    "out of range": Case(("method.budget = 0", "must be at least 1"), ("method.budget=0",)),
    "unknown choice": Case(
        ('method.name = "mstf"', "'msft', 'sft'", "did you mean 'msft'?"), ("method.name=mstf",)
    ),
    "option of the other method": Case(
        ("method.epochs = 3", "option of method 'sft', not of 'msft'"), ("method.epochs=3",)
    ),
    "several at once": Case(
        ("2 problems", "train.max_length", "seed"), ("train.max_length=0", "seed=-1")
    ),
    "TOML syntax": Case(
        ("recipe.toml: not valid TOML", "line 2, column 8"), files={"recipe.toml": "\nseed = \n"}
    ),
    "recipe is not text": Case(("not UTF-8",), files={"recipe.toml": b"\xff\xfes\x00"}),
    "no recipe": Case(("none.toml: no such file",), command=("run", "{folder}/none.toml")),
    "recipe is a folder": Case(("cannot read the recipe",), command=("run", "{folder}")),
    "no tasks": Case(("at least one [[tasks]] table",), ("tasks=[]",)),
    "two tasks of one name": Case(
        ("tasks.1.name", "'add' already", "names must differ"), ("tasks.sort.name=add",)
    ),
    "task name that is no file name": Case(
        ("tasks.1.name", "letters, digits"), ("tasks.sort.name=a/b",)
    ),
    "task without rows": Case(("sort", "own rows are named in path"), ("tasks.sort.path=",)),
    "path and dataset": Case(("tasks.sort.dataset", "not both"), ("tasks.sort.dataset=a/b",)),
    "LoRA option with full tuning": Case(
        ("model.lora_r = 2", 'no effect with tuning = "full"'), ("model.tuning=full",)
    ),
    "override without a value": Case(("'seed' is not a change", "key.path=value"), ("seed",)),
    "override of an unknown task": Case(
        ("tasks.srot", "did you mean 'sort'?"), ("tasks.srot.path=x",)
    ),
    "override that is no TOML": Case(
        ("not a TOML value",), ("model.lora_target_modules=[q_proj]",)
    ),
}
DATA_CASES = {
    "missing file": Case(
        ("ad.jsonl: no such file", "did you mean 'add.jsonl'?"), ("tasks.add.path=ad.jsonl",)
    ),
    "folder as a file": Case(("model: cannot be read",), ("tasks.add.path=model",)),
    "bad JSON in line 17": Case(
        ("add.jsonl, line 17: bad JSON", "column"),
        files={"add.jsonl": rows("add", 16) + '{"prompt": "x" "answer"}\n'},
    ),
    "one JSON array": Case(
        ("add.jsonl, line 1", "one object a line"), files={"add.jsonl": '[{"prompt": "x"}]'}
    ),
    "empty file": Case(("add.jsonl", "before any row"), files={"add.jsonl": ""}),
    "UTF-16": Case(("add.jsonl", "UTF-16", "UTF-8"), files={"add.jsonl": ADD.encode("utf-16")}),
    "misspelt key of a row": Case(
        ("line 21", "'prompt' is missing", "did you mean 'promt'?"),
        files={"add.jsonl": ADD + '{"promt": "x", "answer": "y"}\n'},
    ),
    "answer is a list": Case(
        ("line 21", "'answer' must be a string"),
        files={"add.jsonl": ADD + '{"prompt": "x", "answer": [3]}\n'},
    ),
    "empty answer": Case(
        ("line 21", "'answer' is empty"), files={"add.jsonl": ADD + row("x", " ")}
    ),
    "answer that cannot be scored": Case(
        ("add.control.jsonl, line 5", "cannot be scored", "'marked'"),
        files={"add.control.jsonl": rows("control", 4) + row("x", "#### .")},
    ),
    "no answer fits": Case(
        ("task 'add'", "no answer tokens after truncation", "train.max_length"),
        ("train.max_length=4",),
    ),
    "chat without a template": Case(
        ("add.jsonl, line 1", "no chat template"),
        files={
            "add.jsonl": "".join(chat(f"{n}?") for n in range(TRAIN_ROWS)),
            "add.control.jsonl": chat("a"),
            "add.report.jsonl": chat("b"),
        },
    ),
    "chats and plain rows": Case(
        ("mixes two forms", "line 21"), files={"add.jsonl": ADD + chat("hello")}
    ),
    "too few rows to carve from": Case(
        ("task 'add'", "cannot carve 50 control rows", "data.control_samples"),
        ("tasks.add.control_path=", "tasks.add.control_samples=50"),
    ),
    "too few rows for the default carving": Case(
        ("task 'add'", "cannot carve 500 report rows"), ("tasks.add.report_path=",)
    ),
    "control rows are the report rows": Case(
        ("task 'add'", "every row of the control split is in the report split"),
        ("tasks.add.control_path=add.report.jsonl",),
    ),
    "training rows are the report rows": Case(
        ("task 'add'", "no training rows are left"), ("tasks.add.path=add.report.jsonl",)
    ),
    "fewer rows than marks": Case(
        ("task 'add' has 3 training rows", "needs 4"), ("tasks.add.train_samples=3",)
    ),
    "more shots than rows": Case(
        ("num_fewshot = 21", "20 training rows"), ("tasks.add.num_fewshot=21",)
    ),
    "answers beyond the model's positions": Case(
        ("512 positions", "eval.max_new_tokens"), ("eval.max_new_tokens=600",)
    ),
}
MODEL_CASES = {
    "no such model folder": Case(
        ("modle", "does not exist", "did you mean"), ("model.name_or_path=./modle",)
    ),
    "model name that is no name": Case(
        ("model.name_or_path", "no folder", "owner/name"), ("model.name_or_path=a/b/c",)
    ),
    "model folder without a config": Case(
        ("model", "no config.json"), files={"model/config.json": None}
    ),
    "model folder without weights": Case(
        ("model", "safetensors"), files={"model/model.safetensors": None}
    ),
    "model folder with pickled weights": Case(
        ("model", "safetensors"),
        files={"model/model.safetensors": None, "model/pytorch_model.bin": b"\x80\x04."},
    ),
    "damaged weights": Case(
        ("model.safetensors",), files={"model/model.safetensors": b"\xff" * 64}
    ),
    "model folder without a tokenizer": Case(
        ("tokenizer", "model"),
        files={"model/tokenizer.json": None, "model/tokenizer_config.json": None},
    ),
    "unknown target module": Case(
        ("lora_target_modules", "'q_prj'", "did you mean 'q_proj'?"),
        ('model.lora_target_modules=["q_prj"]',),
    ),
    "engine without vllm": Case(
        ("/bin/false", "vllm", "install"), ("engine.name=vllm", "engine.python=/bin/false")
    ),
    "memory refused by the engine": Case(
        ("No available memory", "engine.log ends with", "engine.name"),
        ("engine.name=vllm", "engine.kv_cache_bytes=1"),
    ),
    "engine's interpreter is missing": Case(
        ("no-python", "cannot be run"), ("engine.name=vllm", "engine.python=./no-python")
    ),
}
FOLDER_CASES = {
    "output folder in use": Case(
        ("run is in use", "--resume", "--overwrite", "output_dir"),
        files={"run/ledger.jsonl": OTHER_RUN},
    ),
    "output folder of other things": Case(
        ("run is in use", "no run of msft-lite", "notes.txt", "output_dir"),
        files={"run/notes.txt": "mine"},
    ),
    "output folder is a file": Case(("run is in use",), files={"run": "a file"}),
    "output folder cannot be made": Case(
        ("cannot make the output folder",), ("output_dir=add.jsonl/run",)
    ),
    "nothing to resume": Case(("run holds no run to resume",), ("--resume",)),
    "resume of an empty folder": Case(("holds no run",), command=("resume", "{folder}")),
    "report of an empty folder": Case(("ledger.jsonl",), command=("report", "{folder}")),
    "damaged ledger": Case(
        ("ledger.jsonl, line 1", "damaged", "keep only the lines before"),
        ("--resume",),
        {"run/ledger.jsonl": 'not JSON\n{"kind": "start"}\n'},
    ),
    "ledger of another recipe": Case(
        ("ledger.jsonl", "began with another recipe", "--overwrite"),
        ("--resume",),
        {"run/ledger.jsonl": OTHER_RUN},
    ),
}
CASES = {**RECIPE_CASES, **DATA_CASES, **MODEL_CASES, **FOLDER_CASES}


@pytest.fixture
def folder(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # output_dir is relative to it
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for task in ("add", "sort"):
        (tmp_path / f"{task}.jsonl").write_text(rows(task, TRAIN_ROWS))
        for split in ("control", "report"):
            text = rows(f"{task} {split}", HELD_OUT_ROWS)
            (tmp_path / f"{task}.{split}.jsonl").write_text(text)
    return tmp_path


def arguments(case: Case, folder: Path) -> list[str]:
    """Returns the command line of ``case``, having written its files."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [*(part.format(folder=folder) for part in case.command), *case.changes]


def check(case: Case, exit_code: int, output: str) -> None:
    assert "Traceback" not in output
    assert "error: " in output
    missing = [fragment for fragment in case.says if fragment not in output]
    assert not missing, f"{missing} not in: {output}"
    assert exit_code == 2


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, folder: Path) -> None:
    case = CASES[name]
    result = CliRunner().invoke(app, arguments(case, folder))
    check(case, result.exit_code, result.stderr)


@pytest.mark.parametrize("name", ["unknown key", "bad JSON in line 17"])
def test_bad_input_through_a_process(name: str, folder: Path) -> None:
    case = CASES[name]
    command = [sys.executable, "-m", "msft_lite", *arguments(case, folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(case, done.returncode, done.stderr)
