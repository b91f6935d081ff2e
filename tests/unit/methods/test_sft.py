"""Plain fine-tuning against a table worked out by hand."""

from __future__ import annotations

import pytest

from msft_lite.core import ROOT, Clock, Point, Rollout, Score, Trace
from msft_lite.methods import build_method


def test_one_rollout_and_its_earliest_best_mean() -> None:
    clock = Clock({"b": 64, "a": 32}, batch_rows=16)
    method = build_method("sft", clock, {"epochs": 2})
    request = next(method)
    assert request == Rollout(
        ROOT, request.mixture, (2, 4, 6, 8, 10, 12, 14, 16), True, keep="best"
    )
    assert request.mixture.tasks == ("b", "a")
    columns = {"b": "10110", "a": "01100"}  # means 1/2, 1/2, 1, 1/2, 0
    points = [Point(k, f"s{k}", {t: Score(c[k]) for t, c in columns.items()}) for k in range(5)]
    with pytest.raises(StopIteration) as done:
        method.send(Trace(tuple(points)))
    assert done.value.value.snapshot == "s2"


def test_ten_epochs_unless_told_otherwise() -> None:
    request = next(build_method("sft", Clock({"b": 64, "a": 32}, batch_rows=16), {}))
    assert request.marks == tuple(range(2, 81, 2))
