"""What a run shows while it goes on: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from msft_lite.report.plain import PlainWatcher, drop_text, start_text
from msft_lite.report.scale import scale_of
from msft_lite.report.story import Mark, RolloutStory, Story
from msft_lite.report.telling import advance
from msft_lite.report.wording import duration, percent, short_place, standing_text, visible

_SECONDS_BETWEEN_DRAWINGS = 0.25
_FEWEST_TASKS = 3  # shown in however low a window
_LINES_BESIDE_TASKS = 8  # of the table: head, rules, mean, tasks left out, and some that wrap
_LOSS_MEMORY = 0.9  # weight of the past in the shown loss: a batch alone jumps too much to read


class Watcher(Protocol):
    """Is told everything that happens in a run, to show it; changes nothing."""

    def __enter__(self) -> Watcher:
        """Begins to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the last state on the screen after an error; otherwise the report shows it."""
        ...

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes a ledger row that was replayed or appended.

        Raises:
            LedgerError: the row is damaged or cannot follow the ones before.
        """
        ...

    def progress(self, *, n: int, step: int, steps: int, losses: Mapping[str, float]) -> None:
        """Takes note of an optimizer step.

        Args:
            n: roll-out.
            step: steps of it that are done.
            steps: steps it has.
            losses: mean loss per answer token of each task in the batch.
        """
        ...

    def say(self, text: str) -> None:
        """Shows a one-line notice."""
        ...


def watcher(console: Console) -> Watcher:
    """Returns a live display if ``console`` is a terminal that can move its cursor, else lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveWatcher(console)
    return PlainWatcher(console)


@dataclass(frozen=True, slots=True)
class Moment:
    """The latest optimizer step: of which roll-out, how far, and smoothed loss per task."""

    n: int
    step: int
    losses: Mapping[str, float]


class LiveWatcher:
    """A `Watcher` that keeps one table up to date at the bottom of a terminal.

    Drawn by the caller's own thread, four times a second at most: a drawing thread would read
    the state while it changes. At an end without an error the table is taken away, as the report
    comes next.
    """

    def __init__(self, console: Console) -> None:
        """Draws on ``console`` from ``__enter__`` on."""
        self._live = Live(console=console, auto_refresh=False)
        self._story: Story | None = None
        self._moment = Moment(0, 0, {})
        self._drawn_at = 0.0

    def __enter__(self) -> LiveWatcher:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._draw()
        if error is None:
            self._live.update(Group(), refresh=True)
        self._live.__exit__(kind, error, trace)

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes a ledger row that was replayed or appended."""
        self._story = advance(self._story, row, where="the row just recorded")
        if row["kind"] == "rollout":
            self._moment = Moment(row["n"], 0, {})
        self._draw_soon()

    def progress(self, *, n: int, step: int, steps: int, losses: Mapping[str, float]) -> None:
        """Takes note of an optimizer step; ``steps`` is known from the roll-out's row."""
        shown = dict(self._moment.losses) if self._moment.n == n else dict[str, float]()
        smoothed = {
            task: _LOSS_MEMORY * shown.get(task, loss) + (1 - _LOSS_MEMORY) * loss
            for task, loss in losses.items()
        }
        self._moment = Moment(n, step, {**shown, **smoothed})
        self._draw_soon()

    def say(self, text: str) -> None:
        """Prints a notice above the table."""
        self._live.console.print(Text(visible(text)))

    def _draw_soon(self) -> None:
        if time.monotonic() - self._drawn_at >= _SECONDS_BETWEEN_DRAWINGS:
            self._draw()

    def _draw(self) -> None:
        if self._story is not None:
            height = self._live.console.height
            self._live.update(screen(self._story, self._moment, lines=height), refresh=True)
        self._drawn_at = time.monotonic()


def screen(story: Story, moment: Moment, *, lines: int) -> RenderableType:
    """Returns what a terminal of that many ``lines`` shows of a run; it has a row for a task.

    Where not all tasks fit, active ones come first and the table says how many are left out: a
    taller picture would be cut off while the run goes on and printed whole at its end.
    """
    totals = story.totals()
    whole = sum(totals.spending.seconds.values())
    shares = sorted(totals.spending.seconds.items(), key=lambda item: -item[1])
    parts = "  ".join(f"{kind} {percent(value / whole)} %" for kind, value in shares if value > 0)
    above: list[RenderableType] = [_headline(story)]
    if story.rollouts and story.finish is None:
        above.append(_bar(story.rollouts[-1], moment))
    above.extend(Text(line, style="dim") for line in _decisions(story))
    if parts:
        above.append(Text(visible(f"time recorded: {duration(whole)}  {parts}"), style="dim"))
    room = max(_FEWEST_TASKS, lines - len(above) - _LINES_BESIDE_TASKS)
    return Group(*above, _table(story, moment, room=room))


def remaining_seconds(rollout: RolloutStory, step: int) -> float | None:
    """Returns how long the rest of ``rollout`` takes at the pace of its recorded intervals.

    Args:
        rollout: as far as it is recorded.
        step: optimizer steps of it that are done.

    Returns:
        Seconds; None before its first interval is recorded.
    """
    past = rollout.marks[1:]
    if not past:
        return None
    recorded_steps = rollout.steps[len(past) - 1]
    train = sum(mark.seconds.get("train", 0.0) for mark in past)
    other = sum(sum(mark.seconds.values()) for mark in past) - train
    steps_left = rollout.end_step - max(step, recorded_steps)
    marks_left = len(rollout.steps) - len(past)
    return train / recorded_steps * steps_left + other / len(past) * marks_left


def _headline(story: Story) -> Text:
    text = Text(visible(story.setting.method), style="bold")
    if story.finish is not None:
        return text.append("  finished", style="not bold")
    if not story.rollouts:
        return text.append("  starting", style="not bold")
    rollout = story.rollouts[-1]
    where = f"  roll-out {rollout.n} from {start_text(story, rollout)}, "
    tasks = f"{len(rollout.tasks)} of {len(story.tasks)} tasks active"
    return text.append(visible(where + tasks), style="not bold")


def _bar(rollout: RolloutStory, moment: Moment) -> Table:
    marks = max(0, len(rollout.marks) - 1)
    recorded = rollout.length(marks)
    is_now = moment.n == rollout.progress.n
    step = max(recorded, rollout.progress.behind + moment.step if is_now else 0)
    seconds = remaining_seconds(rollout, step)
    # How many roll-outs will follow is decided by scores that do not exist yet.
    left = "not known yet" if seconds is None else f"about {duration(seconds)}"
    line = Table.grid(padding=(0, 2))
    line.add_row(
        ProgressBar(total=rollout.end_step, completed=step, width=24),
        Text(f"step {step:,} of {rollout.end_step:,}"),
        Text(f"mark {marks} of {len(rollout.steps)}"),
        Text(f"left of this roll-out: {left}"),
    )
    return line


def _decisions(story: Story) -> list[str]:
    """Returns the drops that led to the roll-out shown, or that were decided on it."""
    for rollout in reversed(story.rollouts[-2:]):
        if rollout.drops:
            return [visible(drop_text(story, rollout, drop)) for drop in rollout.drops]
    return []


def _table(story: Story, moment: Moment, *, room: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("Task", overflow="fold")
    unit = scale_of(story.setting.steering_metrics().values()).unit
    for name in ("Train loss", f"Now {unit}", f"Best {unit}"):
        table.add_column(name, justify="right")
    table.add_column("Best at")
    table.add_column("Status")
    now = story.marks[-1] if story.marks else None
    shown = _most_telling(story, room)
    for task in shown:
        table.add_row(*_task_row(story, task, now, moment))
    if len(shown) < len(story.names):
        table.add_row(Text(f"... and {len(story.names) - len(shown):,} more", style="dim"))
    table.add_section()
    table.add_row(*_mean_row(story, now))
    return table


def _most_telling(story: Story, room: int) -> list[str]:
    """Returns at most ``room`` tasks in the run's order, dropped ones left out first."""
    active = set(story.rollouts[-1].tasks) if story.rollouts else set[str]()
    chosen = set(sorted(story.names, key=lambda task: task not in active)[:room])
    return [task for task in story.names if task in chosen]


def _task_row(story: Story, task: str, now: Mark | None, moment: Moment) -> tuple[Text, ...]:
    standing, peak = story.standing(task), story.peak(task)
    recorded = now.train_loss.get(task) if now else None
    loss = moment.losses.get(task, recorded)
    style = "dim" if standing.word == "dropped" else ""
    scale = scale_of([story.setting.steering_metrics()[task]])
    cells = (
        visible(task),
        "-" if loss is None else f"{loss:.3f}",
        "-" if now is None or task not in now.scores else scale.text(float(now.scores[task].value)),
        "-" if peak is None else scale.text(float(peak.scores[task].value)),
        short_place(peak),
        standing_text(standing),
    )
    return tuple(Text(cell, style=style) for cell in cells)


def _mean_row(story: Story, now: Mark | None) -> tuple[Text, ...]:
    best, scale = story.best_mean, scale_of(story.setting.steering_metrics().values())
    cells = (
        "mean",
        "",
        "-" if now is None or not now.is_whole else scale.text(float(now.mean)),
        "-" if best is None else scale.text(float(best.mean)),
        short_place(best),
        "",
    )
    return tuple(Text(cell, style="bold") for cell in cells)
