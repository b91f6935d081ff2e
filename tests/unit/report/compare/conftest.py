from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from msft_lite.report.compare import Comparison, compare
from msft_lite.report.compare.costs import Costs, costs_of
from msft_lite.report.story import Story
from msft_lite.report.telling import tell

Rows = Sequence[Mapping[str, Any]]
Outcomes = Mapping[str, str | list[int]]


def _columns(sides: Mapping[str, Outcomes]) -> dict[str, dict[str, Any]]:
    """The keys scores and outcomes of a finish row, of texts of 0s and 1s or of millionths."""
    scores = {
        side: {
            task: [rows.count("1") if isinstance(rows, str) else sum(rows), len(rows)]
            for task, rows in of.items()
        }
        for side, of in sides.items()
    }
    return {"scores": scores, "outcomes": {side: dict(of) for side, of in sides.items()}}


def run_rows(
    best: Outcomes,
    *,
    last: Outcomes | None = None,
    method: str = "sft",
    seed: int = 20,
    tokens: int = 1000,
    **start: Any,
) -> list[dict[str, Any]]:
    """The ledger of a finished run of two marks that returned ``best`` on the report rows."""
    tasks = list(best)
    base = {t: "0" * len(o) if isinstance(o, str) else [0] * len(o) for t, o in best.items()}
    begin = {
        "kind": "start", "format": 1, "recipe": f"{method}{seed}", "method": method, "seed": seed,
        "tasks": tasks, "data": dict.fromkeys(tasks, "beef"), "base": "cafe",
        "rows": {t: {"train": 40, "control": 4, "report": len(o)} for t, o in best.items()},
        "marks_per_epoch": 4, "device": "cpu", "dtype": "float32", "engine": "torch",
        "tuning": "lora", **start,
    }  # fmt: skip
    rollout = {
        "kind": "rollout", "n": 1, "start": "root", "tasks": tasks, "fresh": True, "marks": [5],
        "share": dict.fromkeys(tasks, "1"),
    }  # fmt: skip
    marks = [
        {
            "kind": "mark", "n": 1, "k": k, "step": 5 * k, "snapshot": "s1" if k else "root",
            "scores": {t: [k, 4] for t in tasks},
            "outcomes": dict.fromkeys(tasks, "1" * k + "0" * (4 - k)), "train_loss": {},
            "trained_tokens": k * tokens, "generated_tokens": 10,
            "seconds": {"train": 60.0 * k, "generate": 4.0}, "peak_bytes": 1,
        }
        for k in (0, 1)
    ]  # fmt: skip
    finish = {
        "kind": "finish", "snapshot": "s1", "n": 1, "k": 1, "note": "",
        "seconds": {"finish": 2.0}, "last": {"snapshot": "s1", "n": 1, "k": 1} if last else None,
        **_columns({"base": base, "best": best, **({"last": last} if last else {})}),
    }  # fmt: skip
    return [begin, rollout, *marks, finish]


def run_story(best: Outcomes, **options: Any) -> Story:
    return tell(run_rows(best, **options))


@pytest.fixture
def rows() -> Callable[..., list[dict[str, Any]]]:
    """Makes the ledger of a run; see `run_rows`."""
    return run_rows


@pytest.fixture
def story() -> Callable[..., Story]:
    """Makes a finished run; see `run_rows`."""
    return run_story


@pytest.fixture
def write() -> Callable[[Rows, Path], Path]:
    """Writes a ledger into a folder and returns the folder."""

    def to(rows: Rows, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "ledger.jsonl").write_text(text, encoding="utf-8")
        return folder

    return to


def made_up_costs(story: Story) -> Costs:
    """Costs with FLOPs and disk, which grow with the tokens."""
    known, tokens = costs_of(story), story.totals().spending.trained.tokens
    return Costs(
        training_flops=2e12 * tokens, recompute_flops=0.0, probe_flops=5e11 * tokens,
        evaluation_flops=1e12, trained_tokens=known.trained_tokens,
        evaluations=known.evaluations, seconds=known.seconds,
        peak_disk_bytes=2.0**20 * tokens, copies=tokens / 500,
    )  # fmt: skip


@pytest.fixture
def costs() -> Callable[[Story], Costs]:
    """Reads made-up costs; see `made_up_costs`."""
    return made_up_costs


@pytest.fixture
def three() -> Comparison:
    """Three systems on four tasks of ten rows; msft trained twice as long.

    Right rows of sft, msft and sro: a 5 6 6, b 8 8 8, c 2 4 3, d 9 7 8. Means 24, 25, 25 of 40.
    """
    domains = {"a": "words", "b": "words", "c": "sums", "d": "sums"}
    counts = {"sft": (5, 8, 2, 9), "msft": (6, 8, 4, 7), "sro": (6, 8, 3, 8)}
    stories: dict[str, list[Story]] = {}
    for method, right in counts.items():
        best = {t: "1" * n + "0" * (10 - n) for t, n in zip("abcd", right, strict=True)}
        tokens = 2000 if method == "msft" else 1000
        stories[method] = [run_story(best, method=method, domain=domains, tokens=tokens)]
    return compare(stories, costs=made_up_costs)
