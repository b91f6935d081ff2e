"""The report for machines: summary.json, with results apart from what differs on every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from msft_lite.core import Score
from msft_lite.report.intervals import Estimate, estimate_of, mean_estimate, task_differences
from msft_lite.report.story import Mark, RolloutStory, Story

FORMAT = 1


def summary(story: Story) -> dict[str, object]:
    """Returns the content of summary.json.

    Accuracies and differences are shares of 1, a loss is negative, so that more is always better.
    Everything outside ``seconds``, ``cached_tokens``, ``peak_bytes``, ``disk`` and the evaluation's
    operations is the same for two runs with the same rows.
    """
    totals = story.totals()
    spent = totals.spending
    return {
        "format": FORMAT,
        "finished": story.finish is not None,
        "note": story.finish.note if story.finish else "",
        "method": story.setting.method,
        "seed": story.setting.seed,
        "steer_on": story.setting.steer_on,
        "signal": story.setting.signal,
        "metric": dict(story.setting.metrics),
        "domain": dict(story.setting.domains),
        "marks_per_epoch": story.setting.marks_per_epoch,
        "facts": dict(story.setting.facts),
        "best": _place(story.best),
        "steering": {
            "mean": {"base": _mean(story.base), "best": _mean(story.best)},
            "tasks": {name: _steering(story, name) for name in story.names},
        },
        "report": _report(story),
        "rollouts": [_rollout(story, rollout) for rollout in story.rollouts],
        "totals": {
            "steps": totals.steps,
            "rolled_back_steps": totals.rolled_back_steps,
            "trained_tokens": spent.trained.tokens,
            "generated_tokens": spent.generated_tokens,
            "prompt_tokens": spent.prompt_tokens,
            "evaluations": totals.evaluations,
            "flops": None if totals.flops is None else asdict(totals.flops),
        },
        "disk": {
            "mean_copies": totals.copies,
            "peak_bytes": totals.disk_bytes,
            "written_bytes": spent.written_bytes,
        },
        "cached_tokens": spent.cached_tokens,
        "peak_bytes": totals.peak_bytes,
        "seconds": {kind: round(value, 3) for kind, value in sorted(spent.seconds.items())},
    }


def _steering(story: Story, task: str) -> dict[str, object]:
    standing, peak = story.standing(task), story.peak(task)
    rows = next(t for t in story.tasks if t.name == task)
    return {
        "rows": {"train": rows.train, "control": rows.control, "report": rows.report},
        "base": _score(story.base, task),
        "peak": None if peak is None else {**_place_of(peak), **_score_of(peak.scores[task])},
        "best": _score(story.best, task),
        "status": standing.word,
        "dropped_at": (
            {"rollout": standing.n, "mark": standing.mark} if standing.word == "dropped" else None
        ),
    }


def _report(story: Story) -> dict[str, object] | None:
    if story.finish is None:
        return None
    base, best = story.finish.base, story.finish.best
    per_task, mean = task_differences(base, best, seed=story.setting.seed)
    return {
        "mean": {
            "base": _numbers(mean_estimate(base)),
            "best": _numbers(mean_estimate(best)),
            "difference": _numbers(mean),
        },
        "tasks": {
            name: {
                "base": _score_of(base[name]),
                "best": _score_of(best[name]),
                "difference": _numbers(per_task[name]),
            }
            for name in story.names
        },
    }


def _rollout(story: Story, rollout: RolloutStory) -> dict[str, object]:
    kept = story.kept_mark(rollout)
    return {
        "rollout": rollout.n,
        "start": rollout.start,
        "tasks": list(rollout.tasks),
        "share": {task: str(share) for task, share in rollout.share.items()},
        "complete": rollout.is_complete,
        "rolled_back_to_mark": kept if kept < len(rollout.steps) else None,
        "drops": [
            {"task": d.task, "peak_mark": d.peak_mark, "rolled_back_to": d.rolled_back_to,
             "reason": d.reason}
            for d in rollout.drops
        ],
        "marks": [_mark(mark, is_kept=mark.k <= kept) for mark in rollout.marks],
    }  # fmt: skip


def _mark(mark: Mark, *, is_kept: bool) -> dict[str, object]:
    return {
        **_place_of(mark),
        "kept": is_kept,
        "scores": {task: [sum(score.rows), score.total] for task, score in mark.scores.items()},
        "mean": round(float(mark.mean), 6) if mark.is_whole else None,
        "train_loss": dict(mark.train_loss),
    }


def _place(mark: Mark | None) -> dict[str, object] | None:
    return None if mark is None else _place_of(mark)


def _place_of(mark: Mark) -> dict[str, object]:
    return {
        "rollout": mark.n,
        "mark": mark.k,
        "snapshot": mark.snapshot,
        "steps": mark.path.steps,
        "epochs": float(mark.path.epochs),
        "spent_steps": mark.spent.steps,
        "spent_epochs": float(mark.spent.epochs),
    }


def _score(mark: Mark | None, task: str) -> dict[str, object] | None:
    return None if mark is None else _score_of(mark.scores[task])


def _score_of(score: Score) -> dict[str, object]:
    counted = {} if score.is_graded else {"correct": score.correct}
    return {**counted, "total": score.total, **_numbers(estimate_of(score))}


def _mean(mark: Mark | None) -> Mapping[str, float] | None:
    return None if mark is None else _numbers(mean_estimate(mark.scores))


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {
        "value": round(estimate.value, 6),
        "low": round(estimate.low, 6),
        "high": round(estimate.high, 6),
    }
