"""Tasks as text: sources, defaults, shots, split_by, overlaps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msft_lite.data.settings import TaskSettings
from msft_lite.data.splits import normalised
from msft_lite.data.task_rows import TaskRows, overlaps, task_rows
from msft_lite.data.tasks import PRESETS
from msft_lite.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
ROWS = {"train": 24, "validation": 6, "test": 8}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def items(split: str, count: int) -> list[dict[str, Any]]:
    """Rows of a multiple-choice benchmark with two subjects, one of them rare."""
    return [
        {
            "question": f"{split} question {n}",
            "choices": ["one", "two", "three"],
            "answer": "ABC"[n % 3],
            "subject": "Skin & Bone" if n % 6 == 0 else "Surgery",
        }
        for n in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in ROWS.items():
        write(tmp_path / f"medmcqa.{split}.jsonl", items(split, count))
    return tmp_path


@pytest.fixture
def settings(folder: Path) -> TaskSettings:
    return TaskSettings(name="med", preset="medmcqa", directory=folder)


@pytest.fixture
def own(tmp_path: Path) -> TaskSettings:
    lines = ["prompt,answer", *(f"what is {n}?,#### {n}" for n in range(40))]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    return TaskSettings(name="own", path=tmp_path / "own.csv", control_samples=5, report_samples=5)


def one(settings: TaskSettings) -> TaskRows:
    (task,) = task_rows(settings, seed=1)
    return task


def test_a_preset_from_local_files(settings: TaskSettings) -> None:
    task = one(settings)
    assert task.preset is PRESETS["medmcqa"]
    assert (len(task.splits.train), len(task.splits.control), len(task.splits.report)) == (24, 6, 8)
    assert task.splits.train[0].prompt == (
        "Q: train question 0\noptions: A. one, B. two, C. three\nA: "
    )
    assert task.splits.train[0].answer == "#### A"
    assert (task.settings.num_fewshot, task.settings.max_new_tokens, task.settings.grade) == (
        5, 16, "marked",
    )  # fmt: skip
    assert len(task.shots) == 5


def test_own_rows_have_defaults_of_their_own(own: TaskSettings) -> None:
    task = one(own)
    assert (task.settings.num_fewshot, task.settings.max_new_tokens, task.settings.grade) == (
        0, 512, "marked",
    )  # fmt: skip
    assert task.shots == ()
    assert len(task.splits.train) == 30


def test_what_is_set_wins(settings: TaskSettings) -> None:
    task = one(replace(settings, num_fewshot=2, max_new_tokens=9, grade="exact"))
    assert (task.settings.num_fewshot, task.settings.max_new_tokens) == (2, 9)
    assert task.shots == one(settings).shots[:2]
    assert task.settings.grade == "exact"


def test_a_split_that_is_not_there_is_carved(settings: TaskSettings, folder: Path) -> None:
    (folder / "medmcqa.validation.jsonl").unlink()
    task = one(replace(settings, control_samples=4))
    assert (len(task.splits.train), len(task.splits.control)) == (20, 4)
    assert "carved 4 control rows from the training rows" in task.notes


def test_training_rows_that_are_not_there_are_an_error(
    settings: TaskSettings, folder: Path
) -> None:
    (folder / "medmcqa.train.jsonl").rename(folder / "medmcqa.trian.jsonl")
    with pytest.raises(DataError, match=r"medmcqa\.train\.jsonl: no such file; did you mean"):
        one(settings)


def test_an_unknown_preset_names_the_closest(settings: TaskSettings) -> None:
    with pytest.raises(DataError, match="did you mean 'medmcqa'"):
        one(replace(settings, preset="medmcq"))


@pytest.mark.parametrize("change", [{"path": Path("x")}, {"preset": None}])
def test_a_task_has_one_source(settings: TaskSettings, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="give one of preset, path and dataset"):
        one(replace(settings, **change))


def test_shots_from_training_rows_repeat_no_held_out_row(settings: TaskSettings) -> None:
    drawn = replace(settings, fewshot_source="train", num_fewshot=7)
    task = one(drawn)
    assert len(set(task.shots)) == 7
    assert set(task.shots) <= set(task.splits.train)
    held_out = {normalised(r.prompt) for r in (*task.splits.control, *task.splits.report)}
    assert not held_out & {normalised(shot.prompt) for shot in task.shots}
    assert one(drawn).shots == task.shots


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_fewshot": 6}, "6, but it has 5 fixed shots; set fewshot_source"),
        ({"num_fewshot": 25, "fewshot_source": "train"}, "it has 24 training rows; lower it"),
    ],
)
def test_too_many_shots(settings: TaskSettings, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        one(replace(settings, **change))


def test_a_task_of_every_value(settings: TaskSettings) -> None:
    tasks = task_rows(replace(settings, split_by="subject"), seed=1)
    assert [task.name for task in tasks] == ["med-skin-bone", "med-surgery"]
    sizes = [(len(t.splits.train), len(t.splits.control), len(t.splits.report)) for t in tasks]
    assert sizes == [(4, 1, 2), (20, 5, 6)]
    assert tasks[0].shots == tasks[1].shots  # one prefix for all
    capped = task_rows(replace(settings, split_by="subject", train_samples=3), seed=1)
    assert [len(task.splits.train) for task in capped] == [3, 3]


def test_values_with_too_few_rows_are_left_out_and_told(settings: TaskSettings) -> None:
    (task,) = task_rows(replace(settings, split_by="subject"), seed=1, least_train_rows=5)
    assert task.name == "med-surgery"
    assert "left out, too few rows to train on or to score: Skin & Bone (4)" in task.notes
    with pytest.raises(DataError, match="none of the 2 values of 'subject' has 21 training rows"):
        task_rows(replace(settings, split_by="subject"), seed=1, least_train_rows=21)


def test_two_values_of_one_name_are_refused(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "answer": "a", "kind": ("A b", "a-B")[n % 2]} for n in range(20)]
    settings = TaskSettings(
        name="own", path=write(tmp_path / "own.jsonl", rows), split_by="kind",
        control_samples=1, report_samples=1,
    )  # fmt: skip
    with pytest.raises(DataError, match="'a-B' and 'A b' of 'kind' would both be called 'own-a-b'"):
        task_rows(settings, seed=1)


def test_where_report_rows_steer_control_rows_are_not_read(
    settings: TaskSettings, folder: Path
) -> None:
    (folder / "medmcqa.validation.jsonl").write_text("not JSON\n")
    task = one(replace(settings, steer_on="report"))
    assert task.splits.control == task.splits.report
    with pytest.raises(DataError, match=r"validation\.jsonl, line 1: bad JSON"):
        one(settings)


@pytest.mark.parametrize("grade", ["number", "choice", "yes_no"])
def test_golds_that_a_grader_cannot_read_are_named(tmp_path: Path, grade: str) -> None:
    rows = [{"prompt": f"p{n}", "answer": "#### well, perhaps"} for n in range(9)]
    path = write(tmp_path / "own.jsonl", rows)
    settings = TaskSettings(name="own", path=path, grade=grade, control_samples=2, report_samples=2)
    with pytest.raises(
        DataError, match=rf"own\.jsonl, line \d: .*cannot be scored: grade '{grade}'"
    ):
        one(settings)
    assert one(replace(settings, metric="loss")).splits.control


def test_chats_and_plain_rows_do_not_mix(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    path = write(tmp_path / "own.jsonl", [{"prompt": "p", "answer": "a"}, chat])
    with pytest.raises(DataError, match="mixes two forms of rows: .*line 1 has prompt.*line 2 has"):
        one(TaskSettings(name="own", path=path))


def test_rows_that_another_task_holds_out_are_told(own: TaskSettings, tmp_path: Path) -> None:
    task = one(own)
    shared = task.splits.report[0]
    rows = [{"prompt": f"other {n}", "answer": "a"} for n in range(9)]
    rows.append({"prompt": shared.prompt.upper(), "answer": "a"})
    other = one(
        TaskSettings(
            name="other", path=write(tmp_path / "other.jsonl", rows[::-1]),
            control_path=write(tmp_path / "c.jsonl", [{"prompt": "c", "answer": "a"}]),
            report_path=write(tmp_path / "r.jsonl", [{"prompt": "r", "answer": "a"}]),
        )
    )  # fmt: skip
    (note,) = overlaps([task, other])
    assert note.startswith("other: 1 training rows repeat report rows of own, the first at ")
    assert shared.where in note
    assert overlaps([task]) == ()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmarks' local files are not here")
def test_medmcqa_by_subject() -> None:
    settings = TaskSettings(name="medmcqa", preset="medmcqa", directory=SHARED, split_by="subject")
    tasks = task_rows(settings, seed=20, least_train_rows=4)
    assert len(tasks) == 20
    assert "Unknown (2)" in tasks[0].notes[0]  # of 21 subjects
    assert sum(len(task.splits.train) for task in tasks) == 1998
