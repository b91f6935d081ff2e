"""`check`, `show-data` and `tasks` as their users run them: what is said, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
HOSTILE = "\x1b[2J\x1b]0;mine\x07[bold red]x[/bold red]\rready: msft-lite run\n\nready: now\u202e"
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def command() -> Command:
    """Runs `msft-lite ARGUMENTS` without a terminal; returns exit code and standard output."""

    def run(*arguments: object, encoding: str = "utf-8") -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "msft_lite", *map(str, arguments)],
            capture_output=True,
            check=False,
            env={**ENVIRONMENT, "PYTHONIOENCODING": encoding},
        )
        output = done.stdout.decode(encoding)
        assert done.stderr == b"", done.stderr
        assert "\x1b" not in output
        return done.returncode, output

    return run


@pytest.fixture
def recipe(small_recipe: Path) -> Path:
    """The small recipe, its tokens kept beside it."""
    with small_recipe.open("a") as file:
        file.write('[data]\ncache_dir = "cache"\n')
    return small_recipe


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    """Writes pairs of prompt and answer as JSON lines."""
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in rows]
    path.write_text("\n".join(lines) + "\n")


def starting(output: str, start: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(start)]


def test_a_good_recipe_is_ready(recipe: Path, command: Command) -> None:
    code, output = command("check", recipe, "train.learning_rate=2e-5")
    assert code == 0, output
    ready = f"ready: msft-lite run {recipe} train.learning_rate=2e-5"
    assert output.splitlines()[-1] == ready
    assert starting(output, "problem") == []
    # 24 rows, 6 to steer and 6 to report. Bytes are tokens: "Q: axa\nA: " has 10, "#### k" and
    # the end of text 7.
    assert " ".join(starting(output, "same")[0].split()) == "same 12 0 6 6 17 84 plain"
    (warning,) = starting(output, "warning")
    assert "letter 6, noise 6, same 6" in warning
    assert "20.4 points" in warning
    assert "Memory of a step on cpu: 8 rows of 17 tokens, predicted" in output
    (measured,) = starting(output, "memory of one real step")
    assert "of tensors (counted), predicted" in measured


def test_every_broken_task_is_named(recipe: Path, command: Command) -> None:
    folder = recipe.parent
    (folder / "same.jsonl").write_text('{"prompt": "x" "answer"}\n')
    write_rows(folder / "letter.jsonl", [(f"Q: {n}\nA: ", "#### .") for n in range(24)])
    code, output = command("check", recipe, "tasks.noise.train_samples=3")
    assert code == 2
    problems = starting(output, "problem: ")
    for problem, fragments in zip(
        problems,
        (
            ("task 'same'", "same.jsonl, line 1", "JSON"),
            ("task 'noise' has 3 training rows", "needs 4"),
            ("task 'letter'", "letter.jsonl, line ", "cannot be scored"),
        ),
        strict=True,
    ):
        for fragment in fragments:
            assert fragment in problem
    first = problems[0].removeprefix("problem: ")
    assert output.splitlines()[-1] == f"not ready: 3 problems; first: {first}"


def test_rows_are_checked_without_a_tokenizer(recipe: Path, command: Command) -> None:
    write_rows(recipe.parent / "noise.jsonl", [(f"Q: {n}\nA: ", "#### .") for n in range(24)])
    code, output = command("check", recipe, "model.name_or_path=nobody/nothing")
    assert code == 2
    tokenizer, noise = starting(output, "problem: ")
    assert "lengths were not counted" in tokenizer
    assert "nobody/nothing" in tokenizer
    assert "noise.jsonl, line " in noise
    assert " ".join(starting(output, "same")[0].split()) == "same 12 - 6 6 - - plain"
    assert output.splitlines()[-1].startswith("not ready: 2 problems; first: lengths")


def test_answers_beyond_the_models_positions_are_refused(recipe: Path, command: Command) -> None:
    code, output = command("check", recipe, "eval.max_new_tokens=600")
    assert code == 2
    assert "512 positions: lower eval.max_prompt_length or eval.max_new_tokens" in output


def test_a_used_output_folder_is_a_warning(recipe: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "ledger.jsonl").write_text("{}\n")
    code, output = command("check", recipe, "--no-step", f"output_dir={tmp_path / 'used'}")
    assert code == 0
    assert "Memory of a step" in output
    assert starting(output, "memory of one real step") == []
    assert "--overwrite" in starting(output, "warning")[0]
    assert not (tmp_path / "used" / "lock").exists()


def test_data_is_shown_whole_without_a_terminal(recipe: Path, command: Command) -> None:
    code, output = command("show-data", recipe, "--task", "same", "--rows", "2")
    assert code == 0, output
    assert "noise" not in output
    assert "12 training rows, 6 control rows, 6 report rows" in output
    assert "p50 17, p95 17, max 17, limit 64" in output
    assert "trained on: 84 of 204 tokens (41.2 %)" in output
    assert output.count("    A: ⟧#### k<|end|>\n") == 2
    assert output.count("    ⟦Q: ") == 2
    assert "    A: ▮\n" in output
    assert "looked for in the answer: k\n" in output
    assert max(map(len, output.splitlines())) <= 80


def test_a_row_cannot_act_on_the_terminal(recipe: Path, command: Command) -> None:
    rows = [(f"{n} {HOSTILE}", f"#### {HOSTILE}") for n in range(24)]
    write_rows(recipe.parent / "same.jsonl", rows)
    code, output = command("show-data", recipe, "train.max_length=400", "--task", "same")
    assert code == 0, output
    assert "\\x1b[2J" in output
    assert "[bold red]x[/bold red]\\rready: msft-lite run↵" in output.replace("\n    ", "")
    assert "\\u202e" in output
    assert starting(output, "ready") == []


def test_an_unknown_task_is_told_the_known_ones(recipe: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "msft_lite", "show-data", recipe, "--task", "leter"],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    assert "did you mean 'letter'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_presets_are_listed(command: Command) -> None:
    code, output = command("tasks")
    assert code == 0
    names = {line.split()[0] for line in output.splitlines() if line.strip()}
    assert {"gsm8k", "boolq", "medmcqa"} <= names
    assert max(map(len, output.splitlines())) <= 80


def test_a_preset_shows_its_text(command: Command) -> None:
    code, output = command("tasks", "gsm8k")
    assert code == 0
    assert "A: ⟧" in output
    # The training text once, the prompt with five shots.
    assert output.count("Q: ") == output.count("#### ") == 6


def test_the_presets_can_be_read_without_utf8(command: Command) -> None:
    code, output = command("tasks", "boolq", encoding="ascii")
    assert code == 0
    assert "\\u27e6Q: " in output
