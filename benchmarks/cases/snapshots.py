"""Measures delta snapshots of fully fine-tuned weights: bytes, and seconds to save and to load.

    python benchmarks/cases/snapshots.py --work FOLDER [--steps 200] [--json FILE]

A Qwen2 of 3.5 million parameters is pre-trained shortly on texts of a random grammar, saved in
bfloat16, and then fine-tuned through `Trainer` on a grammar of which a third is another: in
bfloat16 rounded to nearest and stochastically, and in float32, at two learning rates. Points every
25 steps are stored in FOLDER as full snapshots; a second call measures them without training again.

Points are then coded against the base and against earlier points: full bytes over stored bytes, and
MB of weights a second of CPU time in memory, the best of several times. Then weights of sixteen
times the size, the same tensors under other names, are saved and loaded through the store, whole
and as a delta. FILE gets the record.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import load_at_start, markdown, record, table, write
from transformers import Qwen2Config, Qwen2ForCausalLM

from msft_lite.data.task import Example
from msft_lite.model.load import load_model
from msft_lite.model.settings import Dtype, ModelSettings
from msft_lite.model.weights import Weights
from msft_lite.snapshot.codec import size_bytes
from msft_lite.snapshot.delta import read_delta, weights_source, write_delta
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.snapshot.tensor_file import read_header
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

SEED, VOCABULARY, ROW_TOKENS = 20, 2048, 64
PRETRAINING_STEPS, PRETRAINING_ROWS, ROWS, STEPS_BETWEEN = 400, 16, 8, 25
REPEATS = 7
CHOICES = 4  # tokens that may follow a token
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 0,
}
CODING = {
    "weights": "",
    "learning rate": "",
    "stored": "",
    "words changed, %": ".1f",
    "ratio": ".2f",
    "encode, MB a CPU second": ",.0f",
    "decode": ",.0f",
}
STORE = {"stored": "", "MB": ".1f", "save, CPU s": ".2f", "load, CPU s": ".2f"}
SETTINGS: dict[str, tuple[Dtype, str]] = {
    "bfloat16, nearest": ("bfloat16", "nearest"),
    "bfloat16, stochastic": ("bfloat16", "stochastic"),
    "float32": ("float32", "stochastic"),
}


def grammar(share_changed: float) -> list[list[int]]:
    """Returns the tokens that may follow each token; the changed ones are the same every time."""
    rng, other = random.Random(SEED), random.Random(SEED + 1)
    follow = [rng.choices(range(1, VOCABULARY), k=CHOICES) for _ in range(VOCABULARY)]
    return [
        other.choices(range(1, VOCABULARY), k=CHOICES) if other.random() < share_changed else row
        for row in follow
    ]


def texts(follow: list[list[int]], seed: int) -> Iterator[list[int]]:
    """Yields texts of `ROW_TOKENS` tokens; the first choice is the likeliest."""
    rng = random.Random(seed)
    while True:
        ids = [rng.randrange(1, VOCABULARY)]
        while len(ids) < ROW_TOKENS:
            ids.append(rng.choices(follow[ids[-1]], weights=(8, 4, 2, 1))[0])
        yield ids


def make_base(folder: Path) -> None:
    """Pre-trains the model and saves it in bfloat16."""
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(Qwen2Config.from_dict(SHAPE))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rows = texts(grammar(0), SEED)
    for step in range(PRETRAINING_STEPS):
        rate = min((step + 1) / 30, (PRETRAINING_STEPS - step) / PRETRAINING_STEPS)
        optimizer.param_groups[0]["lr"] = 2e-3 * rate
        ids = torch.tensor([next(rows) for _ in range(PRETRAINING_ROWS)])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            print(f"pre-training: step {step + 1}, loss {loss.item():.3f}", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)


def fine_tune(name: str, rate: float, work: Path, steps: int) -> None:
    """Stores a point every `STEPS_BETWEEN` steps, and their ids in order in ``points.json``."""
    dtype, update = SETTINGS[name]
    folder = place_of(name, rate, work)
    if (folder / "points.json").exists():
        return
    settings = ModelSettings(str(work / "base"), dtype=dtype, device="cpu", tuning="full")
    optimizer = TrainSettings(rate, ROWS, bf16_update=update)  # pyright: ignore[reportArgumentType]
    trainer = Trainer(load_model(settings, seed=SEED), optimizer, seed=SEED, pad_id=0)
    store = SnapshotStore(folder, root=trainer.capture)
    points, losses = [store.save(trainer.capture())], []
    rows = texts(grammar(1 / 3), SEED + 2)
    for step in range(1, steps + 1):
        drawn = [next(rows) for _ in range(ROWS)]
        batch = [Example("t", i, (ids[0],), tuple(ids[1:])) for i, ids in enumerate(drawn)]
        result = trainer.step(batch)
        losses.append(result.losses["t"].loss_sum / result.losses["t"].tokens)
        if step % STEPS_BETWEEN == 0:
            points.append(store.save(trainer.capture()))
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    print(f"{name}, {rate:g}: loss {first:.3f} -> {last:.3f}", flush=True)
    (folder / "points.json").write_text(json.dumps(points))


def place_of(name: str, rate: float, work: Path) -> Path:
    """Returns the folder of the points of a setting."""
    return work / f"{name.replace(', ', '-')}-{rate:g}"


def coding_rows(work: Path, rates: list[float]) -> Iterator[list[Any]]:
    """Yields the rows of the table of ratios and speeds."""
    for rate in rates:
        for name in SETTINGS:
            store, points = stored(name, rate, work)
            last = len(points) - 1
            for early, late in ((0, 1), (0, last), (last - 1, last), (last - 4, last)):
                before, after = store.load(points[early]), store.load(points[late])
                yield [name, f"{rate:g}", pair_name(early, late), *coding(before, after)]


def coding(before: Weights, after: Weights) -> list[float]:
    """Returns share of changed words, ratio, and speeds of coding ``after`` against ``before``."""
    source = weights_source(before)

    def encode() -> bytes:
        file = io.BytesIO()
        write_delta(file, after, parent="root", source=source)
        return file.getvalue()

    def decode() -> Weights:
        file = io.BytesIO(content)
        header = read_header(file, size_bytes=len(content), where="delta")
        return read_delta(file, header, source=source, where="delta")[0]

    content = encode()
    pairs = [(tensor, before.tensors[name]) for name, tensor in after.tensors.items()]
    changed = sum(int((one != other).sum()) for one, other in pairs)
    megabytes = after.total_bytes / 1e6
    return [
        100 * changed / sum(one.numel() for one, _ in pairs),
        size_bytes(after) / len(content),
        megabytes / best_seconds(encode),
        megabytes / best_seconds(decode),
    ]


def store_rows(work: Path, rate: float) -> Iterator[list[Any]]:
    """Yields the rows of the table of CPU seconds through the store, hashes and all."""
    points_of, points = stored("bfloat16, stochastic", rate, work)
    base, start, end = (enlarged(points_of.load(points[k])) for k in (0, -5, -1))
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for name, deltas, near in (
            ("whole", False, ""),
            ("against the base", True, "root"),
            (f"against the point {4 * STEPS_BETWEEN} steps before", True, "start"),
        ):
            store = SnapshotStore(Path(folder), root=lambda: base, deltas=deltas)
            parent = store.save(start) if near == "start" else "root"
            saving: list[float] = []
            for _ in range(REPEATS):
                store.retain([parent])
                began = time.process_time()
                identity = store.save(end, near=parent)
                saving.append(time.process_time() - began)
            loading = best_seconds(partial(store.load, identity))
            size = store.size_bytes(identity) / 1e6
            yield [name, size, min(saving), loading]


def stored(name: str, rate: float, work: Path) -> tuple[SnapshotStore, list[str]]:
    """Returns the points of a setting and their ids, the base first."""
    folder = place_of(name, rate, work)
    points = json.loads((folder / "points.json").read_text())
    return SnapshotStore(folder, root=lambda: Weights("full", {})), points


def enlarged(weights: Weights) -> Weights:
    """Returns the same tensors sixteen times."""
    return Weights(
        weights.kind,
        {f"{copy}.{name}": t for copy in range(16) for name, t in weights.tensors.items()},
    )


def pair_name(early: int, late: int) -> str:
    """Returns which point is stored against which."""
    steps = STEPS_BETWEEN * (late - early)
    return f"{steps} steps after {'the base' if early == 0 else 'another'}"


def best_seconds(work: Callable[[], object]) -> float:
    """Returns the least CPU time of `REPEATS`, of all threads: other jobs only add to it."""
    seconds: list[float] = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def main() -> None:
    """Trains what is not trained yet, prints the tables and stores the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4])
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if not (given.work / "base").exists():
        make_base(given.work / "base")
    for rate in given.rates:
        for name in SETTINGS:
            fine_tune(name, rate, given.work, given.steps)
    tables = {
        "coding": table(CODING, coding_rows(given.work, given.rates)),
        "store": table(STORE, store_rows(given.work, given.rates[0])),
    }
    conditions = f"{torch.get_num_threads()} threads, {load_at_start()}"
    packages = ("torch", "numpy", "pyarrow")
    write(given.json, record(tables, device="cpu", conditions=conditions, packages=packages))
    print("\n\n".join(map(markdown, tables.values())))


if __name__ == "__main__":
    main()
