"""Turns ledger rows into a story: a pure fold that checks every row and names the damaged line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from msft_lite.core import LIVE, ROOT, Drop, Score
from msft_lite.errors import LedgerError, did_you_mean
from msft_lite.ledger import MEMORY, REPLAY, Row, read_rows
from msft_lite.report.cost import rates_of
from msft_lite.report.fields import Fields
from msft_lite.report.spending import NOTHING, Spending, count, work_of
from msft_lite.report.story import (
    Finish,
    Mark,
    Position,
    Progress,
    RolloutStory,
    Setting,
    Story,
    TaskRows,
)

FORMAT = 1  # of the ledger rows; see docs/format.md
_OWN_FIELDS = {
    "kind", "format", "method", "seed", "tasks", "rows", "marks_per_epoch", "dropped_every",
    "steer_on", "signal", "metric", "score", "domain", "flops", "model_bytes",
}  # fmt: skip


def read_story(path: Path) -> Story:
    """Returns the story of the ledger at ``path``.

    Raises:
        LedgerError: the ledger is missing or damaged; the message names the line.
    """
    return tell(read_rows(path), source=str(path))


def tell(rows: Iterable[Row], *, source: str = "ledger.jsonl") -> Story:
    """Returns the story of ``rows``, the first of which is line 1 of ``source``.

    Raises:
        LedgerError: a row is damaged, missing or out of order; the message names the line.
    """
    story: Story | None = None
    for line, row in enumerate(rows, start=1):
        story = advance(story, row, where=f"{source}, line {line}")
    if story is None:
        raise LedgerError(f"{source}: the ledger holds no complete row; start the run again")
    return story


def advance(story: Story | None, row: Row, *, where: str) -> Story:
    """Returns the story with one more row told; None is the story before the first.

    Raises:
        LedgerError: the row is damaged or cannot stand here.
    """
    fields = Fields(row, where)
    kind = fields.text("kind")
    if story is None:
        if kind != "start":
            raise fields.damaged(f"a {kind!r} row where the start row is due")
        return _start(fields)
    if story.finish is not None:
        raise fields.damaged(f"a {kind!r} row after the finish")
    if kind not in _TELLERS:
        hint = did_you_mean(kind, _TELLERS)
        raise fields.damaged(f"kind = {kind!r} is not a row that can stand here{hint}")
    return _TELLERS[kind](story, fields)


def _start(fields: Fields) -> Story:
    if (number := fields.whole("format")) != FORMAT:
        raise LedgerError(
            f"{fields.where}: the ledger has format {number}, this version reads format {FORMAT}; "
            "use the version that wrote it"
        )
    names, rows = fields.names("tasks"), fields.group("rows")
    if not names or len(set(names)) != len(names):
        raise fields.damaged(f"tasks = {list(names)} is empty or names a task twice")
    setting = Setting(
        method=fields.text("method"),
        seed=fields.whole("seed"),
        marks_per_epoch=fields.whole("marks_per_epoch"),
        dropped_every=fields.whole("dropped_every") if "dropped_every" in fields.values else 1,
        steer_on=fields.text("steer_on") if "steer_on" in fields.values else "control",
        signal=fields.text("signal") if "signal" in fields.values else "metric",
        metrics=_of_tasks(fields, "metric", names, default="accuracy"),
        scores=_of_tasks(fields, "score", names, default="generate"),
        domains=_of_tasks(fields, "domain", names, default=""),
        rates=rates_of(fields),
        model_bytes=count(fields, "model_bytes"),
        facts={key: value for key, value in fields.values.items() if key not in _OWN_FIELDS},
    )
    for key, value in (
        ("marks_per_epoch", setting.marks_per_epoch),
        ("dropped_every", setting.dropped_every),
    ):
        if value == 0:
            raise fields.damaged(f"{key} is 0")
    return Story(setting, tuple(_task(name, rows.group(name)) for name in names))


def _of_tasks(fields: Fields, key: str, names: tuple[str, ...], *, default: str) -> dict[str, str]:
    """Returns a text per task; ``default`` where the row has no such key, as old rows have none."""
    if key not in fields.values:
        return dict.fromkeys(names, default)
    group = fields.group(key)
    return {name: group.text(name) for name in names}


def _task(name: str, rows: Fields) -> TaskRows:
    return TaskRows(name, rows.whole("train"), rows.whole("control"), rows.whole("report"))


def _rollout(story: Story, fields: Fields) -> Story:
    n, steps, tasks = fields.whole("n"), fields.wholes("marks"), fields.names("tasks")
    if n != story.requests + 1:
        raise fields.damaged(f"roll-out {n} where roll-out {story.requests + 1} is due")
    if story.rollouts and not story.rollouts[-1].is_complete:
        raise fields.damaged(f"roll-out {n} begins but marks of roll-out {n - 1} are missing")
    if not steps or steps[0] == 0 or any(a >= b for a, b in pairwise(steps)):
        raise fields.damaged(f"marks = {list(steps)} do not rise from 1 or more")
    if not tasks or set(tasks) - set(story.names):
        raise fields.damaged(f"tasks = {list(tasks)} are not tasks of the run")
    is_scored = fields.truth("score") if "score" in fields.values else True
    progress = Progress(n, steps, 0, is_scored, 0, "")
    if _carries_on(story, fields, tasks):
        return _with_current(story, _carried_on(story.rollouts[-1], progress, fields))
    start = fields.text("start")
    rollout = RolloutStory(
        n=len(story.rollouts) + 1,
        start=start,
        path=_position(story, start, fields),
        spent=story.rollouts[-1].marks[-1].spent if story.rollouts else Position(0, Fraction(0)),
        tasks=tasks,
        share=_shares(fields),
        fresh=fields.truth("fresh"),
        steps=steps if is_scored else (),
        progress=progress,
        is_iid=fields.truth("iid") if "iid" in fields.values else False,
        skipped=_skipped(fields),
    )
    return replace(story, rollouts=(*story.rollouts, rollout))


def _carries_on(story: Story, fields: Fields, tasks: tuple[str, ...]) -> bool:
    if fields.truth("fresh") or not story.rollouts:
        return False
    before = story.rollouts[-1]
    return (before.progress.end, before.tasks) == (fields.text("start"), tasks)


def _carried_on(rollout: RolloutStory, progress: Progress, fields: Fields) -> RolloutStory:
    """Returns ``rollout`` with one more request that goes on with it."""
    behind = rollout.end_step
    more = [behind + step for step in progress.marks] if progress.is_scored else []
    return replace(
        rollout,
        share=_shares(fields),
        steps=(*rollout.steps, *more),
        progress=replace(progress, behind=behind, end=fields.text("start")),
        skipped=_skipped(fields),
    )


def _skipped(fields: Fields) -> dict[str, int]:
    if "skip" not in fields.values:
        return {}
    skip = fields.group("skip")
    return {task: skip.whole(task) for task in skip.values}


def _shares(fields: Fields) -> dict[str, Fraction]:
    shares = fields.group("share")
    try:
        return {task: Fraction(shares.text(task)) for task in shares.values}
    except (ValueError, ZeroDivisionError):
        raise fields.damaged(f"share = {dict(shares.values)} are not fractions") from None


def _position(story: Story, snapshot: str, fields: Fields) -> Position:
    mark = story.mark_of(snapshot)
    if mark is not None:
        return mark.path
    if snapshot != ROOT:
        raise fields.damaged(f"snapshot {snapshot!r} was not scored at any mark before")
    return Position(0, Fraction(0))


def _mark(story: Story, fields: Fields) -> Story:
    rollout = _current(story, fields)
    progress = rollout.progress
    k = progress.recorded
    if fields.whole("k") != k or rollout.is_complete:
        due = "no further mark" if rollout.is_complete else f"mark {k}"
        raise fields.damaged(
            f"mark {fields.whole('k')} of roll-out {progress.n} where {due} is due"
        )
    step = progress.marks[k - 1] if k else 0
    if fields.whole("step") != step:
        raise fields.damaged(f"mark {k} at step {fields.whole('step')}, planned at step {step}")
    snapshot = fields.text("snapshot")
    if k > 0 and (snapshot != LIVE) != progress.is_scored:
        raise fields.damaged(f"mark {k} has the snapshot {snapshot!r}")
    rollout = replace(
        rollout,
        progress=replace(progress, recorded=k + 1, end=snapshot),
        pending=rollout.pending + _spending(fields),
    )
    is_seen = k == 0 and len(rollout.marks) > 0  # where another request ended
    if snapshot != LIVE and not is_seen:
        rollout = _scored(story, rollout, fields)
    return _with_current(story, rollout)


def _scored(story: Story, rollout: RolloutStory, fields: Fields) -> RolloutStory:
    """Returns ``rollout`` with the mark of the row; what was pending belongs to it."""
    k, step = len(rollout.marks), rollout.progress.behind + fields.whole("step")
    is_whole = _is_whole(story, rollout.progress)
    tasks = story.names if is_whole else tuple(t for t in story.names if t in rollout.tasks)
    # The last interval of rows that are drawn independently may be a short one.
    passed = Fraction(step, rollout.steps[0]) if k and rollout.is_iid else Fraction(k)
    epochs = passed / story.setting.marks_per_epoch
    mark = Mark(
        n=rollout.n,
        k=k,
        row=(rollout.progress.n, fields.whole("k")),
        snapshot=fields.text("snapshot"),
        path=rollout.path.after(step, epochs),
        spent=rollout.spent.after(step, epochs),
        scores=fields.scores(tasks, "scores", "outcomes"),
        is_whole=is_whole or tasks == story.names,
        train_loss=fields.numbers("train_loss"),
        spending=rollout.pending,
        disk_bytes=count(fields, "disk_bytes"),
        peak_bytes=fields.whole("peak_bytes"),
        shared=fields.text("shared") if "shared" in fields.values else "",
    )
    return replace(rollout, marks=(*rollout.marks, mark), pending=NOTHING)


def _is_whole(story: Story, progress: Progress) -> bool:
    """Returns whether tasks outside the mixture are scored at the latest place of ``progress``."""
    k = progress.recorded - 1
    return k % story.setting.dropped_every == 0 or k == len(progress.marks)


def _audit(story: Story, fields: Fields) -> Story:
    """Adds what a method's question cost to the mark that it was asked at, or to the next one."""
    rollout = _current(story, fields)
    if not rollout.is_complete:
        raise fields.damaged(f"an audit before the last mark of roll-out {rollout.progress.n}")
    spending = Spending(
        probed=work_of(fields, "trained"),
        audited=work_of(fields, "read"),
        seconds=fields.numbers("seconds"),
    )
    if rollout.progress.end == LIVE:
        return _with_current(story, replace(rollout, pending=rollout.pending + spending))
    return _spent_on(rollout, story, spending)


def _spent_on(rollout: RolloutStory, story: Story, spending: Spending) -> Story:
    """Adds to the last mark of the current roll-out, or to its first one that is to come."""
    if not rollout.marks:
        return _with_current(story, replace(rollout, pending=rollout.pending + spending))
    last = rollout.marks[-1]
    last = replace(last, spending=last.spending + spending)
    return _with_current(story, replace(rollout, marks=(*rollout.marks[:-1], last)))


def _spending(fields: Fields) -> Spending:
    return Spending(
        trained=work_of(fields, "trained"),
        read=work_of(fields, "read"),
        prompt_tokens=count(fields, "prompt_tokens"),
        cached_tokens=count(fields, "cached_tokens"),
        generated_tokens=fields.whole("generated_tokens"),
        written_bytes=count(fields, "written_bytes"),
        seconds=fields.numbers("seconds"),
    )


def _drop(story: Story, fields: Fields) -> Story:
    rollout = _current(story, fields)
    drop = Drop(
        task=fields.text("task"),
        peak_mark=fields.whole("peak_mark"),
        rolled_back_to=fields.text("rolled_back_to"),
        reason=fields.text("reason"),
    )
    if not rollout.is_complete:
        raise fields.damaged(f"a drop before the last mark of roll-out {rollout.progress.n}")
    if drop.task not in rollout.tasks or drop.task in {d.task for d in rollout.drops}:
        raise fields.damaged(f"task = {drop.task!r} is not active in roll-out {rollout.progress.n}")
    _position(story, drop.rolled_back_to, fields)
    return _with_current(story, replace(rollout, drops=(*rollout.drops, drop)))


def _memory(story: Story, fields: Fields) -> Story:
    """Adds how steps fit from here on.

    Where layers are computed again from here on, all of them count so in all steps: a bound.
    """
    settings = {key: value for key, value in fields.values.items() if key != "kind"}
    setting, rates = story.setting, story.setting.rates
    if rates is not None and settings.get("gradient_checkpointing"):
        rates = replace(
            rates,
            body_recompute=rates.body_forward,
            attention_recompute=rates.attention_forward,
        )
    facts = {**setting.facts, f"memory since roll-out {story.requests}": settings}
    return replace(story, setting=replace(setting, rates=rates, facts=facts))


def _replay(story: Story, fields: Fields) -> Story:
    """Adds the seconds that a lost snapshot took to the mark that stands last, or comes next.

    Its steps are counted once, where they were first taken.
    """
    if not story.rollouts:
        raise fields.damaged("a replay before the first roll-out")
    return _spent_on(story.rollouts[-1], story, Spending(seconds=fields.numbers("seconds")))


def _finish(story: Story, fields: Fields) -> Story:
    finish = Finish(
        n=fields.whole("n"),
        k=fields.whole("k"),
        snapshot=fields.text("snapshot"),
        note=fields.text("note"),
        base=fields.scores(story.names, "scores.base", "outcomes.base"),
        best=fields.scores(story.names, "scores.best", "outcomes.best"),
        spending=Spending(
            written_bytes=count(fields, "written_bytes"), seconds=fields.numbers("seconds")
        ),
        last=_last(story, fields),
    )
    if any(finish.base[task].total != finish.best[task].total for task in story.names):
        raise fields.damaged("scores.base and scores.best are not of the same rows")
    place = {mark.row: mark for mark in story.marks}.get((finish.n, finish.k))
    if place is None or place.snapshot != finish.snapshot:
        raise fields.damaged(
            f"snapshot {finish.snapshot!r} does not stand at roll-out {finish.n}, mark {finish.k}"
        )
    return replace(story, finish=finish)


def _last(story: Story, fields: Fields) -> dict[str, Score] | None:
    """Returns the scores of the point where training ended, if the row has them."""
    if "last" not in fields.group("scores").values:
        return None
    return fields.scores(story.names, "scores.last", "outcomes.last")


def _current(story: Story, fields: Fields) -> RolloutStory:
    n = fields.whole("n")
    if not story.rollouts or n != story.requests:
        raise fields.damaged(f"n = {n} but {story.requests} roll-outs have begun")
    return story.rollouts[-1]


def _with_current(story: Story, rollout: RolloutStory) -> Story:
    return replace(story, rollouts=(*story.rollouts[:-1], rollout))


_TELLERS = {
    "rollout": _rollout,
    "mark": _mark,
    "audit": _audit,
    "drop": _drop,
    MEMORY: _memory,
    REPLAY: _replay,
    "finish": _finish,
}
