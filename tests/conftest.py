"""Shared fixtures: a tiny random model with its tokenizer, made once a session."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

# Read when torch is first imported: as the command line sets it, see msft_lite/cli/commands.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests read what commands print, which these variables would have coloured.
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests that need a GPU where there is none, and says how many."""
    import torch

    needing = [item for item in items if item.get_closest_marker("gpu")]
    if torch.cuda.is_available() or not needing:
        return
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in needing]


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random Qwen2 (tied embeddings, float32) with a byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tests.tiny_models import random_model, spread

    folder = tmp_path_factory.mktemp("tiny-model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0, **{symbol: i + 1 for i, symbol in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    ).save_pretrained(folder)
    spread(random_model("qwen2", tied=True)).save_pretrained(folder)
    return folder


RECIPE = """
output_dir = "run"
seed = 3
[model]
name_or_path = "{model}"
dtype = "float32"
lora_r = 8
lora_alpha = 16
[train]
learning_rate = 1e-2
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
max_length = 64
threads = 1
[method]
name = "msft"
budget = 1
[eval]
max_new_tokens = 8
max_prompt_length = 64
[engine]
name = "torch"
"""


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    """Writes (prompt, answer) pairs as JSON lines."""
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in rows]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def small_recipe(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A recipe of three tasks that a tiny model trains in seconds with the torch engine.

    ``same`` has one answer and is learned at once, ``noise`` has none to learn, ``letter`` asks
    for the first letter of the question.
    """
    words = [f"{a}{b}{a}" for a in "abcdefgh" for b in "xyz"]
    answers = {
        "same": ["#### k"] * 24,
        "noise": [f"#### {'pqr'[(7 * i * i + i // 3) % 3]}" for i in range(24)],
        "letter": [f"#### {word[0]}" for word in words],
    }
    text = RECIPE.format(model=tiny_model_folder)
    for name, golds in answers.items():
        rows = [(f"Q: {word}\nA: ", gold) for word, gold in zip(words, golds, strict=True)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
        text += f'[[tasks]]\nname = "{name}"\npath = "{name}.jsonl"\n'
        text += "control_samples = 6\nreport_samples = 6\n"
    (tmp_path / "small.toml").write_text(text)
    return tmp_path / "small.toml"
