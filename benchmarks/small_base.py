"""Makes a small base model that has met the form of the benchmarks, for runs without a GPU.

    python benchmarks/small_base.py --data FOLDER --out FOLDER [--steps 400]

FOLDER holds the presets' local files (``<task>.<split>.jsonl``). A byte-level BPE tokenizer and a
Qwen2 of about three million parameters are trained on texts of several solved training rows of
one benchmark each, as a few-shot prompt has them. The model learns the form and next to none of
the knowledge: it shows what a run does and costs, not what it is good for.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from msft_lite.data.files import read_records
from msft_lite.data.tasks import PRESETS
from msft_lite.data.tasks.items import preset_row

SEED = 20
VOCABULARY = 4096
CONTEXT = 2048
ROW_TOKENS = 512
ROWS_PER_STEP = 4
LEARNING_RATE = 2e-3
WARMUP_STEPS = 30
PAD, END = "<pad>", "<eos>"

Texts = Mapping[str, Sequence[tuple[str, str]]]  # prompts and answers of every benchmark


def main() -> None:
    """Makes the tokenizer and the model and saves both, the weights in bfloat16."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    texts = training_texts(arguments.data)
    tokenizer = make_tokenizer([text for rows in texts.values() for row in rows for text in row])
    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(texts)} tasks")
    train(model, {name: encoded(rows, tokenizer) for name, rows in texts.items()}, arguments.steps)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


def training_texts(folder: Path) -> Texts:
    """Returns question and answer of every training row, per benchmark that is in ``folder``."""
    texts: dict[str, list[tuple[str, str]]] = {}
    for preset in PRESETS.values():
        path = folder / f"{preset.file_stem or preset.name}.train.jsonl"
        if path.is_file():
            rows = [preset_row(preset, record, local=True) for record in read_records(path)]
            texts[preset.name] = [(row.prompt, f"{row.answer}\n\n") for row in rows]
    return texts


def make_tokenizer(texts: Sequence[str]) -> Qwen2Tokenizer:
    """Returns a byte-level BPE tokenizer trained on ``texts``."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        unk_token=PAD,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
    )


def make_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Returns an untrained model."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=6,  # 32 wide: the smallest head vLLM's CPU attention takes
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def encoded(texts: Sequence[tuple[str, str]], tokenizer: Qwen2Tokenizer) -> list[list[int]]:
    """Returns the ids of every prompt and its answer, encoded apart as they are in training."""
    prompts, answers = (
        tokenizer([row[part] for row in texts], verbose=False)["input_ids"] for part in (0, 1)
    )
    return [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]


def row(tasks: Mapping[str, list[list[int]]], rng: random.Random) -> list[int]:
    """Returns `ROW_TOKENS` ids of rows of one task, the last cut off."""
    texts = tasks[rng.choice(list(tasks))]
    ids: list[int] = []
    while len(ids) < ROW_TOKENS:
        ids += rng.choice(texts)
    return ids[:ROW_TOKENS]


def train(model: Qwen2ForCausalLM, tasks: Mapping[str, list[list[int]]], steps: int) -> None:
    """Trains ``model`` in place: linear warm-up, then linear decay to zero."""
    rng = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    began = time.monotonic()
    for step in range(steps):
        rate = min((step + 1) / WARMUP_STEPS, (steps - step) / steps)
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        ids = torch.tensor([row(tasks, rng) for _ in range(ROWS_PER_STEP)])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - began
            print(f"step {step + 1} loss {loss.item():.3f} {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
