"""A whole run with `train.deterministic`, twice: the same bits from two processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.outcomes import results

Run = Callable[..., str]


def test_two_processes_train_the_same_bits(finish: Run, short_recipe: Path, tmp_path: Path) -> None:
    changes = ("train.deterministic=true", "model.lora_dropout=0.2", "train.padding_free=true")
    found = []
    for name in ("first", "second"):
        finish("run", short_recipe, *changes, "--output-dir", tmp_path / name)
        weights = sorted((tmp_path / name / "best").glob("*.safetensors"))
        assert weights
        found.append((results(tmp_path / name), [file.read_bytes() for file in weights]))
    # Rows name snapshots by the digest of their bytes, and hold every loss.
    assert found[0] == found[1]
    assert any(row["kind"] == "mark" for row in found[0][0])
