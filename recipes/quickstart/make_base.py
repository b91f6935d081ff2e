"""Makes the quickstart's base model: a small Qwen2 trained from nothing on made-up text.

Run `python make_base.py` in this folder: about ten minutes on one core. Everything is drawn from
`SEED` and runs on one thread, so the same machine and library versions give the same bytes.

The base reads and writes single characters and knows simple skills on letters and digits in a
form of its own (`flip abc -> cba`). The tasks of `make_tasks.py` ask for related skills, mostly
in other words, so that an adapter has something to build on and something left to learn.
"""

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
STEPS = 3000
ROWS_PER_STEP = 20
ROW_TOKENS = 96
LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
# The characters of a question are random and cannot be predicted: at full weight their noise
# drowns the signal of the answers. A little weight still teaches the forms.
PROMPT_WEIGHT = 0.1
MARKED_SHARE = 0.3  # of the documents are in the form of the tasks

END = "<eos>"
PAD = "<pad>"
MERGES = [("#", "#"), ("##", "##")]  # the marker of an answer, ####, is one token


def letters(rng: random.Random, low: int, high: int) -> str:
    """Returns a word of `low` to `high` random lower-case letters."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))


def copy(rng: random.Random) -> tuple[str, str]:
    """Repeats a word."""
    word = letters(rng, 2, 8)
    return word, word


def flip(rng: random.Random) -> tuple[str, str]:
    """Writes a short word backwards."""
    word = letters(rng, 2, 5)
    return word, word[::-1]


def arrange(rng: random.Random) -> tuple[str, str]:
    """Puts a few letters in alphabetical order."""
    word = letters(rng, 2, 4)
    return word, "".join(sorted(word))


def after(rng: random.Random) -> tuple[str, str]:
    """Moves every letter one on in the alphabet; z becomes a."""
    word = letters(rng, 1, 3)
    return word, "".join(chr((ord(c) - 96) % 26 + 97) for c in word)


def plus(rng: random.Random) -> tuple[str, str]:
    """Adds two numbers of one or two digits."""
    left, right = (rng.randrange(10 ** rng.randint(1, 2)) for _ in range(2))
    return f"{left} {right}", str(left + right)


def find(rng: random.Random) -> tuple[str, str]:
    """Looks up a letter in a table of letters and digits."""
    keys = rng.sample(string.ascii_lowercase, rng.randint(2, 4))
    values = [rng.choice(string.digits) for _ in keys]
    chosen = rng.randrange(len(keys))
    table = " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return f"{table} {keys[chosen]}", values[chosen]


def head(rng: random.Random) -> tuple[str, str]:
    """Names the first letter of a word."""
    word = letters(rng, 2, 8)
    return word, word[0]


def tail(rng: random.Random) -> tuple[str, str]:
    """Names the last letter of a word."""
    word = letters(rng, 2, 8)
    return word, word[-1]


def size(rng: random.Random) -> tuple[str, str]:
    """Counts the letters of a word."""
    word = letters(rng, 1, 9)
    return word, str(len(word))


def top(rng: random.Random) -> tuple[str, str]:
    """Names the largest of a few digits."""
    digits = rng.choices(string.digits, k=rng.randint(2, 5))
    return " ".join(digits), max(digits)


def alphabet(rng: random.Random) -> tuple[str, str]:
    """Recites a part of the alphabet from a letter on."""
    start = rng.randrange(24)
    return string.ascii_lowercase[start], string.ascii_lowercase[start + 1 : start + 9]


@dataclass(frozen=True, slots=True)
class Skill:
    """How one skill occurs in the text: by two names, the hard skills more often than the easy."""

    draw: Callable[[random.Random], tuple[str, str]]
    names: tuple[str, str]
    weight: int


SKILLS = (
    Skill(copy, ("copy", "say"), 3),
    Skill(flip, ("flip", "mirror"), 4),
    Skill(arrange, ("arrange", "order"), 4),
    Skill(after, ("after", "next"), 3),
    Skill(plus, ("plus", "total"), 5),
    Skill(find, ("find", "get"), 6),
    Skill(head, ("head", "start"), 1),
    Skill(tail, ("tail", "end"), 2),
    Skill(size, ("size", "len"), 2),
    Skill(top, ("top", "max"), 2),
    Skill(alphabet, ("from", "since"), 1),
)


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


def document(rng: random.Random, tokenizer: Qwen2Tokenizer) -> tuple[list[int], list[float]]:
    """Returns the tokens of one drawn example and the loss weight of every token."""
    skill = rng.choices(SKILLS, weights=[skill.weight for skill in SKILLS])[0]
    thing, answer = skill.draw(rng)
    prompt = f"{rng.choice(skill.names)} {thing}"
    if rng.random() < MARKED_SHARE:
        prompt, answer = f"Q: {prompt}\nA: ", f"#### {answer}"
    else:
        prompt = f"{prompt} -> "
    asked = tokenizer.encode(prompt)
    answered = [*tokenizer.encode(answer), tokenizer.eos_token_id]
    return asked + answered, [PROMPT_WEIGHT] * len(asked) + [1.0] * len(answered)


def row(rng: random.Random, tokenizer: Qwen2Tokenizer) -> tuple[list[int], list[float]]:
    """Returns `ROW_TOKENS` tokens and weights: whole documents from the left, then padding."""
    tokens: list[int] = []
    weights: list[float] = []
    while True:
        more_tokens, more_weights = document(rng, tokenizer)
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


def rate(step: int) -> float:
    """Returns the share of the learning rate at `step`: linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS))


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    """Trains `model` in place for `STEPS` steps on freshly drawn rows."""
    rng = random.Random(SEED)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    began = time.monotonic()
    for step in range(STEPS):
        rows = [row(rng, tokenizer) for _ in range(ROWS_PER_STEP)]
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
    train(model, tokenizer)
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()
