from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

MARK_STEPS = 5  # optimizer steps of a mark interval
MARKS_PER_EPOCH = 4


def outcomes(correct: int, total: int) -> str:
    return "1" * correct + "0" * (total - correct)


class LedgerBuilder:
    """Writes the rows of a run by hand: ``total`` rows a task and split, scores as counts."""

    def __init__(self, tasks: Sequence[str], *, method: str = "msft", total: int = 20) -> None:
        self.tasks = list(tasks)
        self.total = total
        self.snapshots: list[list[str]] = []
        rows = {task: {"train": 40, "control": total, "report": total} for task in tasks}
        self.rows: list[dict[str, Any]] = [
            {
                "kind": "start", "format": 1, "recipe": "feed" * 16, "method": method, "seed": 20,
                "tasks": self.tasks, "rows": rows, "data": dict.fromkeys(tasks, "beef" * 16),
                "versions": {"msft_lite": "0.1.0", "torch": "2.13.0"}, "device": "cpu",
                "dtype": "float32", "engine": "vllm", "tuning": "lora",
                "marks_per_epoch": MARKS_PER_EPOCH, "batch_rows": 8, "parameters": 1000,
                "trainable_parameters": 100,
            }
        ]  # fmt: skip

    def rollout(
        self,
        correct: Mapping[str, Sequence[int]],
        *,
        start: str = "root",
        tasks: Sequence[str] | None = None,
        planned: int | None = None,
    ) -> LedgerBuilder:
        """Adds a roll-out of ``planned`` marks (default: all given) with those counts per mark."""
        n, active = len(self.snapshots) + 1, list(tasks or self.tasks)
        count = len(next(iter(correct.values())))
        planned_marks = planned or count - 1
        self.rows.append(
            {
                "kind": "rollout", "n": n, "start": start, "tasks": active,
                "share": dict.fromkeys(active, "1"), "fresh": True,
                "marks": [MARK_STEPS * k for k in range(1, planned_marks + 1)],
            }
        )  # fmt: skip
        self.snapshots.append([start, *(f"s{n}.{k}" for k in range(1, count))])
        for k in range(count):
            self._mark(n, k, {task: correct[task][k] for task in self.tasks}, active)
        return self

    def _mark(self, n: int, k: int, correct: Mapping[str, int], active: Sequence[str]) -> None:
        self.rows.append(
            {
                "kind": "mark", "n": n, "k": k, "step": MARK_STEPS * k,
                "snapshot": self.snapshots[n - 1][k],
                "scores": {task: [c, self.total] for task, c in correct.items()},
                "outcomes": {task: outcomes(c, self.total) for task, c in correct.items()},
                "train_loss": dict.fromkeys(active, 2.0 / (n + k)) if k else {},
                "trained_tokens": 1000 if k else 0, "generated_tokens": 300,
                "seconds": {"train": 10.0 if k else 0.0, "swap": 0.5, "generate": 4.0},
                "peak_bytes": 3 * 2**30 + k,
            }
        )  # fmt: skip

    def drop(self, task: str, mark: int, *, reason: str = "best earlier") -> LedgerBuilder:
        """Drops ``task`` and rolls back to ``mark`` of the latest roll-out."""
        n = len(self.snapshots)
        back = self.snapshots[-1][mark]
        self.rows.append(
            {"kind": "drop", "n": n, "task": task, "peak_mark": mark, "rolled_back_to": back,
             "reason": reason}
        )  # fmt: skip
        return self

    def finish(
        self, n: int, k: int, base: Sequence[int], best: Sequence[int], *, note: str = ""
    ) -> LedgerBuilder:
        """Ends the run at mark ``k`` of roll-out ``n`` with those counts on the report split."""
        sides = {"base": base, "best": best}
        self.rows.append(
            {
                "kind": "finish", "snapshot": self.snapshots[n - 1][k], "n": n, "k": k,
                "note": note, "seconds": {"generate": 8.0},
                "scores": {
                    side: {t: [c, self.total] for t, c in zip(self.tasks, counts, strict=True)}
                    for side, counts in sides.items()
                },
                "outcomes": {
                    side: {
                        t: outcomes(c, self.total) for t, c in zip(self.tasks, counts, strict=True)
                    }
                    for side, counts in sides.items()
                },
            }
        )  # fmt: skip
        return self

    def write(self, folder: Path) -> Path:
        """Writes ledger.jsonl into ``folder`` and returns the folder."""
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows]
        (folder / "ledger.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder


@pytest.fixture
def build() -> Callable[..., LedgerBuilder]:
    """Begins a ledger by hand; see `LedgerBuilder`."""
    return LedgerBuilder


@pytest.fixture
def three_tasks(build: Callable[..., LedgerBuilder]) -> LedgerBuilder:
    """A finished run of three tasks: b leaves at 1.2, then c at 2.1, a never over-fits.

    Roll-out 1 and 2 were rolled back; the best mean, 41/60, is the end of roll-out 3, whose path
    is 2 + 1 + 4 marks.
    """
    run = build(["a", "b", "c"])
    run.rollout({"a": [2, 4, 6, 8, 9], "b": [3, 8, 14, 12, 11], "c": [4, 6, 8, 9, 10]})
    run.drop("b", 2, reason="best at mark 2 with 14/20, at the last mark 4 11/20")
    run.rollout(
        {"a": [6, 7, 8, 9, 10], "b": [14, 13, 14, 13, 12], "c": [8, 12, 11, 10, 9]},
        start="s1.2", tasks=["a", "c"],
    )  # fmt: skip
    run.drop("c", 1, reason="best at mark 1 with 12/20, at the last mark 4 9/20")
    run.rollout(
        {"a": [7, 10, 13, 15, 17], "b": [13, 13, 13, 13, 13], "c": [12, 12, 11, 11, 11]},
        start="s2.1", tasks=["a"],
    )  # fmt: skip
    return run.finish(3, 4, base=[2, 4, 4], best=[16, 12, 12], note="stopped by the guard")
