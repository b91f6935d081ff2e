from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console, RenderableType

from msft_lite.errors import LedgerError
from msft_lite.report.live import LiveWatcher, Moment, remaining_seconds, screen, watcher
from msft_lite.report.plain import PlainWatcher
from msft_lite.report.telling import tell

Builder = Any
Build = Callable[..., Builder]
NO_STEP = Moment(0, 0, {})


def drawn(renderable: RenderableType, *, width: int = 120) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


def plain_lines(rows: list[Any]) -> list[str]:
    stream = StringIO()
    with watcher(Console(file=stream, width=40)) as watching:
        for row in rows:
            watching.row(row)
            watching.progress(n=1, step=1, steps=20, losses={"a": 1.0})
    return stream.getvalue().splitlines()


def terminal() -> Console:
    return Console(
        record=True, force_terminal=True, width=110, height=40, file=StringIO(), color_system=None
    )


def test_plain_lines_say_what_happened_one_line_a_row(three_tasks: Builder) -> None:
    lines = plain_lines(three_tasks.rows)
    assert len(lines) == len(three_tasks.rows) - 1, "the finish is told by the report after it"
    assert lines[0] == (
        "msft on 3 tasks (a, b, c), seed 20, device cpu, dtype float32, engine vllm, tuning lora"
    )
    assert lines[1] == "roll-out 1 from the base: 3 tasks, 1 epoch, 4 marks, 20 steps"
    assert lines[2] == (
        "roll-out 1, mark 0 of 4 (epoch 0): mean 15.0 % (a 10.0, b 15.0, c 20.0); "
        "time swap 0.5 s, generate 4.0 s"
    )
    assert lines[3] == (
        "roll-out 1, mark 1 of 4 (epoch 0.25): mean 30.0 % (a 20.0, b 40.0, c 30.0); "
        "loss a 1.000, b 1.000, c 1.000; time train 10.0 s, swap 0.5 s, generate 4.0 s"
    )
    assert lines[7] == (
        "dropped b: best at mark 2 with 14/20, at the last mark 4 11/20; "
        "rolled back to mark 2 of roll-out 1"
    )
    assert lines[8] == ("roll-out 2 from roll-out 1, mark 2: 2 tasks, 1 epoch, 4 marks, 20 steps")
    assert lines[20].startswith("roll-out 3, mark 4 of 4 (epoch 1.75): mean 68.3 %")


def test_plain_lines_of_a_roll_back_to_the_start_of_one_task(build: Build) -> None:
    lines = plain_lines(build(["a"]).rollout({"a": [5, 4]}).drop("a", 0).rows)
    assert lines[1] == "roll-out 1 from the base: 1 task, 0.25 epochs, 1 mark, 5 steps"
    assert lines[-1] == "dropped a: best earlier; rolled back to the start of roll-out 1"


def test_plain_notices_are_one_line_without_colour_or_markup() -> None:
    stream = StringIO()
    with watcher(Console(file=stream, width=20)) as watching:
        watching.say("[red]a[/red] long\nnotice that is wider than the window\x1b[31m [/]")
    assert stream.getvalue() == (
        "[red]a[/red] long notice that is wider than the window\\x1b[31m [/]\n"
    )


def test_hostile_names_stay_on_their_line(build: Build) -> None:
    name = "[bold]\x1b[31m\nx"
    lines = plain_lines(build([name]).rollout({name: [5, 4]}).drop(name, 0, reason="[/no]").rows)
    assert len(lines) == 5
    assert "\x1b" not in "".join(lines)
    assert lines[-1].startswith("dropped [bold]\\x1b[31m x: [/no]")


def test_a_damaged_row_is_refused() -> None:
    with pytest.raises(LedgerError, match="the row just recorded: .*start row is due"):
        PlainWatcher(Console(file=StringIO())).row({"kind": "mark"})


def test_the_console_decides_which_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(watcher(Console(file=StringIO())), PlainWatcher)
    assert isinstance(watcher(terminal()), LiveWatcher)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(watcher(terminal()), PlainWatcher)


def test_the_screen_shows_losses_scores_peaks_and_standings(three_tasks: Builder) -> None:
    text = drawn(screen(tell(three_tasks.rows[:12]), Moment(2, 13, {"a": 0.123}), lines=40))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "msft roll-out 2 from roll-out 1, mark 2, 2 of 3 tasks active"
    assert "step 13 of 20 mark 2 of 4 left of this roll-out: about " in lines[1]
    assert lines[2].startswith("dropped b: best at mark 2 with 14/20")
    assert lines[2].endswith("rolled back to mark 2 of roll-out 1")
    assert "a 0.123 40.0 45.0 r1 m4 active" in lines
    assert "b - 70.0 70.0 r1 m2 dropped, peak r1 m2" in lines
    assert "c 0.500 55.0 60.0 r2 m1 active" in lines
    assert "mean 55.0 55.0 r2 m2" in lines


def test_the_screen_of_a_finished_run_has_no_time_left(three_tasks: Builder) -> None:
    text = drawn(screen(tell(three_tasks.rows), NO_STEP, lines=40))
    assert text.splitlines()[0].split() == ["msft", "finished"]
    assert "never over-fitted" in text
    assert "left of" not in text


def test_before_the_first_interval_the_time_left_of_the_roll_out_is_unknown(
    three_tasks: Builder,
) -> None:
    text = drawn(screen(tell(three_tasks.rows[:3]), NO_STEP, lines=40))
    assert "left of this roll-out: not known yet" in text


def test_hundreds_of_tasks_fit_a_window_active_ones_first(build: Build) -> None:
    names = [f"t{number:03}" for number in range(300)]
    run = build(names).rollout({name: [1, 2] for name in names}).drop("t000", 1)
    run.rollout({name: [2, 2] for name in names}, start="s1.1", tasks=names[1:])
    for lines in (20, 40):
        text = drawn(screen(tell(run.rows), NO_STEP, lines=lines))
        assert len(text.splitlines()) <= lines
        assert "t001" in text and "t000  " not in text
        assert "more" in text and "mean" in text
    assert "... and 297 more" in drawn(screen(tell(run.rows), NO_STEP, lines=1))


def test_a_finished_run_leaves_its_place_to_the_report(three_tasks: Builder) -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=110, height=40, color_system=None)
    with watcher(console) as watching:
        for row in three_tasks.rows:
            watching.row(row)
    last = stream.getvalue().rsplit("Train loss", 1)[1]
    assert "\x1b[1A\x1b[2K" in last, "the table is erased"
    assert "returned roll-out" not in stream.getvalue(), "the report says it"


def test_every_beginning_of_a_run_has_a_screen(three_tasks: Builder) -> None:
    for count in range(1, len(three_tasks.rows) + 1):
        text = drawn(screen(tell(three_tasks.rows[:count]), NO_STEP, lines=40))
        assert text.startswith("msft  ")
        assert all(f" {task} " in text for task in ("a", "b", "c", "mean"))


def test_remaining_time_follows_the_recorded_intervals(three_tasks: Builder) -> None:
    """Per interval 5 steps in 10 s, then 4.5 s of swapping and generating."""
    after_mark_0 = tell(three_tasks.rows[:3]).rollouts[0]
    assert remaining_seconds(after_mark_0, 2) is None
    after_mark_2 = tell(three_tasks.rows[:5]).rollouts[0]
    assert remaining_seconds(after_mark_2, 10) == pytest.approx(2 * 10 + 2 * 4.5)
    assert remaining_seconds(after_mark_2, 13) == pytest.approx(7 * 2 + 2 * 4.5)
    assert remaining_seconds(after_mark_2, 20) == pytest.approx(2 * 4.5)
    assert remaining_seconds(after_mark_2, 0) == pytest.approx(2 * 10 + 2 * 4.5), "after a resume"
    assert remaining_seconds(tell(three_tasks.rows[:7]).rollouts[0], 20) == 0


def test_a_terminal_keeps_one_table_up_to_date(three_tasks: Builder) -> None:
    console = terminal()
    with watcher(console) as watching:
        for row in three_tasks.rows[:12]:  # as after a resume: all at once
            watching.row(row)
        watching.progress(n=2, step=11, steps=20, losses={"a": 3.0})
        watching.progress(n=2, step=12, steps=20, losses={"a": 2.0})
        watching.say("[red]notice[/red]\x1b[31m")
    text = console.export_text()
    assert "[red]notice[/red]\\x1b[31m" in text
    last = text[text.rindex("roll-out 2 from roll-out 1, mark 2") :]
    assert "step 12 of 20" in last
    assert "2.900" in last, "0.9 of 3.0 and 0.1 of 2.0"


def test_losses_of_an_earlier_roll_out_are_forgotten(three_tasks: Builder) -> None:
    console = terminal()
    with watcher(console) as watching:
        for row in three_tasks.rows[:8]:
            watching.row(row)
        watching.progress(n=1, step=20, steps=20, losses={"a": 7.5, "b": 7.5})
        watching.row(three_tasks.rows[8])
        watching.progress(n=2, step=1, steps=20, losses={"a": 4.25})
    text = console.export_text()
    last = text[text.rindex("roll-out 2 from") :]
    assert "4.250" in last
    assert "7.500" not in last


def test_a_terminal_is_left_in_order_after_an_error(three_tasks: Builder) -> None:
    console = terminal()
    with pytest.raises(LedgerError), watcher(console) as watching:
        watching.row(three_tasks.rows[0])
        watching.row({"kind": "nonsense"})
    assert console.export_text().count("Train loss") >= 1
    console.print("afterwards")
    assert "afterwards" in console.export_text()


def test_markup_in_names_is_not_obeyed_in_a_terminal(build: Build) -> None:
    name = "[red]t[/red]\x1b[5m"
    run = build([name]).rollout({name: [5, 4]}).drop(name, 0, reason="[/nothing]")
    console = terminal()
    with watcher(console) as watching:
        for row in run.rows:
            watching.row(row)
    text = console.export_text()
    assert "[red]t[/red]\\x1b[5m" in text
    assert "[/nothing]" in text
