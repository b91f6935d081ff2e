from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from msft_lite.core import Clock
from msft_lite.errors import LedgerError
from msft_lite.ledger import Ledger
from msft_lite.methods import build_method
from msft_lite.report.story import Standing, Story
from msft_lite.report.telling import read_story, tell

Builder = Any  # the class is in conftest.py, which tests cannot import
Build = Callable[..., Builder]


def test_a_finished_run_is_told_as_it_was_built(three_tasks: Builder) -> None:
    story = tell(three_tasks.rows)
    assert story.names == ("a", "b", "c")
    assert [r.tasks for r in story.rollouts] == [("a", "b", "c"), ("a", "c"), ("a",)]
    assert [story.kept_mark(r) for r in story.rollouts] == [2, 1, 4]
    assert story.base is story.rollouts[0].marks[0]
    best = story.best
    assert best is not None
    assert (best.n, best.k, best.snapshot, best.mean) == (3, 4, "s3.4", Fraction(41, 60))
    assert story.finish is not None
    assert story.finish.note == "stopped by the guard"
    assert story.finish.best["a"].correct == 16


def test_positions_follow_roll_backs_and_spending_does_not(three_tasks: Builder) -> None:
    last = tell(three_tasks.rows).marks[-1]
    assert (last.path.steps, last.path.epochs) == (5 * (2 + 1 + 4), Fraction(7, 4))
    assert (last.spent.steps, last.spent.epochs) == (5 * 12, Fraction(3))


def test_standings(three_tasks: Builder) -> None:
    story = tell(three_tasks.rows)
    assert story.standing("a") == Standing("never over-fitted")
    assert story.standing("b") == Standing("dropped", 1, 2)
    assert story.standing("c") == Standing("dropped", 2, 1)


def test_peaks_are_the_earliest_of_the_run(three_tasks: Builder) -> None:
    story = tell(three_tasks.rows)
    places = {task: story.peak(task) for task in story.names}
    assert {task: (mark.n, mark.k) for task, mark in places.items() if mark} == {
        "a": (3, 4), "b": (1, 2), "c": (2, 1),
    }  # fmt: skip


def test_totals(three_tasks: Builder) -> None:
    totals = tell(three_tasks.rows).totals()
    assert (totals.steps, totals.rolled_back_steps) == (60, 10 + 15)
    assert (totals.spending.trained.tokens, totals.spending.generated_tokens) == (12_000, 15 * 300)
    assert totals.evaluations == 13, "roll-outs 2 and 3 start where another had been scored"
    assert totals.peak_bytes == 3 * 2**30 + 4
    assert totals.spending.seconds == {"train": 120.0, "swap": 7.5, "generate": 15 * 4.0 + 8.0}


def test_every_beginning_of_a_run_is_a_story(three_tasks: Builder) -> None:
    for count in range(1, len(three_tasks.rows)):
        story = tell(three_tasks.rows[:count])
        assert story.finish is None
        assert len(story.marks) == sum(r["kind"] == "mark" for r in three_tasks.rows[:count])
        assert story.standing("a") == Standing("active")
        assert story.totals().evaluations == len({mark.snapshot for mark in story.marks})


def test_the_best_of_an_unfinished_run_is_the_earliest_best_mean(build: Build) -> None:
    run = build(["a", "b"]).rollout({"a": [1, 5, 4, 2], "b": [1, 4, 5, 3]}, planned=8)
    best = tell(run.rows).best
    assert best is not None
    assert (best.n, best.k) == (1, 1)


def test_a_drop_right_before_the_end_rolls_back(build: Build) -> None:
    story = tell(build(["a"]).rollout({"a": [1, 5, 4]}).drop("a", 1).rows)
    assert story.kept_mark(story.rollouts[0]) == 1
    assert story.totals().rolled_back_steps == 5


def test_without_a_roll_back_everything_is_kept(build: Build) -> None:
    run = build(["a"]).rollout({"a": [1, 2, 3]}).rollout({"a": [3, 4, 5]}, start="s1.2")
    story = tell(run.finish(2, 2, [1], [5]).rows)
    assert [story.kept_mark(r) for r in story.rollouts] == [2, 2]
    assert story.totals().rolled_back_steps == 0
    assert story.standing("a") == Standing("never over-fitted")


def test_a_run_that_begins_again_from_the_base_keeps_nothing_of_the_first(build: Build) -> None:
    run = build(["a"]).rollout({"a": [1, 2, 3]}).rollout({"a": [1, 4, 5]}, start="root")
    story = tell(run.rows)
    assert story.kept_mark(story.rollouts[0]) == 0
    assert story.marks[-1].path.steps == 10
    assert story.marks[-1].spent.steps == 20


def test_a_task_that_fell_but_stayed_was_active_to_the_end(build: Build) -> None:
    run = build(["a"], method="sft").rollout({"a": [1, 9, 3]}).finish(1, 1, [1], [8])
    assert tell(run.rows).standing("a") == Standing("active to the end")


def test_a_dropped_task_that_comes_back_is_not_dropped(build: Build) -> None:
    run = build(["a", "b"]).rollout({"a": [1, 2], "b": [2, 1]}).drop("b", 0)
    run.rollout({"a": [1, 2], "b": [2, 3]})
    assert tell(run.rows).standing("b") == Standing("active")


def test_steering_on_the_report_rows_is_noted(build: Build) -> None:
    run = build(["a"])
    assert tell(run.rows).setting.steer_on == "control"
    run.rows[0]["steer_on"] = "report"
    assert tell(run.rows).setting.steer_on == "report"


def test_rows_written_by_the_real_ledger_and_method_are_understood(tmp_path: Path) -> None:
    story = _run_msft(tmp_path / "ledger.jsonl")
    assert [d.task for r in story.rollouts for d in r.drops] == ["b", "a"]
    assert story.kept_mark(story.rollouts[0]) == 1


def _run_msft(path: Path) -> Story:
    ledger = Ledger(path)
    ledger.append(
        {
            "kind": "start", "format": 1, "method": "msft", "seed": 20, "tasks": ["a", "b"],
            "rows": {t: {"train": 8, "control": 4, "report": 4} for t in "ab"},
            "marks_per_epoch": 2,
        }
    )  # fmt: skip
    curves = {"a": ["0000", "1000", "1110", "1100"], "b": ["0000", "1000", "0000", "0000"]}
    method = build_method("msft", Clock({"a": 8, "b": 8}, 8, 2), {"budget": 1})
    trace = None
    while True:
        try:
            request = next(method) if trace is None else method.send(trace)
        except StopIteration as done:
            ledger.conclude(done.value)
            return read_story(path)
        trace = ledger.recall(request)
        for k, step in enumerate((0, *request.marks)):
            at = k + (0 if request.start == "root" else 1)
            outcomes = {task: curve[at] for task, curve in curves.items()}
            ledger.append(
                {
                    "kind": "mark", "n": ledger.n, "k": k, "step": step, "outcomes": outcomes,
                    "snapshot": request.start if k == 0 else f"{ledger.n}.{k}",
                    "scores": {t: [o.count("1"), 4] for t, o in outcomes.items()},
                    "train_loss": {}, "trained_tokens": 0, "generated_tokens": 0, "seconds": {},
                    "peak_bytes": 0,
                }
            )  # fmt: skip
        trace = ledger_trace(ledger)


def ledger_trace(ledger: Ledger) -> Any:
    from msft_lite.core import Trace

    return Trace(tuple(ledger.points))


# Row number (from 0) in the run of `three_tasks`: 0 start, 1 rollout, 2..6 marks, 7 drop,
# 8 rollout, 9..13 marks, 14 drop, 15 rollout, 16..20 marks, 21 finish.
DAMAGES: list[tuple[str, int, dict[str, Any], str]] = [
    ("kind", 3, {"kind": "marc"}, "did you mean 'mark'"),
    ("second start", 3, {"kind": "start"}, "not a row that can stand here"),
    ("first row", 0, {"kind": "mark"}, "where the start row is due"),
    ("format", 0, {"format": 2}, "format 2, this version reads format 1"),
    ("no tasks", 0, {"tasks": []}, "empty or names a task twice"),
    ("twin tasks", 0, {"tasks": ["a", "a", "b"]}, "empty or names a task twice"),
    ("rows", 0, {"rows": {"a": {}}}, "there is no rows.a.train"),
    ("epoch", 0, {"marks_per_epoch": 0}, "marks_per_epoch is 0"),
    ("seed", 0, {"seed": "x"}, "seed = 'x' is not a whole number"),
    ("truth", 0, {"seed": True}, "seed = True is not a whole number"),
    ("n", 8, {"n": 3}, "roll-out 3 where roll-out 2 is due"),
    ("steps", 8, {"marks": [5, 5]}, "do not rise"),
    ("steps kind", 8, {"marks": [5, "x"]}, "not a list of whole numbers"),
    ("steps list", 8, {"marks": 5}, "is not a list"),
    ("task", 8, {"tasks": ["z"]}, "are not tasks of the run"),
    ("task kind", 8, {"tasks": [1]}, "is not a list of texts"),
    ("share", 8, {"share": {"a": "1/0"}}, "are not fractions"),
    ("start", 8, {"start": "nowhere"}, "'nowhere' was not scored at any mark"),
    ("fresh", 8, {"fresh": 1}, "fresh = 1 is not true or false"),
    ("k", 3, {"k": 3}, "mark 3 of roll-out 1 where mark 1 is due"),
    ("mark n", 3, {"n": 2}, "n = 2 but 1 roll-outs have begun"),
    ("step", 3, {"step": 6}, "at step 6, planned at step 5"),
    ("snapshot", 3, {"snapshot": None}, "snapshot = None is not a text"),
    ("outcome", 3, {"outcomes": {"a": "12", "b": "1", "c": "1"}}, "neither a text of 0s and 1s"),
    ("empty", 3, {"outcomes": {"a": "", "b": "1", "c": "1"}}, "neither a text of 0s and 1s"),
    ("count", 3, {"outcomes": {"a": "11", "b": "1", "c": "1"}}, "but the outcomes say [2, 2]"),
    ("missing task", 3, {"scores": {"a": [1, 2]}}, "names the tasks ['a']"),
    ("loss", 3, {"train_loss": {"a": "low"}}, "train_loss.a = 'low' is not a finite number"),
    ("seconds", 3, {"seconds": []}, "seconds = [] is not an object"),
    ("drop task", 7, {"task": "z"}, "'z' is not active in roll-out 1"),
    ("drop target", 7, {"rolled_back_to": "s9"}, "'s9' was not scored"),
    ("finish place", 21, {"k": 9}, "does not stand at roll-out 3, mark 9"),
    ("finish snapshot", 21, {"snapshot": "s1.1"}, "does not stand at roll-out 3, mark 4"),
]


@pytest.mark.parametrize(
    ("number", "change", "message"), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES]
)
def test_damage_is_named_with_its_line(
    three_tasks: Builder, number: int, change: dict[str, Any], message: str
) -> None:
    rows = copy.deepcopy(three_tasks.rows)
    rows[number].update(change)
    with pytest.raises(LedgerError) as caught:
        tell(rows, source="run/ledger.jsonl")
    assert f"run/ledger.jsonl, line {number + 1}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (0, 1, "a 'rollout' row where the start row is due"),
        (1, 2, "n = 1 but 0 roll-outs have begun"),
        (2, 2 + 1, "mark 1 of roll-out 1 where mark 0 is due"),
        (6, 7, "a drop before the last mark of roll-out 1"),
        (8, 9, "n = 2 but 1 roll-outs have begun"),
    ],
)
def test_a_missing_row_is_named_with_its_line(
    three_tasks: Builder, number: int, line: int, message: str
) -> None:
    rows = three_tasks.rows[:number] + three_tasks.rows[number + 1 :]
    with pytest.raises(LedgerError, match=f"line {line}: ") as caught:
        tell(rows)
    assert message in str(caught.value)


def test_a_rollout_before_the_last_is_complete_is_named(build: Build) -> None:
    run = build(["a"]).rollout({"a": [1, 2]}, planned=3).rollout({"a": [1, 2]})
    with pytest.raises(LedgerError, match="line 5: .*marks of roll-out 1 are missing"):
        tell(run.rows)


def test_a_mark_too_many_and_a_row_after_the_finish_are_named(three_tasks: Builder) -> None:
    rows = three_tasks.rows
    extra = {**rows[20], "k": 5}
    with pytest.raises(LedgerError, match="line 22: .*where no further mark is due"):
        tell([*rows[:21], extra])
    with pytest.raises(LedgerError, match="line 23: .*after the finish"):
        tell([*rows, rows[7]])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_other_memory_settings_are_told_and_recompute_is_bounded(
    three_tasks: Builder, checkpointing: bool
) -> None:
    rows = copy.deepcopy(three_tasks.rows)
    rates = ("body_forward", "body_backward", "head_forward", "head_backward")
    attention = ("attention_forward", "attention_backward")
    again = dict.fromkeys(["body_recompute", "attention_recompute"], 0)
    rows[0]["flops"] = {**dict.fromkeys([*rates, *attention], 2), **again}
    changed = {"per_device_train_batch_size": 4, "gradient_checkpointing": checkpointing}
    story = tell([*rows[:10], {"kind": "memory", **changed}, *rows[10:]])
    assert story.setting.facts["memory since roll-out 2"] == changed
    assert story.setting.rates is not None
    assert story.setting.rates.body_recompute == (2 if checkpointing else 0)
    assert story.setting.rates.attention_recompute == (2 if checkpointing else 0)
    assert story.rollouts == tell(rows).rollouts


def test_a_task_dropped_twice_is_named(three_tasks: Builder) -> None:
    rows = three_tasks.rows
    with pytest.raises(LedgerError, match="line 9: .*'b' is not active"):
        tell([*rows[:8], rows[7]])


def test_a_finish_on_other_rows_is_named(three_tasks: Builder) -> None:
    rows = copy.deepcopy(three_tasks.rows)
    rows[21]["outcomes"]["best"]["a"] = "1" * 3
    rows[21]["scores"]["best"]["a"] = [3, 3]
    with pytest.raises(LedgerError, match="line 22: .*not of the same rows"):
        tell(rows)


def test_a_ledger_without_rows_is_an_error() -> None:
    with pytest.raises(LedgerError, match="holds no complete row"):
        tell([])


def test_a_missing_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot read the ledger"):
        read_story(tmp_path / "ledger.jsonl")
