"""The converter of public benchmarks, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from msft_lite.data.sources import read_jsonl

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "real_text_tasks.py"
ROWS = {
    "arc_easy": {"question": "Ice is", "choices": ["hot", "cold"], "answer": "B"},
    "hellaswag": {"question": "He", "choices": ["runs.", "is."], "answer": "A"},
    "sciq": {"question": "What is ice?", "choices": ["water", "fire"], "answer": "A"},
    "boolq": {"question": "is ice cold?", "answer": "no", "context": "Ice -- Ice."},
    "gsm8k": {"question": "1+1?", "answer": "2", "rationale": "1+1=2."},
    "aqua": {"question": "1+1?", "choices": ["1", "2"], "answer": "B", "rationale": "So 2."},
}
EXPECTED = {
    "arc_easy": ("Q: Ice is\noptions: A. hot, B. cold\nA: ", "#### B"),
    "hellaswag": ('Q: "He"\noptions: A. "runs.", B. "is."\nA: ', "#### A"),
    "sciq": ("Q: What is ice?\nA: ", "#### water"),
    "boolq": ("Q: Ice -- Ice.\nis ice cold? True or False?\nA: ", "#### False"),
    "gsm8k": ("Q: 1+1?\nA: ", "1+1=2. #### 2"),
    "aqua": ("Q: 1+1?\noptions: A. 1, B. 2\nA: ", "So 2. #### B"),
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_rows_are_in_the_papers_form(tmp_path: Path) -> None:
    empty = {"choices": None, "rationale": None, "context": None}
    for name, row in ROWS.items():
        for split in ("train", "validation", "test"):
            line = json.dumps({**empty, **row}) + "\n"
            (tmp_path / f"{name}.{split}.jsonl").write_text(line * 3)
    out = tmp_path / "out"
    done = run("--source", tmp_path, "--out", out, "--rows", "2", "--held-out", "1")
    assert done.returncode == 0, done.stderr
    assert len(list(out.iterdir())) == 18
    for name, (prompt, answer) in EXPECTED.items():
        train = read_jsonl(out / f"{name}.train.jsonl")
        assert [(row.prompt, row.answer) for row in train] == [(prompt, answer)] * 2
        assert len(read_jsonl(out / f"{name}.control.jsonl")) == 1
        assert len(read_jsonl(out / f"{name}.report.jsonl")) == 1


def test_empty_source_is_refused(tmp_path: Path) -> None:
    done = run("--source", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "holds no <benchmark>.train.jsonl" in done.stderr
