"""Laws 3 and 10 for every method, on a made-up world of learning curves instead of a model."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from msft_lite.core import (
    LIVE,
    MILLION,
    ROOT,
    Clock,
    Mixture,
    Point,
    Rollout,
    Trace,
    best_point,
    live_snapshots,
    scored_tasks,
)
from msft_lite.errors import ReplayMismatch
from msft_lite.ledger import Ledger, rollout_row
from msft_lite.methods import METHODS, build_method
from msft_lite.run.loop import drive

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("sft", {"epochs": 3}),
    ("msft", {"budget": 1}),
    ("msft", {"budget": 3}),
    ("msft", {"budget": 2, "start_counts": False}),
    ("msft", {"budget": 2, "drop_all_tied": True}),
    ("msft", {"budget": 2, "detector": "significant"}),
    ("msft", {"budget": 2, "keep_optimizer": True, "max_stages": 3}),
    ("continual", {"epochs": 2}),
    ("sro", {"epochs": 3}),
    ("soft_sro", {"epochs": 3}),
    ("dynamix", {"epochs": 3, "period": 3}),
    ("ies", {"epochs": 5, "delta": 0.05}),
    ("shift", {"epochs": 3}),
]
WORLDS = st.dictionaries(st.sampled_from("abcde"), st.floats(0.2, 6.0), min_size=1, max_size=5)
ROWS = 16  # training rows of every task


def test_every_method_has_a_variant() -> None:
    assert {name for name, _ in VARIANTS} == set(METHODS)


class World:
    """Every task's score rises to a peak at its own exposure and falls after it.

    Only the snapshots that the retention rule keeps can be started from; rows go to the ledger as
    the roller writes them.
    """

    def __init__(self, peaks: dict[str, float], ledger: Ledger, dropped_every: int) -> None:
        self.clock = Clock(dict.fromkeys(peaks, ROWS), batch_rows=4)
        self.peaks = peaks
        self.ledger = ledger
        self.dropped_every = dropped_every
        self.exposure = {ROOT: dict.fromkeys(peaks, 0.0)}
        self.alive = {ROOT}
        self.executed = 0

    def execute(self, request: Rollout) -> Trace:
        """Writes the rows that the ledger does not hold yet."""
        assert request.start in self.alive, "asked for a snapshot that had been removed"
        self.executed += 1
        recorded = len(self.ledger.points)
        asked = rollout_row(0, request)
        for k in range(len(request.marks) + 1):
            snapshot = self.trained(asked, k)
            if k >= recorded:
                self.ledger.append(self.row(request, k, snapshot))
            self.retain(request, self.ledger.points[: k + 1], snapshot)
        if request.audit != "none" and self.ledger.audit is None:
            self.ledger.append(self.audit(request))
        return self.ledger.trace()

    def retain(self, request: Rollout, points: list[Point], snapshot: str) -> None:
        """Applies the rule after every mark; what it forgot once never comes back."""
        self.alive.add(snapshot)
        if snapshot != LIVE:
            best = best_point(self.ledger.seen) if self.ledger.seen else None
            scored = [point for point in points if point.scores]
            self.alive &= live_snapshots(scored, request, best) | {ROOT}

    def trained(self, asked: Mapping[str, Any], k: int) -> str:
        if k == 0:
            return asked["start"]
        before = self.exposure[asked["start"]]
        marks = [0, *asked["marks"]]
        whole = marks[k] / (4 * self.steps_per_mark(asked))
        seen = {
            task: passes + whole * float(Fraction(asked["share"].get(task, "0")))
            for task, passes in before.items()
        }
        settled = {key: value for key, value in asked.items() if key != "n"}
        name = hashlib.sha256(json.dumps([before, settled, k]).encode()).hexdigest()
        self.exposure[name if asked["score"] else LIVE] = seen
        return name if asked["score"] else LIVE

    def steps_per_mark(self, asked: Mapping[str, Any]) -> int:
        mixture = Mixture(tuple((task, Fraction(1)) for task in asked["share"]), iid=asked["iid"])
        return self.clock.steps_per_mark(mixture)

    def rebuild(self, row: Mapping[str, Any]) -> None:
        """Trains again what a killed run had trained in the roll-out of ``row``."""
        for k in range(1, len(row["marks"]) + 1):
            self.trained(row, k)

    def row(self, request: Rollout, k: int, snapshot: str) -> dict[str, Any]:
        outcomes: dict[str, str] = {}
        asked = scored_tasks(request, k, self.peaks, dropped_every=self.dropped_every)
        for task in asked if snapshot != LIVE else ():
            x = self.exposure[snapshot][task] / self.peaks[task]
            right = max(0, round(50 * (0.3 + 0.6 * x * (2 - x))))
            outcomes[task] = "1" * right + "0" * (50 - right)
        return {
            "kind": "mark", "n": self.ledger.n, "k": k, "snapshot": snapshot, "outcomes": outcomes,
        }  # fmt: skip

    def audit(self, request: Rollout) -> dict[str, Any]:
        """Losses that fall with exposure, later rows of a task more slowly than earlier ones."""
        exposure = self.exposure[self.ledger.points[-1].snapshot]
        losses = {
            task: [round(MILLION / (1 + seen / (1 + row))) for row in range(ROWS)]
            for task, seen in exposure.items()
        }
        before = losses if request.audit == "probe" else {}
        after = {
            task: [value - value // (2 + len(task) + round(self.peaks[task])) for value in values]
            for task, values in losses.items()
        }
        return {
            "kind": "audit", "n": self.ledger.n, "audit": request.audit, "before": before,
            "after": after if before else losses,
        }  # fmt: skip


def finished_rollouts(ledger: Ledger) -> list[Mapping[str, Any]]:
    """Returns the rows of the roll-outs that are not trained again on resume."""
    begun: list[Mapping[str, Any]] = []
    recorded = 0
    for row in ledger.rows:
        if row["kind"] == "rollout":
            begun, recorded = [*begun, row], 0
        recorded += row["kind"] in ("mark", "audit")
    if not begun:
        return []
    wanted = len(begun[-1]["marks"]) + 1 + (begun[-1]["audit"] != "none")
    return begun if recorded == wanted else begun[:-1]


def run(
    peaks: dict[str, float], path: Path, variant: tuple[str, dict[str, Any]], dropped_every: int = 1
) -> str:
    ledger = Ledger(path)
    world = World(peaks, ledger, dropped_every)
    for row in finished_rollouts(ledger):  # what the disk held when the run was killed
        world.rebuild(row)
    world.alive = set(world.exposure)
    verdict = drive(build_method(variant[0], world.clock, variant[1]), world.execute, ledger)
    if world.executed:
        named = {verdict.snapshot, verdict.last or verdict.snapshot}
        assert named <= world.alive, "the result itself had been removed"
    return verdict.snapshot


@pytest.mark.parametrize("variant", VARIANTS, ids=json.dumps)
@settings(max_examples=25, deadline=None)
@given(peaks=WORLDS, cut=st.integers(0, 10_000), dropped_every=st.integers(1, 5))
@example(peaks=dict.fromkeys("abcde", 1.0), cut=38, dropped_every=1)  # dynamix: between two points
def test_a_killed_run_replays_to_the_same_rows(
    variant: tuple[str, dict[str, Any]], peaks: dict[str, float], cut: int, dropped_every: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole, torn = Path(name, "whole.jsonl"), Path(name, "torn.jsonl")
        final = run(peaks, whole, variant, dropped_every)
        lines = whole.read_bytes().splitlines(keepends=True)
        torn.write_bytes(b"".join(lines[: cut % (len(lines) + 1)]))
        assert run(peaks, torn, variant, dropped_every) == final
        assert torn.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("variant", VARIANTS, ids=json.dumps)
@settings(max_examples=25, deadline=None)
@given(peaks=WORLDS, dropped_every=st.integers(2, 5))
def test_tasks_that_left_change_no_peak_and_the_best_mean_is_that_of_whole_marks(
    variant: tuple[str, dict[str, Any]], peaks: dict[str, float], dropped_every: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        paths = Path(name, "all.jsonl"), Path(name, "some.jsonl")
        run(peaks, paths[0], variant)
        returned = run(peaks, paths[1], variant, dropped_every)
        every, some = (Ledger(path).rows for path in paths)
    assert len(every) == len(some)
    means: dict[str, int] = {}
    kept = list[bool]()
    for one, other in zip(every, some, strict=True):
        if one["kind"] == "rollout":
            kept.append(one["keep"] != "none")
        if one["kind"] != "mark":
            assert one == other  # the same requests and the same drops
            continue
        scored = other["outcomes"]
        assert scored == {task: one["outcomes"][task] for task in scored}
        if kept[-1] and len(scored) == len(peaks):
            means.setdefault(one["snapshot"], sum(rows.count("1") for rows in scored.values()))
    assert returned == max(means, key=means.__getitem__)


@settings(max_examples=50, deadline=None)
@given(peaks=WORLDS)
def test_msft_tasks_only_leave_and_stages_are_bounded(peaks: dict[str, float]) -> None:
    with tempfile.TemporaryDirectory() as name:
        ledger_path = Path(name, "ledger.jsonl")
        run(peaks, ledger_path, ("msft", {"budget": 3}))
        rollouts = [row for row in Ledger(ledger_path).rows if row["kind"] == "rollout"]
        active = [set(row["tasks"]) for row in rollouts]
        assert all(later <= earlier for earlier, later in itertools.pairwise(active))
        assert len(rollouts) <= 2 * len(peaks) + 2


def test_a_changed_method_is_refused_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    run({"a": 1.0, "b": 2.0}, path, ("msft", {"budget": 3}))
    with pytest.raises(ReplayMismatch):
        run({"a": 1.0, "b": 2.0}, path, ("msft", {"budget": 2}))


def test_a_stop_iteration_out_of_training_is_not_success(tmp_path: Path) -> None:
    def broken(_: Rollout) -> Trace:
        raise StopIteration("a data iterator ran dry")

    method = build_method("msft", Clock({"a": 16}, batch_rows=4), {"budget": 1})
    with pytest.raises(StopIteration, match="ran dry"):
        drive(method, broken, Ledger(tmp_path / "ledger.jsonl"))
