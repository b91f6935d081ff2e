"""The command line: exit codes, where messages go, and that light commands stay light."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import msft_lite
from msft_lite.cli import app, told_errors
from msft_lite.errors import DataError, Interrupted
from msft_lite.run.stop import SIGNALS
from tests.light_commands import assert_light

RUNNER = CliRunner()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Q: {n}\nA: ", "answer": f"#### {n}"} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("add", "add.control", "add.report"):
        (tmp_path / f"{name}.jsonl").write_text(lines.replace("Q:", f"{name}:"))
    path = tmp_path / "r.toml"
    path.write_text(
        '[model]\nname_or_path = "owner/model"\n[data]\ncontrol_samples = 4\nreport_samples = 4\n'
        '[[tasks]]\nname = "add"\npath = "add.jsonl"\n'
        'control_path = "add.control.jsonl"\nreport_path = "add.report.jsonl"\n'
    )
    return path


def exit_code(error: BaseException) -> int:
    with pytest.raises(typer.Exit) as caught, told_errors():
        raise error
    return caught.value.exit_code


def test_version() -> None:
    result = RUNNER.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"msft-lite {msft_lite.__version__}\n")


def test_schema_is_json() -> None:
    result = RUNNER.invoke(app, ["schema"])
    assert result.exit_code == 0
    assert {"model", "tasks"} <= json.loads(result.stdout)["properties"].keys()


def test_plan_prints_the_assumption_and_the_totals(recipe: Path) -> None:
    result = RUNNER.invoke(app, ["plan", str(recipe), "method.budget=1"])
    assert result.exit_code == 0
    assert "assumed: the task is best at epoch 1.25" in result.stdout
    assert "optimizer steps" in result.stdout
    assert "owner/model is not in a local folder" in result.stdout


def test_a_users_error_is_one_message_on_standard_error(recipe: Path) -> None:
    result = RUNNER.invoke(app, ["plan", str(recipe), "method.budgt=1"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: {recipe}: method.budgt = 1")
    assert "did you mean 'budget'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_messages_are_neither_wrapped_nor_marked_up(capsys: pytest.CaptureFixture[str]) -> None:
    text = "/a folder/[bold]x[/bold].jsonl " * 20
    assert exit_code(DataError(text)) == 2
    assert capsys.readouterr().err == f"error: {text}\n"


@pytest.fixture
def signals() -> Iterator[None]:
    """Gives back what a command that ends takes over."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("error", [Interrupted("stopped"), KeyboardInterrupt()])
def test_an_interruption_exits_130_whatever_signals_follow(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(error) == 130
    for number in SIGNALS:
        signal.raise_signal(number)
    captured = capsys.readouterr().err
    assert captured
    assert "error" not in captured


def test_any_other_exception_is_a_bug_with_a_short_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(ZeroDivisionError("x[0]")) == 1
    captured = capsys.readouterr().err
    assert "ZeroDivisionError: x[0]" in captured
    assert "bug in msft-lite" in captured


def test_resume_and_overwrite_exclude_each_other(recipe: Path) -> None:
    result = RUNNER.invoke(app, ["run", str(recipe), "--resume", "--overwrite"])
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_no_arguments_shows_the_commands() -> None:
    result = RUNNER.invoke(app, [])
    for command in ("run", "resume", "plan", "check", "show-data", "tasks", "report", "schema"):
        assert command in result.output


def test_light_commands_import_no_torch(recipe: Path) -> None:
    for arguments in (["plan", str(recipe)], ["schema"], ["tasks"], ["tasks", "sciq"]):
        assert_light(*arguments)
