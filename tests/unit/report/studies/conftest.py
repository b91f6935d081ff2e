"""Finished runs by hand, from the ledger builder of the reports' tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from msft_lite.report.story import Story
from msft_lite.report.telling import tell

Build = Callable[..., Any]


@pytest.fixture
def sft(build: Build) -> Story:
    """Three tasks over four marks; best mean 27/60 at mark 3, epoch 0.75.

    Peaks: a at mark 1 (8, again at 2), b at mark 4 (12), c at mark 2 (13, again at 3).
    """
    run = build(["a", "b", "c"], method="sft")
    run.rollout({"a": [2, 8, 8, 5, 4], "b": [1, 2, 3, 9, 12], "c": [5, 9, 13, 13, 4]})
    return tell(run.finish(1, 3, base=[2, 1, 5], best=[5, 9, 13]).rows)


@pytest.fixture
def forked(build: Build) -> Story:
    """A run of shift: a is best first, at mark 1; branches of three marks from there.

    With a: b best at mark 1 (epoch 0.5), c at mark 2 (0.75). Without: b at mark 3 (1.0), c at
    mark 1 (0.5), again at mark 3.
    """
    run = build(["a", "b", "c"], method="shift")
    run.rollout({"a": [1, 9, 5, 4, 3], "b": [1, 2, 3, 4, 5], "c": [1, 3, 8, 6, 7]})
    run.rollout({"a": [9, 8, 7, 7], "b": [2, 6, 5, 4], "c": [3, 5, 8, 7]}, start="s1.1")
    run.drop("a", 0)
    run.rollout(
        {"a": [9, 9, 8, 8], "b": [2, 5, 6, 9], "c": [3, 7, 6, 7]}, start="s1.1", tasks=["b", "c"]
    )
    return tell(run.finish(3, 3, base=[1, 1, 1], best=[8, 9, 7]).rows)


@pytest.fixture
def returned(build: Build) -> Callable[..., Story]:
    """Makes a run of one roll-out whose returned point has those counts of 20 on every split."""

    def make(
        counts: dict[str, int], *, method: str = "sft", marks: int = 4, flops: int = 0
    ) -> Story:
        run = build(list(counts), method=method)
        if flops:
            rates = ("body", "head", "attention")
            run.rows[0]["flops"] = {
                **{f"{kind}_{way}": 0 for kind in rates for way in ("forward", "backward")},
                "body_forward": flops, "body_backward": 2 * flops, "recompute": False,
            }  # fmt: skip
        run.rollout({task: [0] * marks + [count] for task, count in counts.items()})
        return tell(run.finish(1, marks, base=[0] * len(counts), best=[*counts.values()]).rows)

    return make
