"""Texts of a ledger, a recipe and of examples are shown and never act."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msft_lite.report.page.material import read_material
from msft_lite.report.page.render import notice_html, page_html

Builder = Any
Build = Callable[..., Builder]
Parse = Callable[[str], Any]
HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "</textarea></style></title><script>alert(1)</script>",
    "<!-- --><![CDATA[ ]]>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&#x3c;script&#x3e;",
    "javascript:alert(1)",
    "\U0001f600 'single' \"double\" `back`",
]


def written(build: Build, folder: Path, text: str) -> Path:
    """Writes a run in which every foreign text is ``text``."""
    run = build([text, "other"], method=text)
    run.rows[0] |= {"device": text, "versions": {text: text}, "domain": {text: text, "other": "x"}}
    run.rollout({text: [2, 9, 4], "other": [1, 2, 3]})
    run.drop(text, 1, reason=text)
    run.rollout({text: [9, 8, 7], "other": [2, 3, 4]}, start="s1.1", tasks=["other"])
    run.finish(2, 2, base=[2, 1], best=[7, 4], note=text)
    for row in run.rows:
        row.get("seconds", {})[text] = 5.0
    answers = {side: {"output": text, "worth": 0} for side in ("base", "best")}
    example = {"row": 1, "prompt": text, "gold": text, **answers}
    (folder / "examples.json").write_text(
        json.dumps({"format": 1, "tasks": {text: [example]}}), encoding="utf-8"
    )
    (folder / "recipe.toml").write_text(text, encoding="utf-8", errors="replace")
    return run.write(folder)


def page_of(build: Build, folder: Path, text: str) -> str:
    folder.mkdir()
    return page_html(read_material(written(build, folder, text)))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_makes_a_tag_or_an_attribute(
    build: Build, tmp_path: Path, parsed: Parse, text: str
) -> None:
    tame = parsed(page_of(build, tmp_path / "tame", "x" * len(text)))
    page = parsed(page_of(build, tmp_path / "hostile", text))
    assert page.shape == tame.shape
    assert page.opened == []
    assert text in page.text


def test_what_turns_the_direction_is_spelt_out(build: Build, tmp_path: Path, parsed: Parse) -> None:
    text = page_of(build, tmp_path / "run", "a\u202ecod.exe\u2066\x07b\x1b[31m")
    assert not set(text) & set("\u202e\u2066\x07\x1b")
    assert "a\\u202ecod.exe\\u2066\\x07b\\x1b[31m" in parsed(text).text


def test_half_a_character_does_not_stop_the_page(build: Build, tmp_path: Path) -> None:
    run = build(["a"]).rollout({"a": [1, 2]}).drop("a", 0, reason="half \\ud83d")
    folder = run.write(tmp_path)
    ledger = folder / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("\\\\ud83d", "\\ud83d"))
    text = page_html(read_material(folder))
    assert "half \\ud83d" in text
    text.encode("utf-8")


def test_right_to_left_names_keep_to_themselves(
    build: Build, tmp_path: Path, parsed: Parse
) -> None:
    page = page_of(build, tmp_path / "run", "שלום")
    assert "<bdi>שלום</bdi>" in page
    assert parsed(page).opened == []


def test_long_texts_are_shortened_with_a_count(build: Build, tmp_path: Path, parsed: Parse) -> None:
    text = page_of(build, tmp_path / "run", "y" * 10_000)
    page = parsed(text)
    assert "y\N{HORIZONTAL ELLIPSIS} (+9,700 characters)" in page.text
    assert "9,500 more characters" in page.text
    # Whole are the reason, the four texts of the example, and the recipe, each once.
    assert text.count("y" * 9_000) == 6


def test_a_notice_is_escaped(parsed: Parse) -> None:
    tame = parsed(notice_html("x", "y", version="1"))
    for text in HOSTILE:
        assert parsed(notice_html(text, text, version=text)).shape == tame.shape
