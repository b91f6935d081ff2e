"""Datasets in folders laid out like the hub's, and a hub that does not answer."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from msft_lite.data.hub import read_hub
from msft_lite.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # of datasets and its dependencies

CLOSED = "http://127.0.0.1:9"  # nothing listens there
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIGURATIONS = """---
configs:
- config_name: easy
  data_files: easy.jsonl
- config_name: hard
  data_files: hard.jsonl
---
"""


def lines(first: int, last: int) -> str:
    rows = [{"prompt": f"Q: {n}+1\nA: ", "answer": n + 1, "id": n} for n in range(first, last)]
    return "\n".join(map(json.dumps, rows))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that refuses every connection."""
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", CLOSED)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    """Two splits and no more: one configuration."""
    assert not cache.exists()
    folder = tmp_path / "addition"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(0, 5))
    (folder / "test.jsonl").write_text(lines(5, 6))
    return folder


def test_rows_of_a_folder(folder: Path) -> None:
    records = read_hub(str(folder), "train[:3]")
    assert [record.values for record in records] == [
        {"prompt": f"Q: {n}+1\nA: ", "answer": n + 1, "id": n} for n in range(3)
    ]
    assert records[2].where == f"dataset {folder}, split train[:3], row 2"
    assert len(read_hub(str(folder), "test")) == 1


def test_configurations(tmp_path: Path, cache: Path) -> None:
    assert not cache.exists()
    (tmp_path / "README.md").write_text(CONFIGURATIONS)
    (tmp_path / "easy.jsonl").write_text(lines(0, 2))
    (tmp_path / "hard.jsonl").write_text(lines(10, 12))
    assert read_hub(f"{tmp_path}:hard", "train")[0].values["id"] == 10
    (first, _) = read_hub(str(tmp_path), "train", configuration="easy")
    assert first.values["id"] == 0
    assert first.where == f"dataset {tmp_path}:easy, split train, row 0"
    assert read_hub(f"{tmp_path}:hard", "train", configuration="easy")[0].values["id"] == 0
    with pytest.raises(DataError, match=r"'hrad' not found.*'easy'.*; did you mean 'hard'\?"):
        read_hub(f"{tmp_path}:hrad", "train")
    with pytest.raises(DataError, match="Config name is missing.*'easy', 'hard'.*:configuration"):
        read_hub(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("tran", r"Unknown split .tran.*; did you mean 'train'\?; check the network"),
        ("tran[:2]", r"did you mean 'train'\?"),
        ("validation", 'Unknown split "validation". Should be one of .*test'),
        ("train[:2", "Unrecognized instruction format"),
        ("train[:0]", "corresponds to no data"),
    ],
)
def test_splits_that_are_not_there(folder: Path, split: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_hub(str(folder), split)
    assert str(caught.value).startswith(f"dataset {folder}, split {split}: ")
    assert "\n" not in str(caught.value)


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    (folder / "addition.py").write_text("raise SystemExit('run')")
    with pytest.raises(DataError, match="scripts are no longer supported"):
        read_hub(str(folder), "train")


@pytest.mark.parametrize("name", ["someone/rows", "./absent", "a/b/c", "a b/c"])
def test_no_hub_and_no_copy(cache: Path, name: str) -> None:
    from datasets import config

    offline = config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="cannot be loaded: .*or give local rows with path"):
        read_hub(name, "train")
    assert not cache.exists()
    assert offline == config.HF_HUB_OFFLINE


def test_no_hub_is_told_without_retries(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not cache.exists()
    with (
        caplog.at_level(logging.WARNING, "huggingface_hub"),
        pytest.raises(
            DataError, match="rows:main, .* the hub does not answer, and there is no copy"
        ),
    ):
        read_hub("someone/rows:main", "train")
    assert "Retrying" not in caplog.text


def test_copy_of_an_earlier_download(folder: Path, cache: Path) -> None:
    read_hub(str(folder), "train")
    (made,) = (cache / "addition" / "default" / "0.0.0").glob("[0-9a-f]*[0-9a-f]")
    copy = cache / "someone___addition" / "default" / "0.0.0" / COMMIT
    shutil.copytree(made, copy)
    assert len(read_hub("someone/addition", "train")) == 5
    assert len(read_hub("someone/addition", "train", revision=COMMIT)) == 5
    with pytest.raises(DataError, match=f"copy at hand is of commit {COMMIT}, not of {'f' * 40}"):
        read_hub("someone/addition", "train", revision="f" * 40)
