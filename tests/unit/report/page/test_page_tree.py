from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from msft_lite.report.page.ground import scene_of
from msft_lite.report.page.svg import Element, markup
from msft_lite.report.page.tree import branches, tree
from msft_lite.report.telling import tell

Builder = Any
Found = Callable[[Element, str], list[Mapping[str, str]]]


def drawn(builder: Builder) -> Element:
    picture = tree(scene_of(tell(builder.rows)))
    assert picture is not None
    return picture


def test_a_roll_back_begins_a_lane_from_its_mark(three_tasks: Builder) -> None:
    laid = branches(tell(three_tasks.rows))
    assert [branch.lane for branch in laid] == [0, 1, 2]
    sources = [branch.source and (branch.source[0].n, branch.source[0].k) for branch in laid]
    assert sources == [None, (1, 2), (2, 1)]


def test_going_on_from_an_end_stays_in_the_lane(build: Callable[..., Builder]) -> None:
    run = build(["a", "b"])
    run.rollout({"a": [1, 2], "b": [1, 2]})
    run.rollout({"a": [2, 3], "b": [2, 3]}, start="s1.1")
    run.rollout({"a": [2, 3], "b": [2, 1]}, start="s1.1")
    laid = branches(tell(run.rows))
    # Roll-out 3 goes back to where roll-out 2 began, which stands in the first lane.
    assert [branch.lane for branch in laid] == [0, 0, 1]
    source = laid[2].source
    assert source is not None
    assert (source[0].n, source[0].k, source[1]) == (2, 0, 0)


def test_places_follow_the_epochs_spent(three_tasks: Builder, found: Found) -> None:
    """Three roll-outs of one epoch each: 0 to 3 epochs on 16 to 900, 294.67 an epoch."""
    picture = drawn(three_tasks)
    kept = [(line["x1"], line["x2"]) for line in found(picture, "lane-kept")]
    back = [(line["x1"], line["x2"]) for line in found(picture, "lane-back")]
    assert kept == [("16", "163.3"), ("310.7", "384.3"), ("605.3", "900")]
    assert back == [("163.3", "310.7"), ("384.3", "605.3")]
    connectors = [line["points"].split() for line in found(picture, "connector")]
    assert [[place.split(",")[0] for place in way] for way in connectors] == [
        ["163.3", "163.3", "310.7"],
        ["384.3", "384.3", "605.3"],
    ]
    # The first lane lies under one line of text: 12 + 20 + 14 - 10.
    ys = [line["y1"] for line in found(picture, "lane-kept")]
    assert ys == ["36", "70", "104"]


def test_labels_name_the_stages_and_who_left(
    three_tasks: Builder, texts: Callable[[Element], list[str]]
) -> None:
    written = texts(drawn(three_tasks))
    assert "1: 3 tasks" in written
    assert "3: a" in written
    assert [text for text in written if text.startswith("\N{MINUS SIGN}")] == [
        "\N{MINUS SIGN} b",
        "\N{MINUS SIGN} c",
    ]


def test_labels_of_short_stages_are_stacked(build: Callable[..., Builder], found: Found) -> None:
    """Thirty stages in one lane leave less than 30 units each, a label needs some 60."""
    run = build(["a", "b"])
    for n in range(1, 31):
        start = "root" if n == 1 else f"s{n - 1}.1"
        run.rollout({"a": [1, 2], "b": [1, 2]}, start=start)
    labels = found(drawn(run), "label stage")
    assert len({label["y"] for label in labels}) > 2
    for y in {label["y"] for label in labels}:
        places = [float(label["x"]) for label in labels if label["y"] == y]
        assert all(b - a > 55 for a, b in pairwise(places))


def test_what_is_still_to_come_is_drawn_apart(build: Callable[..., Builder], found: Found) -> None:
    run = build(["a"]).rollout({"a": [1, 2, 3]}, planned=4)
    picture = drawn(run)
    (planned,) = found(picture, "planned")
    assert (planned["x1"], planned["x2"]) == ("16", "900")
    (kept,) = found(picture, "lane-kept")
    assert kept["x2"] == "458"
    assert "best mean so far" in markup(picture)


def test_a_roll_out_without_marks_is_only_planned(three_tasks: Builder, found: Found) -> None:
    rows = [row for row in three_tasks.rows[:-1] if not (row["kind"] == "mark" and row["n"] == 3)]
    picture = tree(scene_of(tell(rows)))
    assert picture is not None
    assert len(found(picture, "planned")) == 1
    assert len(found(picture, "connector")) == 2


def test_before_the_first_roll_out_there_is_no_tree(build: Callable[..., Builder]) -> None:
    assert tree(scene_of(tell(build(["a"]).rows))) is None


def test_the_tree_is_told_in_words(three_tasks: Builder) -> None:
    label = drawn(three_tasks).attributes["aria-label"]
    assert "1, 3 tasks, drops b; 2 from roll-out 1, mark 2, 2 tasks, drops c" in label


@pytest.mark.parametrize("name", ["x" * 10_000, "\u202etask", "</svg><script>"])
def test_hostile_names_are_clipped_and_spelt_out(build: Callable[..., Builder], name: str) -> None:
    run = build([name, "b"]).rollout({name: [2, 1], "b": [1, 2]}).drop(name, 0)
    text = markup(drawn(run))
    assert "<script" not in text
    assert "\u202e" not in text
    assert len(text) < 6_000
