"""What one run of a comparison may take over from another, and what it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from msft_lite.core import ROOT, Clock, Mixture, Rollout
from msft_lite.ledger import rollout_row
from msft_lite.run.lending import SAME, Lender

CLOCK = Clock({"a": 8, "b": 8}, batch_rows=4)
MIXTURE = Mixture.of(CLOCK.tasks)
SKIP = frozenset([("a", 1)])
SFT = Rollout(ROOT, MIXTURE, CLOCK.marks(MIXTURE, 2), fresh=True, keep="best")
SEARCH = Rollout(ROOT, MIXTURE, CLOCK.marks(MIXTURE, 2), fresh=True, keep="none")


def start(**changes: object) -> dict[str, Any]:
    return {"kind": "start", **dict.fromkeys(SAME, "same"), "method": "sft", **changes}


def mark(k: int, snapshot: str) -> dict[str, Any]:
    return {"kind": "mark", "n": 1, "k": k, "snapshot": snapshot, "outcomes": {"a": "1", "b": "0"}}


def lender_of(folder: Path, *, finished: bool = True, request: Rollout = SFT) -> Path:
    folder.mkdir(parents=True)
    rows = [start(), rollout_row(1, request), mark(0, ROOT), mark(1, "s1"), mark(2, "s2")]
    rows += [{"kind": "finish"}] if finished else []
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_search_takes_over_the_marks_of_an_equal_rollout(tmp_path: Path) -> None:
    lender = Lender([lender_of(tmp_path / "sft")], start(method="sro"))
    rows = lender.marks(SEARCH)
    assert [row["snapshot"] for row in rows] == [ROOT, "s1", "s2"]
    assert {row["shared"] for row in rows} == {f"{tmp_path.name}/sft"}
    base = lender.base()
    assert base is not None
    assert (base["snapshot"], base["outcomes"]) == (ROOT, {"a": "1", "b": "0"})


def test_a_run_that_went_on_with_other_memory_settings_lends_nothing(tmp_path: Path) -> None:
    folder = lender_of(tmp_path / "sft")
    lines = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    lines.insert(3, json.dumps({"kind": "memory", "per_device_train_batch_size": 2}) + "\n")
    (folder / "ledger.jsonl").write_text("".join(lines))
    lender = Lender([folder], start(method="sro"))
    assert (lender.marks(SEARCH), lender.base()) == ((), None)


@pytest.mark.parametrize(
    "request_", [
        SFT,  # its snapshots are asked for
        Rollout("s1", MIXTURE, SEARCH.marks, fresh=True, keep="none"),
        Rollout(ROOT, Mixture.of(["a"]), SEARCH.marks, fresh=True, keep="none"),
        Rollout(ROOT, MIXTURE, (1, 2, 3), fresh=True, keep="none"),
        Rollout(ROOT, MIXTURE, SEARCH.marks, fresh=False, keep="none"),
        Rollout(ROOT, MIXTURE, SEARCH.marks, fresh=True, keep="none", audit="pool"),
        Rollout(ROOT, Mixture(MIXTURE.share, iid=True), SEARCH.marks, fresh=True, keep="none"),
        Rollout(ROOT, Mixture(MIXTURE.share, SKIP), SEARCH.marks, fresh=True, keep="none"),
    ],
)  # fmt: skip
def test_another_rollout_is_not_taken_over(tmp_path: Path, request_: Rollout) -> None:
    assert Lender([lender_of(tmp_path / "sft")], start()).marks(request_) == ()


@pytest.mark.parametrize("key", SAME)
def test_a_run_that_differs_in_anything_that_counts_lends_nothing(tmp_path: Path, key: str) -> None:
    lender = Lender([lender_of(tmp_path / "sft")], start(**{key: "other"}))
    assert (lender.marks(SEARCH), lender.base()) == ((), None)


def test_an_unfinished_or_missing_run_lends_nothing(tmp_path: Path) -> None:
    folders = [lender_of(tmp_path / "sft", finished=False), tmp_path / "nothing"]
    lender = Lender(folders, start())
    assert (lender.marks(SEARCH), lender.base()) == ((), None)
