"""Makes the quickstart's base model: a small Qwen2 trained from nothing on made-up text.

Run `python make_base.py` in this folder: about ten minutes on one core. Everything is drawn from
`SEED` and runs on one thread, so the same machine and library versions give the same bytes.

The base reads and writes single characters and knows simple skills on letters and digits in a
form of its own (`flip abc -> cba`). The tasks of `make_tasks.py` ask for related skills, mostly
in other words, so that an adapter has something to build on and something left to learn.
"""

from __future__ import annotations

import argparse
import math
import random
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

SEED = 20
ROWS_PER_STEP = 20
ROW_TOKENS = 96
WARMUP_STEPS = 100
# The characters of a question are random and cannot be predicted: at full weight their noise
# drowns the signal of the answers. A little weight still teaches the forms.
PROMPT_WEIGHT = 0.1

END = "<eos>"
PAD = "<pad>"
MERGES = [("#", "#"), ("##", "##")]  # the marker of an answer, ####, is one token

Skill = Callable[[random.Random], tuple[str, str]]


def letters(rng: random.Random, low: int, high: int) -> str:
    """Returns a word of `low` to `high` random lower-case letters."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))


def copy(rng: random.Random) -> tuple[str, str]:
    """Repeats a word."""
    word = letters(rng, 2, 8)
    return f"copy {word}", word


def marked_copy(rng: random.Random) -> tuple[str, str]:
    """Repeats a word, in the form of the tasks: the only skill the base knows in that form."""
    word = letters(rng, 2, 8)
    return f"Q: copy {word}\nA: ", f"#### {word}"


def flip(rng: random.Random) -> tuple[str, str]:
    """Writes a short word backwards."""
    word = letters(rng, 2, 5)
    return f"flip {word}", word[::-1]


def arrange(rng: random.Random) -> tuple[str, str]:
    """Puts a few letters in alphabetical order."""
    word = letters(rng, 2, 4)
    return f"arrange {word}", "".join(sorted(word))


def after(rng: random.Random) -> tuple[str, str]:
    """Moves every letter one on in the alphabet; z becomes a."""
    word = letters(rng, 1, 3)
    return f"after {word}", "".join(chr((ord(c) - 96) % 26 + 97) for c in word)


def plus(rng: random.Random) -> tuple[str, str]:
    """Adds two numbers of one or two digits."""
    left, right = (rng.randrange(10 ** rng.randint(1, 2)) for _ in range(2))
    return f"plus {left} {right}", str(left + right)


def find(rng: random.Random) -> tuple[str, str]:
    """Looks up a letter in a table of letters and digits."""
    keys = rng.sample(string.ascii_lowercase, rng.randint(2, 5))
    values = [rng.choice(string.digits) for _ in keys]
    chosen = rng.randrange(len(keys))
    table = " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return f"find {table} {keys[chosen]}", values[chosen]


def head(rng: random.Random) -> tuple[str, str]:
    """Names the first letter of a word."""
    word = letters(rng, 2, 8)
    return f"head {word}", word[0]


def tail(rng: random.Random) -> tuple[str, str]:
    """Names the last letter of a word."""
    word = letters(rng, 2, 8)
    return f"tail {word}", word[-1]


def size(rng: random.Random) -> tuple[str, str]:
    """Counts the letters of a word."""
    word = letters(rng, 1, 9)
    return f"size {word}", str(len(word))


def top(rng: random.Random) -> tuple[str, str]:
    """Names the largest of a few digits."""
    digits = rng.choices(string.digits, k=rng.randint(2, 5))
    return f"top {' '.join(digits)}", max(digits)


def alphabet(rng: random.Random) -> tuple[str, str]:
    """Recites a part of the alphabet from a letter on."""
    start = rng.randrange(24)
    return f"from {string.ascii_lowercase[start]}", string.ascii_lowercase[start + 1 : start + 9]


# A skill's weight: the hard ones are drawn more often.
SKILLS: dict[Skill, int] = {
    copy: 2,
    marked_copy: 2,
    flip: 4,
    arrange: 4,
    after: 3,
    plus: 5,
    find: 5,
    head: 1,
    tail: 2,
    size: 2,
    top: 2,
    alphabet: 1,
}


# Other names of the skills, met in the second phase: they teach that a name can be new.
OTHER_NAMES = {
    "copy": "say",
    "flip": "mirror",
    "arrange": "order",
    "after": "next",
    "plus": "total",
    "find": "get",
    "head": "start",
    "tail": "end",
    "size": "len",
    "top": "max",
    "from": "since",
}


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with its own optimizer.

    Attributes:
        steps: Optimizer steps.
        learning_rate: Rate after the warm-up; a cosine takes it to zero.
        marked_share: Share of the documents in the form of the tasks.
        renamed_share: Share of the documents that use the skill's other name.
    """

    steps: int
    learning_rate: float
    marked_share: float
    renamed_share: float


# The skills first, in one form: together with the forms they take far longer to appear.
PHASES = (Phase(3000, 3e-3, 0.0, 0.0), Phase(600, 1.5e-3, 0.5, 0.4))


def make_tokenizer() -> Qwen2Tokenizer:
    """Returns a tokenizer with one token a byte, the answer marker and two special tokens.

    It is the class that loaders pick for this architecture, so that every engine reads it alike.
    """
    pieces = [PAD, END, *sorted(ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    return Qwen2Tokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=MERGES,
        unk_token=PAD,
        eos_token=END,
        pad_token=PAD,
        model_max_length=256,
    )


def make_model(tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """Returns an untrained model of about one million parameters."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,  # 32 wide: the smallest head vLLM's CPU attention takes
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def dress(prompt: str, answer: str, phase: Phase, rng: random.Random) -> tuple[str, str]:
    """Returns the prompt and the answer in one of the forms of `phase`."""
    if phase.renamed_share and rng.random() < phase.renamed_share:
        name, thing = prompt.split(" ", 1)
        prompt = f"{OTHER_NAMES[name]} {thing}"
    if phase.marked_share and rng.random() < phase.marked_share:
        return f"Q: {prompt}\nA: ", f"#### {answer}"
    return f"{prompt} -> ", answer


def document(
    rng: random.Random, tokenizer: Qwen2Tokenizer, phase: Phase
) -> tuple[list[int], list[float]]:
    """Returns the tokens of one drawn example and the loss weight of every token."""
    skill = rng.choices(list(SKILLS), weights=list(SKILLS.values()))[0]
    prompt, answer = skill(rng)
    if skill is not marked_copy:
        prompt, answer = dress(prompt, answer, phase, rng)
    asked = tokenizer.encode(prompt)
    answered = [*tokenizer.encode(answer), tokenizer.eos_token_id]
    return asked + answered, [PROMPT_WEIGHT] * len(asked) + [1.0] * len(answered)


def row(
    rng: random.Random, tokenizer: Qwen2Tokenizer, phase: Phase
) -> tuple[list[int], list[float]]:
    """Returns `ROW_TOKENS` tokens and weights: whole documents from the left, then padding."""
    tokens: list[int] = []
    weights: list[float] = []
    while True:
        more_tokens, more_weights = document(rng, tokenizer, phase)
        if len(tokens) + len(more_tokens) > ROW_TOKENS:
            gap = ROW_TOKENS - len(tokens)
            return tokens + [tokenizer.pad_token_id] * gap, weights + [0.0] * gap
        tokens += more_tokens
        weights += more_weights


def weighted_loss(
    model: Qwen2ForCausalLM, tokens: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Returns the weighted mean cross-entropy of the next token; both inputs are [B, T]."""
    logits = model(input_ids=tokens).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    kept = weights[:, 1:].flatten()
    return (losses * kept).sum() / kept.sum()


def rate(step: int, steps: int) -> float:
    """Returns the share of the learning rate at `step`: linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS))


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, phase: Phase) -> None:
    """Trains `model` in place for one phase on freshly drawn rows."""
    rng = random.Random(SEED)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, phase.steps))
    began = time.monotonic()
    for step in range(phase.steps):
        rows = [row(rng, tokenizer, phase) for _ in range(ROWS_PER_STEP)]
        tokens = torch.tensor([tokens for tokens, _ in rows])
        weights = torch.tensor([weights for _, weights in rows])
        loss = weighted_loss(model, tokens, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            print(
                f"step {step + 1} loss {loss.item():.4f} {time.monotonic() - began:.0f} s",
                flush=True,
            )


def main() -> None:
    """Makes the model and the tokenizer and saves both, the weights in bfloat16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "base")
    output = parser.parse_args().output
    torch.set_num_threads(1)  # one thread adds in one order
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    for phase in PHASES:
        train(model, tokenizer, phase)
        model.to(torch.bfloat16).save_pretrained(output)
        # The next phase goes on from what was saved, so that it can be redone alone.
        model.float()
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()
