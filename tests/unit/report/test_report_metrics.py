from __future__ import annotations

import copy
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from msft_lite.core import MILLION, Score
from msft_lite.errors import LedgerError
from msft_lite.report import write_report
from msft_lite.report.figures import write_figures
from msft_lite.report.intervals import Estimate, estimate_of, mean_estimate, task_differences
from msft_lite.report.plain import finish_line, mark_line
from msft_lite.report.scale import F1, LOSS, OWN, PERCENT, scale_of
from msft_lite.report.summary import summary
from msft_lite.report.tables import (
    control_grid,
    cost_grid,
    report_grid,
    rich_grid,
    rollout_grid,
)
from msft_lite.report.telling import tell

Builder = Any
Rows = list[dict[str, Any]]


def graded(rows: Rows, worth: int, *, kinds: tuple[str, ...]) -> Rows:
    """Returns ``rows`` in which every right row is worth ``worth`` millionths and a wrong one 0."""
    changed = copy.deepcopy(rows)

    def convert(row: dict[str, Any]) -> None:
        row["outcomes"] = {t: [worth * int(c) for c in text] for t, text in row["outcomes"].items()}
        row["scores"] = {t: [sum(values), len(values)] for t, values in row["outcomes"].items()}

    for row in changed:
        if row["kind"] == "mark" and "mark" in kinds:
            convert(row)
        if row["kind"] == "finish" and "finish" in kinds:
            sides = {
                side: {"outcomes": row["outcomes"][side], "scores": row["scores"][side]}
                for side in ("base", "best")
            }
            for side in sides.values():
                convert(side)
            row["outcomes"] = {name: side["outcomes"] for name, side in sides.items()}
            row["scores"] = {name: side["scores"] for name, side in sides.items()}
    return changed


def started(rows: Rows, **changes: Any) -> Rows:
    changed = copy.deepcopy(rows)
    changed[0].update(changes)
    return changed


@pytest.mark.parametrize(
    ("metrics", "scale"),
    [
        (["accuracy", "accuracy"], PERCENT),
        (["f1"], F1),
        (["loss", "loss"], LOSS),
        (["pack.age:name"], OWN),
        (["accuracy", "f1"], OWN),
    ],
)
def test_a_mean_of_different_metrics_is_plain(metrics: list[str], scale: object) -> None:
    assert scale_of(metrics) is scale


def test_a_loss_is_written_with_its_sign_back_and_its_bounds_in_order() -> None:
    estimate = Estimate(-1.5, -1.75, -1.25)
    assert LOSS.interval(estimate) == "1.5000 [1.2500, 1.7500]"
    assert LOSS.difference(Estimate(0.25, 0.125, 0.375)) == "-0.2500 [-0.3750, -0.1250]"
    assert PERCENT.difference(Estimate(0.0, -0.0001, 0.05)) == "0.0 [0.0, +5.0]"


def test_the_interval_of_graded_rows_is_that_of_their_mean() -> None:
    # Worth 0, 0.5, 0.5, 1: mean 0.5, variance (0.25 + 0.25) / 3 = 1/6, error sqrt(1/24) = 0.2041.
    found = estimate_of(Score(worth=(0, MILLION // 2, MILLION // 2, MILLION)))
    assert found.value == 0.5
    assert found.high - found.value == pytest.approx(1.959964 * 0.2041241, rel=1e-5)
    assert found.value - found.low == pytest.approx(found.high - found.value)
    assert estimate_of(Score(worth=(0, 0, MILLION // 2))).low == 0.0  # no F1 is below
    one = estimate_of(Score(worth=(-2 * MILLION,)))
    assert (one.low, one.value, one.high) == (-2.0, -2.0, -2.0)


def test_a_mean_of_losses_is_not_cut_to_zero_and_one() -> None:
    scores = {"a": Score(worth=(-MILLION, -3 * MILLION)), "b": Score(worth=(-MILLION,) * 2)}
    found = mean_estimate(scores)
    assert found.value == -1.5
    assert found.low < -1.5 < found.high < 0


def test_differences_of_graded_rows_are_paired() -> None:
    before = {"a": Score(worth=(0, MILLION, 0, MILLION))}
    after = {"a": Score(worth=(MILLION // 4, MILLION + MILLION // 4) * 2)}
    per_task, mean = task_differences(before, after, seed=1)
    # Every row gains the same, so that no resample differs, however much the rows do.
    assert per_task["a"] == mean == Estimate(0.25, 0.25, 0.25)


def test_f1_is_shown_times_a_hundred(three_tasks: Builder) -> None:
    rows = graded(three_tasks.rows, MILLION // 2, kinds=("mark", "finish"))
    story = tell(started(rows, metric=dict.fromkeys("abc", "f1")))
    grid = report_grid(story)
    assert grid.columns[2:4] == ("Base F1", "Returned F1")
    assert grid.rows[0][2].startswith("5.0 [")  # 2 of 20 rows worth one half
    assert rollout_grid(story).columns[5] == "Best mean F1"


def test_a_run_steered_by_loss_reports_accuracy(three_tasks: Builder) -> None:
    rows = graded(three_tasks.rows, -2 * MILLION, kinds=("mark",))
    story = tell(started(rows, signal="loss", metric=dict.fromkeys("abc", "accuracy")))
    assert report_grid(story).columns[2] == "Base %"
    control = control_grid(story)
    assert control.columns[2] == "Base loss"
    assert control.rows[0][2].startswith("0.2000 [")  # 2 of 20 rows of loss 2
    assert any("lower is better" in note for note in control.notes)
    rollout = story.rollouts[0]
    assert "mean 0.3000 loss (a 0.2000, b 0.3000, c 0.4000)" in mark_line(
        story, rollout, rollout.marks[0]
    )
    assert "mean 66.7 %" in finish_line(story)


def test_metrics_that_differ_are_told(three_tasks: Builder) -> None:
    metric = {"a": "accuracy", "b": "accuracy", "c": "mine:score"}
    grid = report_grid(tell(started(three_tasks.rows, metric=metric)))
    assert grid.columns[2] == "Base score"
    assert grid.rows[0][2].startswith("10.0 [")
    assert grid.rows[2][2].startswith("0.200 [")
    assert any("metrics differ" in note for note in grid.notes)


def test_the_papers_protocol_is_said_wherever_scores_stand(
    three_tasks: Builder, tmp_path: Path
) -> None:
    three_tasks.rows[0]["steer_on"] = "report"
    story = tell(three_tasks.rows)
    assert "steered on" in report_grid(story).title
    assert "it steered the run" in finish_line(story)
    assert summary(story)["steer_on"] == "report"
    text = write_report(three_tasks.write(tmp_path)).read_text()
    assert "so these scores are optimistic" in text


def test_the_prefix_caches_share_and_the_time_of_an_evaluation_are_shown(
    three_tasks: Builder,
) -> None:
    assert not any("prefix cache" in note for note in cost_grid(tell(three_tasks.rows)).notes)
    rows = copy.deepcopy(three_tasks.rows)
    for row in rows:
        if row["kind"] == "mark":
            row.update(prompt_tokens=200, cached_tokens=150)
    story = tell(rows)
    assert any("served 75.0 % of 3,000 prompt tokens" in note for note in cost_grid(story).notes)
    assert summary(story)["cached_tokens"] == 2250


def test_domains_have_means_of_their_own(three_tasks: Builder) -> None:
    domain = {"a": "numbers", "b": "words", "c": "words"}
    rows = report_grid(tell(started(three_tasks.rows, domain=domain))).rows
    assert [row[0] for row in rows[3:]] == ["mean: numbers", "mean: words", "mean over tasks"]
    assert rows[4][3].startswith("60.0 [")  # 12 and 12 of 20
    alone = report_grid(tell(started(three_tasks.rows, domain=dict.fromkeys("abc", "numbers"))))
    assert len(alone.rows) == 4


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([1, 2, True], "nor a list of wholes"),
        ([1.5], "nor a list of wholes"),
        ([], "nor a list of wholes"),
        ([7], "but the outcomes say [7, 1]"),
    ],
)
def test_damaged_graded_scores_are_named(
    three_tasks: Builder, outcomes: list[Any], message: str
) -> None:
    rows = copy.deepcopy(three_tasks.rows)
    rows[2]["outcomes"]["a"] = outcomes
    with pytest.raises(LedgerError) as caught:
        tell(rows)
    assert "line 3" in str(caught.value)
    assert message in str(caught.value)


def test_many_tasks_fit_a_narrow_terminal_and_have_a_panel_each(build: Any, tmp_path: Path) -> None:
    names = [f"medmcqa-subject-{number:02}" for number in range(21)]
    run = build(names)
    run.rollout({name: [2, 4, 6, 5, 4] for name in names}).finish(1, 2, [2] * 21, [6] * 21)
    for row in run.rows[2:-1]:
        row["train_loss"] = {}  # a second figure of as many panels would show nothing new
    story = tell(run.rows)
    printed: list[str] = []
    for grid in (report_grid(story), control_grid(story)):
        stream = StringIO()
        Console(file=stream, width=80).print(rich_grid(grid, width=80))
        printed.append(stream.getvalue())
    assert all(len(line) <= 80 for text in printed for line in text.splitlines())
    assert all(name in printed[0] for name in names)
    assert write_figures(story, tmp_path)[0].path.stat().st_size > 0


def test_losses_are_drawn(three_tasks: Builder, tmp_path: Path) -> None:
    rows = graded(three_tasks.rows, -MILLION, kinds=("mark", "finish"))
    story = tell(started(rows, metric=dict.fromkeys("abc", "loss"), signal="loss"))
    assert [figure.path.stem for figure in write_figures(story, tmp_path)][:2] == ["scores", "loss"]
    assert json.dumps(summary(story))
