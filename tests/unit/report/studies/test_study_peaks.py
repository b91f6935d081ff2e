"""Heterogeneity and shift: where tasks are at their best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from msft_lite.errors import LedgerError
from msft_lite.report.story import Story
from msft_lite.report.studies import TELLERS, Study
from msft_lite.report.studies.heterogeneity import heterogeneity, peaks_of
from msft_lite.report.studies.shift import bifurcation_of, shift
from msft_lite.report.telling import tell


def numbers(study: Study, measure: str) -> dict[str, float]:
    return {line.task: line.value for line in study.lines if line.measure == measure}


def test_every_task_is_measured_from_the_peak_of_the_mean(sft: Story) -> None:
    study = heterogeneity({"sft": sft})
    assert numbers(study, "peak_epoch") == {"a": 0.25, "b": 1.0, "c": 0.5, "": 0.75}
    assert numbers(study, "epochs_after_mean_peak") == {"a": -0.5, "b": 0.25, "c": -0.25}
    assert numbers(study, "mean_distance_epochs") == {"": pytest.approx(1 / 3)}
    assert study.headline == "the tasks' peaks lie 0.33 epochs from the mean's on average"


def test_the_table_of_peaks_is_in_their_order_and_names_the_open_end(sft: Story) -> None:
    (grid,) = heterogeneity({"sft": sft}).grids
    assert [(row[0], row[1], row[3], row[4]) for row in grid.rows] == [
        ("a", "0.25", "25.0", "-0.50"),
        ("c", "0.5", "65.0", "-0.25"),
        ("b", "1", "45.0", "+0.25"),
        ("mean over tasks", "0.75", "45.0", "0.33 off"),
    ]
    assert grid.rows[0][2].startswith("40.0 [")
    assert any(note.endswith("find a later peak: b.") for note in grid.notes)
    assert any("control rows (20 a task)" in note for note in grid.notes)


def test_a_curve_has_every_mark(sft: Story) -> None:
    lines = heterogeneity({"sft": sft}).lines
    curve = [(line.at, line.value) for line in lines if (line.task, line.measure) == ("c", "score")]
    assert curve == [(0.0, 0.25), (0.25, 0.45), (0.5, 0.65), (0.75, 0.65), (1.0, 0.2)]


def test_the_base_can_be_a_peak(build: Callable[..., Any]) -> None:
    run = build(["a"], method="sft").rollout({"a": [9, 8, 9]}).finish(1, 0, [9], [9])
    assert peaks_of(tell(run.rows)).tasks["a"].k == 0


def test_a_shift_is_the_difference_of_the_optima_in_epochs_from_the_base(forked: Story) -> None:
    fork = bifurcation_of(forked)
    assert (fork.task, fork.fork.path.epochs) == ("a", 0.25)
    study = shift({"shift": forked})
    assert numbers(study, "optimum_epoch_with") == {"b": 0.5, "c": 0.75}
    assert numbers(study, "optimum_epoch_without") == {"b": 1.0, "c": 0.5}
    assert numbers(study, "shift_epochs") == {"b": 0.5, "c": -0.25}
    assert numbers(study, "mean_shift_epochs") == {"": 0.375}
    (grid,) = study.grids
    assert [(row[0], row[1], row[3], row[5]) for row in grid.rows] == [
        ("b", "0.5", "1", "+0.50"),
        ("c", "0.75", "0.5", "-0.25"),
        ("mean over tasks", "", "", "0.38 off"),
    ]
    assert any(note.endswith("find a later peak: b.") for note in grid.notes)


def test_a_run_without_branches_says_what_to_do(build: Callable[..., Any]) -> None:
    run = build(["a", "b"], method="shift").rollout({"a": [1, 2, 3], "b": [1, 2, 3]})
    story = tell(run.finish(1, 2, [1, 1], [3, 3]).rows)
    with pytest.raises(LedgerError, match=r"no branches to compare.*--epochs"):
        shift({"shift": story})


@pytest.mark.parametrize("name", ["heterogeneity", "shift"])
def test_an_unfinished_run_is_refused(name: str, build: Callable[..., Any]) -> None:
    story = tell(build(["a"], method="sft").rollout({"a": [1, 2]}).rows)
    with pytest.raises(LedgerError, match="is not finished"):
        TELLERS[name]({"sft": story})
