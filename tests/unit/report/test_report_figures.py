"""The figures of a run: which are written, what stands in them, and that nothing foreign acts."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from msft_lite.report.canvas import PRINT, new_figure
from msft_lite.report.cost_figures import disk, seconds, spent, timeline
from msft_lite.report.figures import Picture, write_figures
from msft_lite.report.page.ground import Scene, scene_of
from msft_lite.report.page.spending import disk_held, mean_held, training_spent
from msft_lite.report.pictures import save
from msft_lite.report.telling import tell

Builder = Any
Build = Callable[..., Builder]
FLOPS = {
    "body_forward": 10**9, "body_backward": 2 * 10**9, "head_forward": 0, "head_backward": 0,
    "attention_forward": 0, "attention_backward": 0, "recompute": False,
}  # fmt: skip
MINUS = "\N{MINUS SIGN}"


def scene(run: Builder) -> Scene:
    return scene_of(tell(run.rows))


def with_costs(run: Builder) -> Builder:
    """Adds rates, the size of the model and what lay on the disk: 0, 1, 2, .. copies of it."""
    run.rows[0] |= {"flops": FLOPS, "model_bytes": 1000}
    for row in run.rows:
        if row["kind"] == "mark":
            row["disk_bytes"] = 1000 * row["k"]
    return run


def texts(path: Path) -> list[str]:
    """Returns the texts of an SVG, which must be XML."""
    tag = "{http://www.w3.org/2000/svg}text"
    return ["".join(text.itertext()) for text in ElementTree.parse(path).iter(tag)]


def labels(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def axes_of(figure: Any) -> Any:
    return figure.axes[0]


def lines(figure: Any, width: float) -> list[tuple[list[float], list[float]]]:
    """Returns x and y of the lines of that width."""
    found = (line for line in figure.axes[0].lines if line.get_linewidth() == width)
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


def test_every_figure_is_written_twice_and_says_its_axes(
    three_tasks: Builder, tmp_path: Path
) -> None:
    pictures = write_figures(tell(with_costs(three_tasks).rows), tmp_path)
    names = ["scores", "loss", "timeline", "spent", "disk", "seconds"]
    assert pictures == tuple(Picture(tmp_path / f"{p.path.stem}.png", p.caption) for p in pictures)
    assert [picture.path.stem for picture in pictures] == names
    assert all(p.caption.endswith(".") and "\n" not in p.caption for p in pictures)
    assert len(list(tmp_path.iterdir())) == 12
    for name in names:
        head = (tmp_path / f"{name}.png").read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        # One or two columns of a paper at 300 dots to the inch.
        assert struct.unpack(">II", head[16:24])[0] in (1050, 2100)
    wanted = {
        "scores": ["correct, %", "epochs trained", "a", "never over-fitted", "95 % interval",
                   "dropped after roll-out 2", "mean over all tasks", "returned point"],
        "loss": ["loss, nats per token", "msft: training loss since the mark before"],
        "timeline": [f"{MINUS} b", "2: 2 tasks", "epochs trained, rolled-back ones included"],
        # 12 marks of 1,000 tokens at 3 GFLOPs each
        "spent": ["training work, TFLOPs", "mean score: correct, %"],
        "disk": ["disk, in copies of the model", "mean: 2.5 copies"],
        "seconds": ["train", "swap", "time, minutes"],
    }  # fmt: skip
    for name, expected in wanted.items():
        assert set(expected) <= set(texts(tmp_path / f"{name}.svg")), name


def test_names_are_shown_as_they_are_and_never_act(build: Build, tmp_path: Path) -> None:
    name = "$\\frac{$ --> <script>&\x1b[31m\u202e \ud83d 試 _x"
    run = build([name, "_b"], method=name)
    run.rollout({name: [5, 3], "_b": [1, 2]}).drop(name, 0, reason="x")
    run.rows[2]["seconds"] = {name: 1.0, "_kind": 2.0}
    write_figures(tell(run.rows), tmp_path)
    for path in tmp_path.glob("*.svg"):
        raw = path.read_text(encoding="utf-8")
        assert "<script" not in raw and "\x1b" not in raw and "\u202e" not in raw
        assert any(text.startswith("$\\frac{$ --> <s") for text in texts(path))
    assert "_kind" in texts(tmp_path / "seconds.svg")
    assert any(text.startswith("_b") for text in texts(tmp_path / "scores.svg"))


def test_a_name_of_any_length_leaves_room(build: Build) -> None:
    name = "x" * 10_000
    run = build([name, "b"], method=name).rollout({name: [2, 1], "b": [1, 2]}).drop(name, 0)
    figure = timeline(scene(run))
    assert labels(figure)[0].startswith("x" * 15)
    assert max(map(len, labels(figure))) < 70


def test_the_same_ledger_gives_the_same_bytes_whatever_the_settings(
    build: Build, tmp_path: Path
) -> None:
    found = scene(build(["a"]).rollout({"a": [1, 5, 4]}))
    contents: list[list[bytes]] = []
    for size in (10.0, 23.0):
        with matplotlib.rc_context({"font.size": size, "svg.fonttype": "path"}):
            save(lambda: spent(found, training_spent(found.story)), tmp_path / "spent.png", PRINT)
            assert matplotlib.rcParams["font.size"] == size
        files = ("spent.png", "spent.svg")
        contents.append([(tmp_path / name).read_bytes() for name in files])
    assert contents[0] == contents[1]
    assert b"matplotlib.org" not in contents[0][0]
    assert b"<dc:date>" not in contents[0][1]


def test_a_roll_back_goes_on_in_a_new_lane(three_tasks: Builder) -> None:
    """Roll-outs of one epoch; 1 goes back to its mark 2 of 4, and 2 to its mark 1."""
    figure = timeline(scene(three_tasks))
    grey, blue = lines(figure, 2.2)[::2], lines(figure, 2.2)[1::2]
    assert [x for x, _ in blue] == [[0.0, 0.5], [1.0, 1.25], [2.0, 3.0]]
    assert [x for x, _ in grey] == [[0.5, 1.0], [1.25, 2.0], [3.0, 3.0]]
    ways = lines(figure, 0.7)
    assert [x for x, _ in ways] == [[0.5, 0.5, 1.0], [1.25, 1.25, 2.0]]
    (first,), (second,), (third,) = ({*y} for _, y in blue)
    assert [y for _, y in ways] == [[first, second, second], [second, third, third]]
    assert first < second < third  # downwards, as the axis is turned
    assert labels(figure)[1:] == ["1: 3 tasks", f"{MINUS} b", "2: 2 tasks", f"{MINUS} c", "3: a"]
    assert "mark gone back to" in legend(figure)


def test_tasks_that_leave_without_a_roll_back_stay_in_the_lane(build: Build) -> None:
    run = build(["a", "b", "c"], method="sro")
    run.rollout({"a": [1, 2], "b": [3, 4], "c": [1, 1]}).drop("b", 1)
    run.rollout({"a": [2, 3], "b": [4, 4], "c": [1, 2]}, start="s1.1", tasks=["a", "c"])
    run.rows[-3]["fresh"] = False
    figure = timeline(scene(run))
    assert len({y for _, ys in lines(figure, 2.2) for y in ys}) == 1
    assert {f"{MINUS} b", "1: 3 tasks", "2: 2 tasks"} < set(labels(figure))
    assert legend(figure) == [
        "training, with its marks", "best mean so far", "tasks dropped after the stage",
    ]  # fmt: skip


def test_segments_that_carry_on_are_one_stage(build: Build) -> None:
    """Two requests of one mark each, the second from the first's end."""
    run = build(["a", "b"], method="dynamix")
    run.rollout({"a": [1, 2], "b": [1, 2]})
    run.rollout({"a": [2, 3], "b": [2, 3]}, start="s1.1")
    run.rows[4]["fresh"] = False
    assert run.rows[4]["kind"] == "rollout"
    found = scene(run)
    figure = timeline(found)
    assert labels(figure)[1:] == ["1: 2 tasks"]
    assert [x for x, _ in lines(figure, 2.2)] == [[0.5, 0.5], [0.0, 0.5]]
    curve = axes_of(spent(found, training_spent(found.story))).lines[0]
    assert list(curve.get_xdata()) == [0.0, 1.0, 2.0]  # thousands of tokens


def test_what_is_still_to_come_is_dotted(build: Build) -> None:
    figure = timeline(scene(build(["a"]).rollout({"a": [1, 2, 3]}, planned=4)))
    assert [x for x, _ in lines(figure, 0.8)] == [[0.0, 1.0]]
    assert legend(figure)[-2:] == ["best mean so far", "still to come"]


def test_a_stage_without_marks_is_drawn(three_tasks: Builder) -> None:
    three_tasks.rows = [
        row for row in three_tasks.rows[:-1] if not (row["kind"] == "mark" and row["n"] == 3)
    ]
    assert [x for x, _ in lines(timeline(scene(three_tasks)), 0.8)] == [[2.0, 3.0]]


def test_nothing_is_trained_at_the_first_mark(build: Build) -> None:
    found = scene(build(["a"]).rollout({"a": [4]}, planned=4))
    figure = spent(found, training_spent(found.story))
    assert figure.axes[0].get_xlim() == (-0.02, 1.02)
    assert figure.axes[0].get_xlabel() == "tokens trained, count"
    assert figure.axes[0].get_ylabel() == "score: correct, %"  # of one task there is no mean


def test_losses_are_drawn_the_right_way_up(build: Build) -> None:
    run = build(["a"], total=2)
    run.rollout({"a": [1, 2]})
    run.rows[0] |= {"metric": {"a": "loss"}, "signal": "loss"}
    for row, loss in zip(run.rows[2:], (1_500_000, 500_000), strict=True):
        row |= {"outcomes": {"a": [-loss, -loss]}, "scores": {"a": [-2 * loss, 2]}}
    found = scene(run)
    figure = spent(found, training_spent(found.story))
    assert list(axes_of(figure).lines[0].get_ydata()) == [1.5, 0.5]
    assert figure.axes[0].get_ylabel() == "score: loss in nats, lower is better"


def test_the_mean_of_the_disk_is_that_of_the_tables(three_tasks: Builder) -> None:
    story = tell(with_costs(three_tasks).rows)
    held = disk_held(story)
    assert held is not None
    # 1, 2, 3 and 4 copies in every roll-out; where nothing is held nothing was recorded.
    assert mean_held(held) == story.totals().copies == 2.5
    (dashed,) = [line for line in axes_of(disk(scene_of(story), held)).lines if line.is_dashed()]
    assert set(dashed.get_ydata()) == {2.5}


@pytest.mark.parametrize(
    ("longest", "unit", "length"),
    [(119.0, "seconds", 119.0), (120.0, "minutes", 2.0), (9000.0, "hours", 2.5)],
)
def test_seconds_are_sorted_and_in_a_fitting_unit(
    build: Build, longest: float, unit: str, length: float
) -> None:
    found = scene(build(["a"]).rollout({"a": [1, 2]}))
    figure = seconds(found, {"wait": 0.0, "train": longest, "swap": 1.0})
    axes = axes_of(figure)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["wait", "swap", "train"]
    assert axes.get_xlabel() == f"time, {unit}"
    assert max(bar.get_width() for bar in axes.patches) == pytest.approx(length)


def test_what_is_not_recorded_is_left_out(build: Build, tmp_path: Path) -> None:
    run = build(["a"]).rollout({"a": [4]}, planned=4)
    run.rows[2]["seconds"] = {"train": 0.0}
    assert [p.path.stem for p in write_figures(tell(run.rows), tmp_path)] == [
        "scores", "timeline", "spent",
    ]  # fmt: skip
    assert write_figures(tell(run.rows[:2]), tmp_path / "none") == ()
    assert not (tmp_path / "none").exists()


def test_a_huge_figure_has_fewer_dots() -> None:
    """A picture of 2^16 dots or more cannot be made."""
    assert new_figure(7.0, 3.0).dpi == 300
    assert new_figure(7.0, 1000.0).dpi * 1000 == pytest.approx(20_000)
