"""A whole run whose questions are scored by the likeliest letter of their choices."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.ledger import read_rows
from msft_lite.recipe import Recipe, load
from msft_lite.report.tables import control_grid, report_grid
from msft_lite.report.telling import tell
from msft_lite.run.build import build_tasks
from msft_lite.run.session import run
from tests.whole_runs import Watcher

RECIPE = """
output_dir = "run"
seed = 3
[model]
name_or_path = "{model}"
dtype = "float32"
[train]
learning_rate = 1e-2
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
threads = 1
[method]
name = "sft"
epochs = 1
[engine]
name = "torch"
[data]
control_samples = 16
report_samples = 6
[[tasks]]
name = "word"
path = "word.jsonl"
max_new_tokens = 4
[[tasks]]
name = "choice"
path = "choice.jsonl"
num_fewshot = 2
score = "logprob"
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Path) -> Recipe:
    draw = random.Random(5)
    choices = [
        {"question": f"{n}?", "choices": draw.sample("uvwxyz", 4), "answer": draw.randrange(4)}
        for n in range(40)
    ]
    words = [{"prompt": f"Q: {n}\nA: ", "answer": "#### k"} for n in range(40)]
    for name, rows in {"choice": choices, "word": words}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.toml").write_text(RECIPE.format(model=tiny_model_folder))
    return load(tmp_path / "r.toml", [f"output_dir={tmp_path / 'run'}"])


def test_the_likeliest_whole_answer_is_what_the_ledger_scores(
    recipe: Recipe, tiny_model_folder: Path
) -> None:
    folder = run(recipe, mode="new", watch=Watcher())
    rows = read_rows(folder / "ledger.jsonl")
    assert rows[0]["score"] == {"word": "generate", "choice": "logprob"}
    base = next(row for row in rows if row["kind"] == "mark" and row["k"] == 0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    word, choice = build_tasks(recipe, tokenizer)
    engine = TorchEngine(
        AutoModelForCausalLM.from_pretrained(tiny_model_folder), eos_ids=(0,), pad_id=0
    )
    outcomes = ""
    for question in choice.control:
        texts = [tuple(tokenizer(f"#### {letter}")["input_ids"]) for letter in "ABCD"]
        values = engine.log_probabilities([(question.prompt, text) for text in texts])
        totals = [sum(value) for value in values]
        outcomes += "1" if question.gold == "ABCD"[totals.index(max(totals))] else "0"
    assert base["outcomes"]["choice"] == outcomes
    assert "1" in outcomes
    assert "0" in outcomes
    shared = len(tokenizer("#### ")["input_ids"])
    asked = sum(len(q.prompt) for q in (*word.control, *choice.control)) + 16 * shared
    assert base["prompt_tokens"] == asked
    assert 32 <= base["generated_tokens"] <= 16 + 16 * 4
    example = json.loads((folder / "examples.json").read_text())["tasks"]["choice"][0]
    assert example["base"]["output"] in {"#### A", "#### B", "#### C", "#### D"}
    story = tell(rows)
    told = "Scored by the likeliest letter of the choices, nothing written: choice."
    assert told in control_grid(story).notes
    assert told in report_grid(story).notes
