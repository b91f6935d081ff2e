"""A step reads nothing back from the device between its passes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from msft_lite.data.task import Example
from msft_lite.model.batch import collate_examples, lay_out_examples
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.train.settings import TrainSettings
from msft_lite.train.trainer import Trainer

# Operations whose result the host needs, or whose shape depends on numbers: on a GPU each waits.
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")
ROWS = [Example("a", n, tuple(range(1, 4 + n)), (7, 3 + n, 0), ((0, 1),)) for n in range(5)]
PASSES = 3
TRAIN = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=2, max_grad_norm=1e-3)


class Waits(TorchDispatchMode):
    """Counts the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_pass_of_packed_rows_waits(
    tuning: str, padding_free: bool, dtype: str, tiny_model_folder: Path
) -> None:
    settings = replace(
        ModelSettings(str(tiny_model_folder), padding_free=padding_free, gradient_checkpointing=2),
        tuning=tuning,
        dtype=dtype,
    )
    trainer = Trainer(load_model(settings, seed=1), TRAIN, seed=20, pad_id=0)
    with Waits() as waits:
        trainer.step(ROWS)
    assert waits.calls > 100
    # But for the one list of losses and norm, which is no operation, and for padded rows, of which
    # transformers asks once a pass whether they are packed.
    assert waits.found == ({} if padding_free else {"_local_scalar_dense": PASSES})


def test_the_count_sees_what_waits() -> None:
    with Waits() as waits:
        float(torch.ones(2).sum())
        torch.ones(2).nonzero()
    assert waits.found == {"_local_scalar_dense": 1, "nonzero": 1}


@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_of_the_host_becomes_the_batch_in_one_copy(packed: bool) -> None:
    host = lay_out_examples(ROWS, pad_id=9, device="cpu", packed=packed)
    assert host.numbers.dtype == torch.int64
    assert len(host.numbers) == sum(host.sizes)
    batch, other = host.on_device(), collate_examples(ROWS, pad_id=9, device="cpu", packed=packed)
    storage = host.numbers.untyped_storage().data_ptr()
    for name in ("ids", "positions", "targets"):
        assert torch.equal(getattr(batch, name), getattr(other, name))
        assert getattr(batch, name).untyped_storage().data_ptr() == storage
    assert batch.counts == other.counts == (2,) * 5
    assert batch.ids.shape == ((1, 40) if packed else (5, 10))
    assert (batch.bounds is not None) is packed
    if batch.bounds is not None and other.bounds is not None:
        assert batch.bounds.lengths == (6, 7, 8, 9, 10)
        assert torch.equal(batch.bounds.ends, other.bounds.ends)
        assert torch.equal(batch.bounds.position_ids, other.bounds.position_ids)
