"""The laws of training, at the trainer: seam, roll-back, neutrality, accumulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from msft_lite.data.task import Example
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import StepResult, Trainer

TRAIN = TrainSettings(
    learning_rate=1e-2, per_device_train_batch_size=2, warmup_steps=3, max_grad_norm=1.0
)
DROPPED = ModelSettings("", lora_r=4, lora_alpha=8, lora_dropout=0.3)
MODELS = {
    "lora": replace(DROPPED, lora_dropout=0.0),
    "lora-dropout": DROPPED,
    "lora-dropout-bfloat16-checkpointed": replace(
        DROPPED, dtype="bfloat16", gradient_checkpointing=True
    ),
    "full": ModelSettings("", tuning="full"),
    "full-bfloat16": ModelSettings("", tuning="full", dtype="bfloat16"),
    "full-checkpointed": ModelSettings("", tuning="full", gradient_checkpointing=True),
}
# What the optimizers add: 8-bit moments, and ways of rounding. Adapters of rank 64 are large enough
# for 8 bits; "full-bfloat16" above is rounded stochastically and has float32 moments.
FULL_BF16 = MODELS["full-bfloat16"]
LORA_64 = replace(DROPPED, lora_r=64)
EIGHT_BIT = replace(TRAIN, optim="adamw_8bit")
OPTIMIZERS = {
    "full-8bit": (MODELS["full"], EIGHT_BIT),
    "full-bfloat16-8bit": (FULL_BF16, EIGHT_BIT),
    "full-bfloat16-nearest": (FULL_BF16, replace(TRAIN, bf16_update="nearest")),
    "full-bfloat16-nearest-8bit": (FULL_BF16, replace(EIGHT_BIT, bf16_update="nearest")),
    "full-bfloat16-8bit-in-backward": (
        FULL_BF16,
        replace(
            EIGHT_BIT,
            per_device_train_batch_size=4,
            max_grad_norm=0.0,
            optimizer_in_backward=True,
        ),
    ),
    "lora-8bit-loraplus": (LORA_64, replace(EIGHT_BIT, loraplus_lr_ratio=4.0)),
    "lora-4bit": (replace(LORA_64, load_in_4bit=True), TRAIN),
    "lora-4bit-8bit": (replace(LORA_64, load_in_4bit=True), EIGHT_BIT),
}
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is in the extras alone"
)
every_model = pytest.mark.parametrize(
    "name",
    [
        *MODELS,
        *(
            pytest.param(name, marks=needs_bitsandbytes if "bit" in name else ())
            for name in OPTIMIZERS
        ),
    ],
)


def rows_at(step: int) -> list[Example]:
    """Returns the three rows, of unequal length, of one step."""
    return [
        Example("ab"[row % 2], row, tuple(range(1 + row, 5 + step)), (9 + row, *range(row), 0))
        for row in range(3)
    ]


@cache
def loaded(model: ModelSettings) -> torch.nn.Module:
    """Returns a model that is only ever copied, because reading one takes longer than a step."""
    return load_model(model, seed=1)


@dataclass(frozen=True)
class Bench:
    """Makes trainers of one model and notes what they do."""

    model: ModelSettings
    train: TrainSettings = TRAIN
    results: list[StepResult] = field(default_factory=list)

    def trainer(self, *, seed: int = 20) -> Trainer:
        return Trainer(deepcopy(loaded(self.model)), self.train, seed=seed, pad_id=0)

    def run(self, trainer: Trainer, steps: range) -> None:
        self.results.extend(trainer.step(rows_at(step)) for step in steps)


def bench_of(name: str, folder: Path) -> Bench:
    model, train = OPTIMIZERS.get(name) or (MODELS[name], TRAIN)
    return Bench(replace(model, name_or_path=str(folder)), train)


def everything(trainer: Trainer) -> tuple[dict[str, torch.Tensor], Mapping[str, object]]:
    moments, counters = trainer.state()
    return {**trainer.capture().tensors, **moments}, counters


def assert_same(first: Trainer, second: Trainer) -> None:
    """Asserts equal weights, moments and counters, bit for bit."""
    (tensors, counters), (others, other_counters) = everything(first), everything(second)
    assert counters == other_counters
    assert tensors.keys() == others.keys()
    different = [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])]
    assert different == []


@every_model
def test_seam(name: str, tiny_model_folder: Path) -> None:
    """Law 1: n steps, then m more in a new trainer, equal n + m steps, bitwise."""
    whole, parts = (bench_of(name, tiny_model_folder) for _ in range(2))
    through = whole.trainer()
    through.renew("key")
    whole.run(through, range(4))

    first = parts.trainer()
    first.renew("key")
    parts.run(first, range(2))
    moments, counters = first.state()
    weights, moments = first.capture(), load(save(dict(moments)))  # as a crash copy is read
    torch.manual_seed(99)
    second = parts.trainer()
    second.load(weights)
    second.restore_state(moments, counters)
    parts.run(second, range(2, 4))

    assert_same(through, second)
    assert whole.results == parts.results


@every_model
def test_rollback(name: str, tiny_model_folder: Path) -> None:
    """Law 2: training from a snapshot does not depend on what ran before the restore."""
    clean, used = (bench_of(name, tiny_model_folder) for _ in range(2))
    start = clean.trainer().capture()
    first = clean.trainer()
    first.renew("key")
    clean.run(first, range(2))

    second = used.trainer()
    second.renew("another")
    used.run(second, range(5, 8))
    torch.manual_seed(99)
    torch.rand(7)
    second.load(start)
    second.renew("key")
    used.results.clear()
    used.run(second, range(2))

    assert_same(first, second)
    assert clean.results == used.results


def look_at(trainer: Trainer, model: torch.nn.Module) -> None:
    """Does everything that an evaluation may do between two steps."""
    trainer.capture()
    trainer.state()
    trainer.peak_bytes()
    trainer.log_probabilities([((1, 2, 3), (4, 5)), ((1,), (2,))])
    random, training = torch.get_rng_state(), model.training
    assert trainer.losses(rows_at(1)) == trainer.losses(rows_at(1))  # no dropout
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training is training for module in model.modules())
    model.eval()
    with torch.inference_mode():
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2, 3]]))
    torch.rand(3)


@every_model
def test_neutrality(name: str, tiny_model_folder: Path) -> None:
    """Law 6: an evaluation changes no parameter, moment or later loss, bitwise."""
    alone, watched = (bench_of(name, tiny_model_folder) for _ in range(2))
    first = alone.trainer()
    alone.run(first, range(3))

    model = deepcopy(loaded(watched.model))
    second = Trainer(model, watched.train, seed=20, pad_id=0)
    for step in range(3):
        look_at(second, model)
        before = everything(second)
        look_at(second, model)
        after = everything(second)
        assert all(torch.equal(tensor, after[0][n]) for n, tensor in before[0].items())
        watched.run(second, range(step, step + 1))

    assert_same(first, second)
    assert alone.results == watched.results


def train_once(bench: Bench, rows: Sequence[Example]) -> tuple[Trainer, StepResult]:
    trainer = bench.trainer()
    return trainer, trainer.step(rows)


def assert_near(bench: Bench, rows: Sequence[Example]) -> None:
    """Asserts that micro-batches of 1, 2, 4 and 8 rows give one loss and one update."""
    whole, expected = train_once(bench, rows)
    tensors = everything(whole)[0]
    for micro_rows in (1, 2, 4):
        train = replace(bench.train, per_device_train_batch_size=micro_rows)
        trainer, result = train_once(replace(bench, train=train), rows)
        assert result.work.tokens == expected.work.tokens
        for task, loss in result.losses.items():
            assert loss.tokens == expected.losses[task].tokens
            # float32 sums in another order: some units in the last place (2 ** -23 = 1.2e-7)
            assert loss.loss_sum == pytest.approx(expected.losses[task].loss_sum, rel=1e-5)
        assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-4)
        for name, tensor in everything(trainer)[0].items():
            if tensor.dtype == torch.uint8:
                # Rounding decides between two codes; squares are off by twice as much.
                most = 2 if name.startswith("state2.") else 1
                assert int((tensor.int() - tensors[name].int()).abs().max()) <= most, name
                continue
            # relative to the tensor's largest value; the floor is for gradients that are zero but
            # for rounding, where others are of order 1
            atol = max(1e-4 * float(tensors[name].abs().max()), 1e-7)
            torch.testing.assert_close(tensor, tensors[name], rtol=1e-4, atol=atol, msg=name)


# A large epsilon: at 1e-8 AdamW's first step is the gradient's sign, and where the gradient is
# zero but for rounding (biases of keys) the update would be rounding alone.
PLAIN = replace(
    TRAIN,
    learning_rate=1e-3,
    adam_epsilon=1e-2,
    max_grad_norm=0.0,
    warmup_steps=0,
    per_device_train_batch_size=8,
)
LENGTHS = st.lists(st.tuples(st.integers(2, 6), st.integers(1, 12)), min_size=2, max_size=8)


@pytest.mark.parametrize("name", ["lora", "full", pytest.param("8bit", marks=needs_bitsandbytes)])
def test_accumulation(name: str, tiny_model_folder: Path) -> None:
    """Law 7: the loss is divided once, by the answer tokens of the whole step."""
    lengths = [(3, 1), (2, 12), (5, 2), (1, 1), (4, 7), (2, 2), (6, 1), (3, 5)]
    bench = replace(bench_of("full" if name == "8bit" else name, tiny_model_folder), train=PLAIN)
    if name == "8bit":
        bench = replace(bench, train=replace(PLAIN, optim="adamw_8bit"))
    assert_near(bench, make_rows(lengths))


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(lengths=LENGTHS)
def test_accumulation_of_any_lengths(
    lengths: list[tuple[int, int]], tiny_model_folder: Path
) -> None:
    assert_near(replace(bench_of("lora", tiny_model_folder), train=PLAIN), make_rows(lengths))


def make_rows(lengths: Sequence[tuple[int, int]]) -> list[Example]:
    """Returns rows of these prompt and answer lengths, all different."""
    return [
        Example(
            "xyz"[row % 3],
            row,
            tuple((row * 31 + i * 7) % 256 + 1 for i in range(prompt)),
            tuple((row * 17 + i * 11) % 256 + 1 for i in range(answer)),
        )
        for row, (prompt, answer) in enumerate(lengths)
    ]


@pytest.mark.parametrize("name", ["lora-dropout", "full", "full-bfloat16"])
def test_checkpointing_changes_no_gradient(name: str, tiny_model_folder: Path) -> None:
    """Recomputed activations, dropout masks too, are those of the first pass, bitwise."""
    kept = bench_of(name, tiny_model_folder)
    recomputed = replace(kept, model=replace(kept.model, gradient_checkpointing=True), results=[])
    first, second = kept.trainer(), recomputed.trainer()
    kept.run(first, range(2))
    recomputed.run(second, range(2))
    assert_same(first, second)
    assert kept.results == recomputed.results


def test_the_global_generator_neither_matters_nor_changes(tiny_model_folder: Path) -> None:
    bench = bench_of("lora-dropout", tiny_model_folder)
    trainers = []
    for seed in (1, 2):
        trainer = bench.trainer()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer.step(rows_at(0))
        assert torch.equal(before, torch.get_rng_state())
        trainers.append(trainer)
    assert_same(*trainers)


def test_dropout_depends_on_seed_key_and_step(tiny_model_folder: Path) -> None:
    """The adapter's first B is zero, so that its masks show in the loss from step 2 on."""
    bench = bench_of("lora-dropout", tiny_model_folder)

    def losses(seed: int, key: str) -> list[float]:
        trainer = bench.trainer(seed=seed)
        trainer.renew(key)
        steps = [trainer.step(rows_at(0)) for _ in range(2)]
        return [sum(loss.loss_sum for loss in step.losses.values()) for step in steps]

    first = losses(20, "a")
    assert first == losses(20, "a")
    assert first[1] != losses(21, "a")[1]
    assert first[1] != losses(20, "b")[1]


def test_every_micro_batch_of_every_step_has_its_own_mask(tiny_model_folder: Path) -> None:
    """With a rate of zero the same row would else repeat its loss."""
    bench = bench_of("lora-dropout", tiny_model_folder)
    moved = bench.trainer()
    bench.run(moved, range(2))
    still = replace(TRAIN, learning_rate=0.0, per_device_train_batch_size=1)
    trainer = replace(bench, train=still).trainer()
    trainer.load(moved.capture())
    row = rows_at(0)[1]
    twins = [replace(row, task="first"), replace(row, task="second")]
    steps = [trainer.step(twins).losses for _ in range(3)]
    sums = [step[task].loss_sum for step in steps for task in ("first", "second")]
    assert len(set(sums)) == 6


def test_the_order_of_rows_in_a_step_is_kept(tiny_model_folder: Path) -> None:
    bench = bench_of("lora", tiny_model_folder)
    rows = make_rows([(2, 2), (3, 3)])
    assert list(bench.trainer().step(rows).losses) == ["x", "y"]
    assert list(bench.trainer().step(rows[::-1]).losses) == ["y", "x"]
