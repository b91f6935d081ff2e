from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from msft_lite.report.page.costs import disk_panel, mean_panel, seconds_panel, unit_prefix
from msft_lite.report.page.curves import Panel, loss_panels, score_panels
from msft_lite.report.page.ground import scene_of
from msft_lite.report.page.spending import Measure, disk_held, training_spent
from msft_lite.report.page.svg import Element, markup
from msft_lite.report.telling import tell

Builder = Any
Build = Callable[..., Builder]
Found = Callable[[Element, str], list[Mapping[str, str]]]
Texts = Callable[[Element], list[str]]


def panels(run: Builder) -> dict[str, Panel]:
    return {panel.title: panel for panel in score_panels(scene_of(tell(run.rows)))}


def test_there_is_a_panel_for_the_mean_and_for_every_task(three_tasks: Builder) -> None:
    drawn = panels(three_tasks)
    assert list(drawn) == ["mean over all tasks", "a", "b", "c"]
    assert drawn["a"].subtitle == "never over-fitted"
    assert drawn["b"].subtitle == "dropped, peak r1 m2"


def test_one_task_needs_no_mean(build: Build) -> None:
    assert list(panels(build(["a"]).rollout({"a": [1, 2]}))) == ["a"]
    assert score_panels(scene_of(tell(build(["a"]).rows))) == ()


def test_stretches_without_the_task_are_drawn_apart(three_tasks: Builder, found: Found) -> None:
    picture = panels(three_tasks)["b"].picture
    # b is trained in roll-out 1 only: five marks there, ten after.
    assert len(found(picture, "point trained")) == 5
    assert len(found(picture, "point excluded")) == 10
    assert len(found(picture, "line trained")) == 1
    assert len(found(picture, "line excluded")) == 2
    assert len(found(picture, "band trained")) == 1
    assert len(found(picture, "band excluded")) == 2


def test_places_of_values_drop_and_peak(three_tasks: Builder, found: Found) -> None:
    """3 epochs and 2 % room lie on 42 to 348, -4 to 104 % on 188 to 34."""
    picture = panels(three_tasks)["b"].picture
    first = found(picture, "point trained")[0]
    # 15 %: 188 - 19 / 108 x 154; epoch 0: 42 + 0.06 / 3.12 x 306
    assert (first["cx"], first["cy"]) == ("47.9", "160.9")
    (drop,) = found(picture, "drop")
    assert drop["x1"] == drop["x2"] == "146"  # epoch 1
    (peak,) = found(picture, "peak")
    # The tip of the triangle is 5.5 over 70 % at epoch one half.
    assert peak["points"].split()[0] == "96.9,77"
    (best,) = found(picture, "best")
    assert best["points"].split()[3] == "335.6,89.6"  # the diamond's left end at 65 %, epoch 3


def test_rolled_back_stretches_and_boundaries(three_tasks: Builder, found: Found) -> None:
    picture = panels(three_tasks)["a"].picture
    back = [(box["x"], box["width"]) for box in found(picture, "back")]
    assert back == [("96.9", "49"), ("170.5", "73.6")]  # 1/2 to 1, 5/4 to 2 epochs
    assert [line["x1"] for line in found(picture, "boundary")] == ["146", "244"]


def test_points_tell_their_numbers(three_tasks: Builder) -> None:
    text = markup(panels(three_tasks)["b"].picture)
    assert "<title>base: 15.0 [5.2, 36.0] %, after 0 epochs</title>" in text
    assert "<title>dropped after roll-out 1</title>" in text


def test_a_loss_has_a_scale_of_its_own_and_rises_upwards(build: Build, found: Found) -> None:
    run = build(["a"]).rollout({"a": [1, 2]})
    run.rows[0] |= {"metric": {"a": "loss"}, "signal": "loss"}
    for row, nats in zip(run.rows[2:], (2.0, 1.0), strict=True):
        row["outcomes"] = {"a": [-int(nats * 1e6)] * 4}
        row["scores"] = {"a": [-int(nats * 4e6), 4]}
    (panel,) = score_panels(scene_of(tell(run.rows)))
    first, second = found(panel.picture, "point trained")
    assert float(first["cy"]) < float(second["cy"])  # 2 nats stand over 1
    assert "2.0000 loss at base" in panel.picture.attributes["aria-label"]


def test_many_points_are_lines_alone(build: Build, found: Found) -> None:
    run = build(["a"]).rollout({"a": [1] * 302})
    (panel,) = score_panels(scene_of(tell(run.rows)))
    assert found(panel.picture, "point trained") == []
    assert len(found(panel.picture, "line trained")) == 1


def test_a_lone_mark_is_a_point(build: Build, found: Found) -> None:
    run = build(["a"]).rollout({"a": [1]}, planned=4)
    (panel,) = score_panels(scene_of(tell(run.rows)))
    assert len(found(panel.picture, "point trained")) == 1
    assert found(panel.picture, "line trained") == []
    assert found(panel.picture, "band trained") == []


def test_losses_are_drawn_where_a_task_was_trained(three_tasks: Builder, found: Found) -> None:
    drawn = {panel.title: panel.picture for panel in loss_panels(scene_of(tell(three_tasks.rows)))}
    assert [len(found(drawn[task], "point trained")) for task in "abc"] == [12, 4, 8]
    assert len(found(drawn["b"], "drop")) == 1
    assert found(drawn["b"], "band trained") == []
    assert "1.000 at first" in drawn["b"].attributes["aria-label"]


def test_the_mean_is_drawn_over_what_was_spent(
    three_tasks: Builder, found: Found, texts: Texts
) -> None:
    story = tell(three_tasks.rows)
    picture = mean_panel(scene_of(story), training_spent(story))
    assert picture is not None
    assert "tokens trained, thousands" in texts(picture)
    points = [point["cx"] for point in found(picture, "point trained")]
    # 12 thousand tokens and 2 % room on 42 to 348; a roll-out begins where the last one ended.
    assert (points[0], points[4], points[5], points[-1]) == ("47.9", "146", "146", "342.1")
    assert "mean 68.3 [" in markup(picture)


def test_nothing_recorded_is_nothing_drawn(build: Build) -> None:
    story = tell(build(["a"]).rows)
    assert mean_panel(scene_of(story), Measure("x", "y", ())) is None
    assert loss_panels(scene_of(story)) == ()


@pytest.mark.parametrize(
    ("largest", "divisor", "prefix"),
    [(0, 1, ""), (999, 1, ""), (1000, 1e3, "k"), (2.5e16, 1e15, "P"), (3e20, 1e18, "E")],
)
def test_large_numbers_get_a_prefix(largest: float, divisor: float, prefix: str) -> None:
    assert unit_prefix(largest) == (divisor, prefix)


def test_disk_is_drawn_in_the_order_of_evaluation(build: Build, found: Found) -> None:
    run = build(["a"]).rollout({"a": [1, 2, 3]})
    for row, copies in zip(run.rows[2:], (1, 4, 2), strict=True):
        row["disk_bytes"] = copies * 1000
    run.rows[0]["model_bytes"] = 1000
    story = tell(run.rows)
    held = disk_held(story)
    assert held is not None
    picture = disk_panel(scene_of(story), held)
    heights = [float(point["cy"]) for point in found(picture, "point trained")]
    # 0 to 4.32 copies lie on 188 to 34.
    assert heights == [152.4, 45.4, 116.7]
    assert "at most 4 copies" in picture.attributes["aria-label"]


def test_bars_are_as_long_as_their_seconds(found: Found, texts: Texts) -> None:
    picture = seconds_panel({"train": 60.0, "generate": 120.0, "wait": 0.0})
    assert picture is not None
    assert [bar["width"] for bar in found(picture, "bar")] == ["139", "69.5", "1"]
    assert texts(picture)[1:3] == ["generate", "2 min 00 s, 66.7 %"]
    assert seconds_panel({}) is None
    assert seconds_panel({"train": 0.0}) is None
