"""What a run says where there is no terminal: plain lines, no colour codes, one a fact."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console

from msft_lite.core import Drop
from msft_lite.report.scale import scale_of
from msft_lite.report.story import Mark, RolloutStory, Story
from msft_lite.report.tables import rolled_back_text
from msft_lite.report.telling import advance
from msft_lite.report.wording import counted, duration, place, visible


class PlainWatcher:
    """A `Watcher` that prints a line for every row and notice.

    The finish row has none: the report that is printed next begins with that very sentence. Nor
    have rows by which a roll-out merely goes on.
    """

    def __init__(self, console: Console) -> None:
        """Prints to ``console``, whose width does not matter."""
        self._console = console
        self._story: Story | None = None

    def __enter__(self) -> PlainWatcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def row(self, row: Mapping[str, Any]) -> None:
        """Prints what ``row`` adds."""
        before = self._story
        self._story = advance(before, row, where="the row just recorded")
        if is_news(before, self._story):
            self.say(line_of(self._story, row["kind"]))

    def progress(self, *, n: int, step: int, steps: int, losses: Mapping[str, float]) -> None:
        """Prints nothing: a line a step would bury the others."""

    def say(self, text: str) -> None:
        """Prints ``text`` on one line."""
        self._console.out(visible(text), highlight=False)


def is_news(before: Story | None, after: Story) -> bool:
    """Returns whether a row is worth a line: not those by which a roll-out merely goes on.

    The finish is none either, as the report begins with it.
    """
    if before is None:
        return True
    counts = [
        (len(story.rollouts), len(story.marks), sum(len(r.drops) for r in story.rollouts))
        for story in (before, after)
    ]
    return counts[0] != counts[1]


def line_of(story: Story, kind: str) -> str:
    """Returns the sentence for the row told last, which was of ``kind`` (no finish row)."""
    if kind == "start":
        return _start_line(story)
    rollout = story.rollouts[-1]
    if kind == "rollout":
        return rollout_line(story, rollout)
    if kind == "mark":
        return mark_line(story, rollout, rollout.marks[-1])
    return drop_text(story, rollout, rollout.drops[-1])


def _start_line(story: Story) -> str:
    facts = story.setting.facts
    shown = [key for key in ("device", "dtype", "engine", "tuning") if key in facts]
    parts = [
        f"{story.setting.method} on {counted(len(story.tasks), 'task')}",
        f"({', '.join(story.names)}),",
        ", ".join([f"seed {story.setting.seed}", *(f"{key} {facts[key]}" for key in shown)]),
    ]
    return " ".join(parts)


def rollout_line(story: Story, rollout: RolloutStory) -> str:
    """Returns what a roll-out is going to do."""
    epochs = len(rollout.steps) / story.setting.marks_per_epoch
    parts = [
        counted(len(rollout.tasks), "task"),
        counted(epochs, "epoch"),
        counted(len(rollout.steps), "mark"),
        counted(rollout.end_step, "step"),
    ]
    return f"roll-out {rollout.n} from {start_text(story, rollout)}: {', '.join(parts)}"


def start_text(story: Story, rollout: RolloutStory) -> str:
    """Returns where ``rollout`` began."""
    mark = story.mark_of(rollout.start)
    return "the base" if mark is None or mark.path.steps == 0 else place(mark)


def mark_line(story: Story, rollout: RolloutStory, mark: Mark) -> str:
    """Returns scores, losses and seconds of a mark."""
    metrics = story.setting.steering_metrics()
    whole = scale_of(metrics.values())
    scores = ", ".join(
        f"{task} {scale_of([metrics[task]]).text(float(score.value))}"
        for task, score in mark.scores.items()
    )
    mean = f"mean {whole.text(float(mark.mean))} {whole.unit} " if mark.is_whole else ""
    losses = ", ".join(f"{task} {loss:.3f}" for task, loss in mark.train_loss.items())
    seconds = ", ".join(
        f"{kind} {duration(value)}" for kind, value in mark.seconds.items() if value
    )
    parts = [
        f"roll-out {mark.n}, mark {mark.k} of {len(rollout.steps)} (epoch "
        f"{float(mark.path.epochs):g}): {mean}({scores})",
        f"loss {losses}" if losses else "",
        f"time {seconds}" if seconds else "",
    ]
    return "; ".join(part for part in parts if part)


def drop_text(story: Story, rollout: RolloutStory, drop: Drop) -> str:
    """Returns who left, why, and what training goes on from."""
    back = rolled_back_text(story, rollout)
    tail = "" if back == "-" else f"; rolled back to {back} of roll-out {rollout.n}"
    return f"dropped {drop.task}: {drop.reason}{tail}"


def finish_line(story: Story) -> str:
    """Returns where the returned point stands and what it is worth."""
    assert story.finish is not None, "only a finish row leads here"
    base, best = (
        sum(float(score.value) for score in scores.values()) / len(scores)
        for scores in (story.finish.base, story.finish.best)
    )
    scale = scale_of(story.setting.metrics.values())
    steered = " (it steered the run)" if story.setting.steer_on == "report" else ""
    note = f"; {story.finish.note}" if story.finish.note else ""
    return (
        f"finished: returned {place(story.best)}; report split{steered}: mean "
        f"{scale.text(best)} {scale.unit}, base {scale.text(base)} {scale.unit}{note}"
    )
