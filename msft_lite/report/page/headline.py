"""What a page says first, and its small print."""

from __future__ import annotations

import re

from msft_lite.report.intervals import mean_estimate, task_differences
from msft_lite.report.scale import scale_of
from msft_lite.report.settings import settings_rows
from msft_lite.report.story import Story
from msft_lite.report.tables import Grid
from msft_lite.report.wording import place

_DIGEST = re.compile("[0-9a-f]{64}")


def headline(story: Story) -> str:
    """Returns in a sentence or two how far the run is and what came of it."""
    if story.finish is not None:
        return _finished(story)
    if not story.marks:
        return "Not finished; no mark is recorded yet."
    scale = scale_of(story.setting.steering_metrics().values())
    best, last = story.best, story.marks[-1]
    assert best is not None, "there are marks"
    rollout = story.rollouts[-1]
    so_far = (
        f"roll-out {rollout.n} is under way, no mark of it recorded yet"
        if not rollout.marks
        else f"recorded up to roll-out {last.n}, mark {last.k} of {len(rollout.steps)}"
    )
    value = f"{scale.text(mean_estimate(best.scores).value)} {scale.unit}"
    return (
        f"Not finished: {so_far}. Best mean so far on the {story.setting.steer_on} rows: {value} "
        f"({place(best)}){_left(story)}."
    )


def _finished(story: Story) -> str:
    assert story.finish is not None, "asked only of a finished run"
    base, best = story.finish.base, story.finish.best
    scale = scale_of(story.setting.metrics.values())
    difference = task_differences(base, best, seed=story.setting.seed)[1]
    steered = " (they also steered the run)" if story.setting.steer_on == "report" else ""
    note = f" Remark: {story.finish.note}." if story.finish.note else ""
    return (
        f"Finished: returned is {_returned(story)}. Its mean on the report rows{steered} is "
        f"{scale.text(mean_estimate(best).value)} {scale.unit}; the base has "
        f"{scale.text(mean_estimate(base).value)} {scale.unit}, a difference of "
        f"{scale.difference(difference)} with its 95 % interval{_left(story)}.{note}"
    )


def _returned(story: Story) -> str:
    name = place(story.best)
    return "the base itself" if name == "base" else name


def _left(story: Story) -> str:
    """Returns how many tasks were dropped, as the end of a sentence."""
    dropped = [t for t in story.names if story.standing(t).word == "dropped"]
    if not dropped:
        return ""
    so_far = "" if story.finish else " so far"
    return f"; tasks dropped{so_far}: {len(dropped)} of {len(story.tasks)}"


def settings_grids(story: Story) -> tuple[Grid, Grid]:
    """Returns what the start row says, one line a value: settings, and apart from them digests."""
    rows = settings_rows(story)
    plain = tuple(row for row in rows if not _DIGEST.fullmatch(row[1]))
    digests = tuple(row for row in rows if _DIGEST.fullmatch(row[1]))
    return (
        Grid("Settings", ("Setting ", "Value "), plain),
        Grid("Digests of recipe, data and weights", ("Of ", "SHA-256 "), digests),
    )
