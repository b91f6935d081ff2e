"""Laws 1, 2, 3, 4, 6 and 10 on whole runs: real model, trainer, store and torch engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from msft_lite.core import LIVE, ROOT, Mixture, Rollout, Trace
from msft_lite.errors import EngineError, OutputFolderError, SnapshotError
from msft_lite.ledger import Ledger, read_rows
from msft_lite.recipe import Recipe, Variant
from msft_lite.run.build import build_workshop
from msft_lite.run.compare import run_several
from msft_lite.run.engines import build_evaluator
from msft_lite.run.folder import RunFolder
from msft_lite.run.lending import Lender
from msft_lite.run.parts import Parts, RollerSettings
from msft_lite.run.roller import Roller
from msft_lite.run.session import run
from msft_lite.run.stop import StopFlag
from msft_lite.run.workshop import Workshop
from tests.outcomes import best, results, snapshots, tensors
from tests.whole_runs import FULL, Killed, Watcher, killed, short

WITHOUT_MSFT = ("method.budget=", "method.max_stages=")
THREE_STAGES = "method.max_stages=3"
TUNINGS = {"lora": (THREE_STAGES, "model.lora_dropout=0.1"), "full": (THREE_STAGES, *FULL)}
# Of every other method the shortest run in which all that it asks for comes up.
METHODS = {
    "sft": ("method.epochs=1",),
    "continual": ("method.epochs=1",),
    "sro": ("method.epochs=1",),
    "soft_sro": ("method.epochs=1",),
    "dynamix": ("method.epochs=2", "method.period=5"),
    "ies": ("method.epochs=5", "method.delta=1.0"),
    "shift": ("method.epochs=1",),
}


class Kills:
    """Makes a watcher for each of several runs; 0 lets a run come to its end."""

    def __init__(self, *rows: int) -> None:
        self.rows = iter(rows)

    def __call__(self) -> Watcher:
        rows = next(self.rows)
        return Watcher("row" if rows else "", rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted short runs, one a tuning."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        tuning: run(short(folder / tuning, *changes), mode="new", watch=Watcher())
        for tuning, changes in TUNINGS.items()
    }


@pytest.mark.parametrize("tuning", TUNINGS)
def test_law_3_killed_after_a_row_and_resumed(
    whole: dict[str, Path], tmp_path: Path, tuning: str
) -> None:
    rows = results(whole[tuning])
    recipe = short(tmp_path / "run", *TUNINGS[tuning])
    instants = range(1, len(rows), max(1, len(rows) // 6))
    assert len(instants) >= 6
    for killed_at in instants:
        killed(recipe, "row", killed_at, "new" if killed_at == 1 else "resume")
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == rows
    assert tensors(recipe.output_dir) == tensors(whole[tuning])


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("killed_at", [0, 3, 8])
def test_law_3_killed_while_training_and_resumed(
    whole: dict[str, Path], tmp_path: Path, tuning: str, killed_at: int
) -> None:
    recipe = short(tmp_path / "run", *TUNINGS[tuning])
    killed(recipe, "progress", killed_at)
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == results(whole[tuning])
    assert tensors(recipe.output_dir) == tensors(whole[tuning])


@pytest.mark.parametrize("name", METHODS)
def test_law_3_holds_for_every_method(tmp_path: Path, name: str) -> None:
    options = (*WITHOUT_MSFT, f"method.name={name}", *METHODS[name])
    whole = run(short(tmp_path / "whole", *options), mode="new", watch=Watcher())
    rows = results(whole)
    recipe = short(tmp_path / "run", *options)
    killed(recipe, "progress", 4)
    for killed_at in range(len(rows) // 4, len(rows), max(1, len(rows) // 4)):
        killed(recipe, "row", killed_at, "resume")
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == rows
    assert tensors(recipe.output_dir) == tensors(whole)


def test_a_killed_probe_run_goes_on_from_steps_that_were_never_saved(tmp_path: Path) -> None:
    options = (*WITHOUT_MSFT, "method.name=dynamix", "method.epochs=1", "method.period=1")
    whole = run(short(tmp_path / "whole", *options), mode="new", watch=Watcher())
    rows = results(whole)
    live = [i for i, row in enumerate(rows) if row.get("snapshot") == LIVE and row["k"]]
    assert live, "no roll-out of the run was without scores"
    recipe = short(tmp_path / "run", *options)
    killed(recipe, "row", live[0])  # nothing is saved yet: all is trained again from the base
    assert not RunFolder(recipe.output_dir).crash_copy.exists()
    killed(recipe, "row", live[-1], "resume")
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == rows
    assert tensors(recipe.output_dir) == tensors(whole)


def test_a_search_that_is_taken_over_is_the_one_that_would_have_been_made(tmp_path: Path) -> None:
    options = (*WITHOUT_MSFT, "method.name=sro", "method.epochs=1")
    alone = run(short(tmp_path / "alone", *options), mode="new", watch=Watcher())
    recipes = [
        short(tmp_path / name, *WITHOUT_MSFT, f"method.name={name}", "method.epochs=1")
        for name in ("sft", "sro", "soft_sro")
    ]
    variants = [Variant(recipe.method.name, recipe) for recipe in recipes]
    with pytest.raises(Killed):  # in the middle of the second run
        run_several(variants, mode="new", watch=Kills(0, 9, 0))
    folders = run_several(variants, mode="resume", watch=Watcher)
    shared = [row for row in results(folders[1]) if row.get("shared")]
    assert {row["shared"] for row in shared} == {f"{tmp_path.name}/sft"}
    assert len(shared) >= 5  # the start and a quarter epoch each
    assert {row["n"] for row in shared} == {1}
    without = [{k: v for k, v in row.items() if k != "shared"} for row in results(folders[1])]
    assert without == results(alone)
    assert tensors(folders[1]) == tensors(alone)
    assert {row["shared"] for row in results(folders[2]) if row.get("shared")}
    assert run_several(variants, mode="resume", watch=Kills(0, 0, 0)) == folders  # all are done
    with pytest.raises(OutputFolderError, match="--resume"):
        run_several(variants, mode="new", watch=Watcher)


def test_law_3_with_a_last_row_whose_beginning_never_reached_the_disk(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    recipe = short(tmp_path / "run", *TUNINGS["full"])
    killed(recipe, "row", 6)
    ledger = RunFolder(recipe.output_dir).ledger
    *lines, last = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines, bytes(100), last[100:]]))
    watch = Watcher()
    run(recipe, mode="resume", watch=watch)
    assert any(f"last {len(last):,} bytes were no whole row" in text for text in watch.said)
    assert results(recipe.output_dir) == results(whole["full"])
    assert tensors(recipe.output_dir) == tensors(whole["full"])


def test_law_3_with_the_crash_copy_lost_too(whole: dict[str, Path], tmp_path: Path) -> None:
    recipe = short(tmp_path / "run", *TUNINGS["lora"])
    killed(recipe, "row", 5)
    RunFolder(recipe.output_dir).crash_copy.unlink()
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == results(whole["lora"])
    assert tensors(recipe.output_dir) == tensors(whole["lora"])


def test_law_3_with_the_optimizer_kept_from_stage_to_stage(tmp_path: Path) -> None:
    changes = (THREE_STAGES, "method.keep_optimizer=true")
    first = run(short(tmp_path / "whole", *changes), mode="new", watch=Watcher())
    boundaries = [i for i, row in enumerate(results(first)) if row["kind"] == "rollout"]
    recipe = short(tmp_path / "run", *changes)
    # The second roll-out has been asked for, nothing of it is trained.
    killed(recipe, "row", boundaries[1])
    run(recipe, mode="resume", watch=Watcher())
    assert results(recipe.output_dir) == results(first)
    assert tensors(recipe.output_dir) == tensors(first)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_law_4_evaluating_at_each_mark_or_at_the_end(
    whole: dict[str, Path], tmp_path: Path, tuning: str
) -> None:
    recipe = short(tmp_path / "run", *TUNINGS[tuning], "eval.at=end")
    run(recipe, mode="new", watch=Watcher())
    assert results(recipe.output_dir) == results(whole[tuning])
    assert tensors(recipe.output_dir) == tensors(whole[tuning])


def test_a_finished_run_is_left_alone(whole: dict[str, Path]) -> None:
    watch = Watcher()
    before = (whole["lora"] / "ledger.jsonl").read_bytes()
    run(short(whole["lora"], *TUNINGS["lora"]), mode="resume", watch=watch)
    assert (whole["lora"] / "ledger.jsonl").read_bytes() == before
    assert any("finished" in line for line in watch.said)


def test_law_5_how_snapshots_are_stored_changes_nothing_but_bytes(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    recipe = short(tmp_path / "run", *TUNINGS["full"], "snapshots.delta=false")
    stored = run(recipe, mode="new", watch=Watcher())
    assert results(stored) == results(whole["full"])
    assert best(stored) == best(whole["full"])
    as_deltas, as_they_are = (
        sum(row.get("disk_bytes", 0) for row in read_rows(folder / "ledger.jsonl"))
        for folder in (whole["full"], stored)
    )
    assert as_deltas < as_they_are


def test_law_10_only_snapshots_that_can_be_asked_for_stay(whole: dict[str, Path]) -> None:
    for folder in whole.values():
        (finish,) = [row for row in results(folder) if row["kind"] == "finish"]
        wanted = {finish["snapshot"]} - {ROOT}  # which is the base: no file of the run's
        assert {file.stem for file in snapshots(folder)} == wanted


def rollout(*, marks: int, shop: Workshop, start: str = ROOT, fresh: bool = True) -> Rollout:
    mixture = Mixture.of(shop.clock.tasks)
    return Rollout(start, mixture, shop.clock.marks(mixture, marks), fresh)


class Bench:
    """A roller with its parts, to execute requests by hand."""

    def __init__(self, recipe: Recipe) -> None:
        self.folder = RunFolder(recipe.output_dir)
        self.folder.path.mkdir(parents=True)
        watch = Watcher()
        self.shop = build_workshop(recipe, self.folder, watch, mode="new")
        shop = self.shop
        self.roller = Roller(
            Parts(
                trainer=shop.trainer,
                store=shop.store,
                evaluator=build_evaluator(recipe, shop),
                ledger=shop.ledger,
                tasks={task.name: task for task in shop.tasks},
                watch=watch,
                stop=StopFlag(),
                lender=Lender((), {}),
            ),
            RollerSettings(shop.clock, recipe.seed, self.folder.crash_copy),
        )

    def execute(self, request: Rollout) -> Trace:
        assert self.shop.ledger.recall(request) is None
        return self.roller.execute(request)

    def state(self) -> tuple[dict[str, bytes], Mapping[str, Any]]:
        moments, counters = self.shop.trainer.state()
        return {name: t.numpy().tobytes() for name, t in moments.items()}, counters


@pytest.mark.parametrize("tuning", TUNINGS)
def test_law_1_two_rollouts_equal_one(tmp_path: Path, tuning: str) -> None:
    one = Bench(short(tmp_path / "one", *TUNINGS[tuning]))
    whole = one.execute(rollout(marks=5, shop=one.shop))
    two = Bench(short(tmp_path / "two", *TUNINGS[tuning]))
    first = two.execute(rollout(marks=2, shop=two.shop))
    start = first.end.snapshot
    second = two.execute(rollout(marks=3, shop=two.shop, start=start, fresh=False))
    halves = [*first.points, *second.points[1:]]
    assert [p.snapshot for p in halves] == [p.snapshot for p in whole.points]
    assert [p.scores for p in halves] == [p.scores for p in whole.points]
    assert one.state() == two.state()


@pytest.mark.parametrize("tuning", TUNINGS)
def test_law_2_training_from_a_snapshot_does_not_depend_on_what_ran_before(
    tmp_path: Path, tuning: str
) -> None:
    bench = Bench(short(tmp_path / "run", *TUNINGS[tuning]))
    shop = bench.shop
    first = bench.execute(rollout(marks=2, shop=shop))
    middle = first.points[1].snapshot
    some = Mixture(tuple((task, Fraction(1)) for task in shop.clock.tasks[1:]))
    request = Rollout(middle, some, shop.clock.marks(some, 2), fresh=True)
    once = bench.execute(request)
    state = bench.state()
    bench.roller.report(ROOT)  # other weights pass through the trainer
    shop.store.save(shop.trainer.capture())
    kept = shop.store.load(middle)
    bench.execute(Rollout(ROOT, some, shop.clock.marks(some, 1), fresh=True))
    shop.store.save(kept)
    again = bench.execute(request)
    assert [p.snapshot for p in again.points] == [p.snapshot for p in once.points]
    assert bench.state() == state


def test_law_6_an_evaluation_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(short(tmp_path / "run", *TUNINGS["lora"]))
    bench.execute(rollout(marks=1, shop=bench.shop))
    weights, state = bench.shop.trainer.capture(), bench.state()
    end = bench.shop.ledger.points[-1].snapshot
    assert bench.roller.report(end).scores == bench.roller.report(end).scores
    after = bench.shop.trainer.capture()
    assert {n: t.numpy().tobytes() for n, t in after.tensors.items()} == {
        n: t.numpy().tobytes() for n, t in weights.tensors.items()
    }
    assert bench.state() == state


def test_other_bits_than_the_recorded_ones_are_refused(tmp_path: Path) -> None:
    recipe, path = short(tmp_path / "run", *TUNINGS["lora"]), tmp_path / "run/ledger.jsonl"
    killed(recipe, "row", 5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    (first,) = [row for row in rows if row["kind"] == "mark" and row["k"] == 1]
    first["snapshot"] = "0" * 64
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    RunFolder(recipe.output_dir).crash_copy.unlink()
    with pytest.raises(SnapshotError, match=r"(?s)mark 1 of roll-out 1.*msft-lite resume"):
        run(recipe, mode="resume", watch=Watcher())


def test_ledger_numbers_are_what_the_parts_did(whole: dict[str, Path]) -> None:
    rows = results(whole["lora"])
    tasks = rows[0]["tasks"]
    ledger = Ledger(whole["lora"] / "ledger.jsonl")
    assert rows[0]["rows"][tasks[0]] == {"train": 24, "control": 6, "report": 8}
    for row in ledger.rows:
        if row["kind"] != "mark":
            continue
        assert list(row["scores"]) == tasks
        for task in tasks:
            outcomes = row["outcomes"][task]
            assert row["scores"][task] == [outcomes.count("1"), 6]
        assert (row["k"] == 0) == (row["trained_tokens"] == 0) == (row["train_loss"] == {})


def test_engine_error_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = short(tmp_path / "run", "engine.name=vllm", "engine.start_timeout_seconds=0.2")
    with pytest.raises(EngineError, match=r"msft-lite resume") as error:
        run(recipe, mode="new", watch=Watcher())
    assert "nothing of them is lost" in str(error.value)
