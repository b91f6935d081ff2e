from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msft_lite.errors import LedgerError
from msft_lite.report import write_report
from msft_lite.report.page import write_page
from msft_lite.report.page.headline import headline, settings_grids
from msft_lite.report.page.material import read_material, version_of
from msft_lite.report.page.render import notice_html, page_html
from msft_lite.report.telling import tell

Builder = Any
Build = Callable[..., Builder]
Parse = Callable[[str], Any]
EXAMPLE = {
    "row": 0, "prompt": "Say B.", "gold": "B", "base": {"output": "A", "worth": 0},
    "best": {"output": "B", "worth": 1_000_000},
}  # fmt: skip


def page_of(run: Builder, folder: Path, *, version: str = "") -> str:
    return page_html(read_material(run.write(folder)), version=version)


def test_the_sections_come_in_order(three_tasks: Builder, tmp_path: Path, parsed: Parse) -> None:
    (tmp_path / "recipe.toml").write_text('seed = 20 # "<b>"\n')
    examples = {"format": 1, "tasks": {"a": [EXAMPLE]}}
    (tmp_path / "examples.json").write_text(json.dumps(examples))
    page = parsed(page_of(three_tasks, tmp_path))
    assert page.sections == [
        "scores", "curves", "stages", "costs", "loss", "rollouts", "drops", "settings", "examples",
    ]  # fmt: skip
    assert page.opened == []
    linked = [values["href"][1:] for tag, values in page.tags if tag == "a"]
    assert linked == page.sections
    assert 'seed = 20 # "<b>"' in page.text
    assert "best at mark 2 with 14/20, at the last mark 4 11/20" in page.text
    assert "row 0: base wrong, returned right" in page.text


def test_the_scores_stand_in_tables(three_tasks: Builder, tmp_path: Path, parsed: Parse) -> None:
    text = parsed(page_of(three_tasks, tmp_path)).text
    assert "Report split: the base and the returned point (roll-out 3, mark 4)" in text
    assert "a 20 10.0 [2.8, 30.1] 80.0 [58.4, 91.9] +70.0 [+" in text


def test_an_unfinished_run_has_a_page(three_tasks: Builder, tmp_path: Path, parsed: Parse) -> None:
    del three_tasks.rows[-2:]
    page = parsed(page_of(three_tasks, tmp_path))
    assert "Not finished: recorded up to roll-out 3, mark 3 of 4." in page.text
    assert page.sections == [
        "scores", "curves", "stages", "costs", "loss", "rollouts", "drops", "settings",
    ]  # fmt: skip


def test_a_run_that_has_just_begun_has_a_page(build: Build, tmp_path: Path, parsed: Parse) -> None:
    page = parsed(page_of(build(["a", "b"]), tmp_path))
    assert "Not finished; no mark is recorded yet." in page.text
    assert page.sections == ["scores", "costs", "rollouts", "settings"]


def test_the_headline_of_a_finished_run(three_tasks: Builder) -> None:
    text = headline(tell(three_tasks.rows))
    assert text.startswith(
        "Finished: returned is roll-out 3, mark 4. Its mean on the report rows is 66.7 %; the base "
        "has 16.7 %, a difference of +50.0 [+"
    )
    assert text.endswith(
        "with its 95 % interval; tasks dropped: 2 of 3. Remark: stopped by the guard."
    )


def test_the_headline_says_where_the_report_rows_steered(three_tasks: Builder) -> None:
    three_tasks.rows[0]["steer_on"] = "report"
    assert "on the report rows (they also steered the run) is" in headline(tell(three_tasks.rows))


def test_the_headline_while_a_roll_out_begins(build: Build) -> None:
    run = build(["a"]).rollout({"a": [1, 2]})
    run.rollout({"a": [2]}, start="s1.1", planned=3)
    assert "recorded up to roll-out 2, mark 0 of 3" in headline(tell(run.rows))
    assert "roll-out 2 is under way, no mark of it recorded yet" in headline(tell(run.rows[:-1]))


def test_the_base_may_be_returned(build: Build) -> None:
    run = build(["a"]).rollout({"a": [5, 2]}).finish(1, 0, base=[5], best=[5])
    assert headline(tell(run.rows)).startswith("Finished: returned is the base itself.")


def test_digests_stand_apart_from_settings(three_tasks: Builder) -> None:
    plain, digests = settings_grids(tell(three_tasks.rows))
    assert ("seed", "20") in plain.rows
    assert ("versions.torch", "2.13.0") in plain.rows
    assert [row[0] for row in digests.rows] == ["recipe", "data.a", "data.b", "data.c"]


def test_the_page_asks_for_nothing_and_allows_only_its_own_code(
    three_tasks: Builder, tmp_path: Path, parsed: Parse
) -> None:
    text = page_of(three_tasks, tmp_path)
    page = parsed(text)
    asking = ("src", "srcset", "action", "xlink:href", "style")
    assert [v for _, v in page.tags if any(name in v for name in asking)] == []
    links = {values["href"] for tag, values in page.tags if "href" in values and tag != "a"}
    assert links == {"data:,"}
    (allowed,) = (v["content"] for _, v in page.tags if v.get("http-equiv"))
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed
    assert allowed.startswith("default-src 'none'; ")
    assert "connect-src" not in allowed
    assert 'data-version=""' in text


def test_a_served_page_may_ask_its_own_server(three_tasks: Builder, tmp_path: Path) -> None:
    text = page_of(three_tasks, tmp_path, version="12.3")
    assert 'data-version="12.3"' in text
    assert "connect-src &#39;self&#39;" in text


def test_a_notice_is_a_page(parsed: Parse) -> None:
    page = parsed(notice_html("Nothing yet", "no <ledger> & so on", version="1"))
    assert "no <ledger> & so on" in page.text
    assert page.sections == []
    assert page.opened == []


def test_every_picture_speaks(three_tasks: Builder, tmp_path: Path, parsed: Parse) -> None:
    pictures = [v for tag, v in parsed(page_of(three_tasks, tmp_path)).tags if tag == "svg"]
    assert all(v.get("aria-label") or v.get("aria-hidden") == "true" for v in pictures)
    assert sum("aria-label" in v for v in pictures) == 10  # 4 scores, tree, mean, seconds, 3 losses


def test_flops_and_disk_are_shown_where_they_are_recorded(
    three_tasks: Builder, tmp_path: Path, parsed: Parse
) -> None:
    assert "Disk in use" not in parsed(page_of(three_tasks, tmp_path)).text
    rates = {"body_forward": 10**9, "body_backward": 2 * 10**9, "recompute": False}
    rates |= dict.fromkeys(
        ("head_forward", "head_backward", "attention_forward", "attention_backward"), 0
    )
    three_tasks.rows[0] |= {"flops": rates}
    for row in three_tasks.rows:
        if row["kind"] == "mark":
            row["disk_bytes"] = 2**30
    text = parsed(page_of(three_tasks, tmp_path)).text
    assert "training work, TFLOPs" in text
    assert "disk, GiB" in text


def test_examples_that_cannot_be_read_are_noted(
    three_tasks: Builder, tmp_path: Path, parsed: Parse
) -> None:
    (tmp_path / "examples.json").write_text("{")
    page = parsed(page_of(three_tasks, tmp_path))
    assert page.sections[-1] == "examples"
    assert "examples.json is damaged: it is not JSON." in page.text


def test_the_page_is_written_beside_the_report(three_tasks: Builder, tmp_path: Path) -> None:
    write_report(three_tasks.write(tmp_path))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text == page_html(read_material(tmp_path))
    assert not (tmp_path / "report.html.partial").exists()


def test_without_a_ledger_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot read the ledger"):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_change_of_a_file_is_another_version(three_tasks: Builder, tmp_path: Path) -> None:
    empty = version_of(tmp_path)
    three_tasks.write(tmp_path)
    full = version_of(tmp_path)
    (tmp_path / "examples.json").write_text("{}")
    assert len({empty, full, version_of(tmp_path)}) == 3
    assert version_of(tmp_path) == version_of(tmp_path)


def test_a_recipe_that_is_no_text_does_no_harm(three_tasks: Builder, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"seed = \xff\xfe")
    assert "seed = \N{REPLACEMENT CHARACTER}" in page_of(three_tasks, tmp_path)
