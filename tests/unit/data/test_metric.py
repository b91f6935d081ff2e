"""What an output is worth: by hand, and by functions of the user's own, good and bad."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from msft_lite.data.grade import grader
from msft_lite.data.metric import Metric, build_metric, f1
from msft_lite.errors import DataError

GOOD = """
from __future__ import annotations
from dataclasses import dataclass
from fractions import Fraction

@dataclass
class Part:
    size: int

def half(output, gold):
    return 0.5

def same(output, gold):
    return output == gold

def part(output, gold):
    return Fraction(Part(len(output)).size, 4)

def rounded(output, gold):
    return 1.0000001

def length(output, gold):
    return len(output)

def nothing(output, gold):
    pass

def text(output, gold):
    return "0.5"

def nan(output, gold):
    return float("nan")

def below(output, gold):
    return -0.1

def broken(output, gold):
    return 1 / len(output)

def leaving(output, gold):
    raise SystemExit

def lonely(output):
    return 1

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scores.py"
    path.write_text(GOOD)
    return path


def own(file: Path, function: str) -> Metric:
    return build_metric(f"{file}:{function}", grader("marked"))


def test_accuracy_is_what_the_grader_says() -> None:
    metric = build_metric("accuracy", grader("marked"))
    assert (metric.name, metric.is_graded, metric.digest) == ("accuracy", False, "")
    assert metric.worth("so #### 7.0", "7") == 1.0
    assert metric.worth("7 or 8", "7") == 0.0


@pytest.mark.parametrize(
    ("found", "gold", "worth"),
    [
        ("the red dog", "a red dog", 1),
        ("Red, dog!", "red dog", 1),
        ("red", "red dog", 2 / 3),  # precision 1, recall 1/2
        ("red dog barks", "red cat barks", 2 / 3),
        ("dog dog", "dog", 2 / 3),  # one of two counts
        ("dog dog", "dog dog dog", 4 / 5),
        ("cat", "dog", 0),
        ("", "dog", 0),
        ("the", "dog", 0),
        ("doghouse", "dog", 0),
        ("another", "other", 0),  # an article is a word, not a part of one
        ("it's", "its", 1),
        ("dog\n  red", "red dog", 1),
        ("a", "A", 1),  # nothing but an article
        ("", "A", 0),
        ("B", "A", 0),
        ("...", "...", 1),
    ],
)
def test_f1_counts_words(found: str, gold: str, worth: float) -> None:
    assert f1(found, gold) == pytest.approx(worth, abs=1e-12)  # rounding of a division


def test_f1_looks_at_the_part_that_counts() -> None:
    metric = build_metric("f1", grader("marked"))
    assert metric.is_graded
    assert metric.worth("the dog barks #### red dog.", "dog") == pytest.approx(2 / 3)


def test_the_loss_is_not_asked_of_an_output() -> None:
    metric = build_metric("loss", grader("marked"))
    assert (metric.name, metric.is_graded) == ("loss", True)
    with pytest.raises(NotImplementedError):
        metric.worth("7", "7")


@pytest.mark.parametrize(
    ("function", "worth"), [("half", 0.5), ("same", 0.0), ("part", 0.75), ("rounded", 1.0000001)]
)
def test_a_function_in_a_file(file: Path, function: str, worth: float) -> None:
    metric = own(file, function)
    assert metric.worth("red", "dog") == worth
    assert (metric.name, metric.is_graded) == (f"scores.py:{function}", True)
    assert metric.digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert list(file.parent.iterdir()) == [file]  # nothing is written beside it


def test_a_changed_file_is_read_anew(file: Path) -> None:
    before = own(file, "half")
    file.write_text(GOOD.replace("0.5", "0.7"))
    after = own(file, "half")
    assert (before.worth("", ""), after.worth("", "")) == (0.5, 0.7)
    assert before.digest != after.digest


def test_a_function_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package_of_test").mkdir()
    source = "def half(output, gold):\n    return 0.5\n"
    (tmp_path / "own_package_of_test" / "scores.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    metric = build_metric("own_package_of_test.scores:half", grader("marked"))
    assert metric.name == "own_package_of_test.scores:half"
    assert metric.worth("red", "dog") == 0.5
    assert metric.digest == hashlib.sha256(source.encode()).hexdigest()


@pytest.mark.parametrize("name", ["accuracy", "f1", "loss"])
def test_nothing_is_imported_for_a_metric_of_ours(name: str) -> None:
    before = set(sys.modules)
    build_metric(name, grader("marked"))
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("length", r"returned 12; needed is a number from 0 to 1"),
        ("nothing", r"returned None; needed"),
        ("text", r"returned '0\.5'; needed"),
        ("nan", r"returned nan; needed"),
        ("below", r"returned -0\.1; needed"),
        ("leaving", r"SystemExit \(line \d+ of .*scores\.py\)"),
    ],
)
def test_what_a_function_returns_is_checked(file: Path, function: str, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        own(file, function).worth("a red\nanswer", "gold")
    place = rf"metric 'scores.py:{function}' on the output 'a red\nanswer' (gold 'gold'): "
    assert str(caught.value).startswith(place)


def test_a_function_that_fails_is_told_with_its_line(file: Path) -> None:
    line = GOOD.splitlines().index("    return 1 / len(output)") + 1
    with pytest.raises(DataError, match=rf"ZeroDivisionError: .* \(line {line} of {file}\)"):
        own(file, "broken").worth("", "gold")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent.py:f", r"cannot read .*absent\.py: No such file"),
        ("scores.py:absent", r"absent is nothing there"),
        ("scores.py:number", r"number is of type int there"),
        ("scores.py:lonely", r"called with two texts.*too many positional arguments"),
        ("syntax.py:f", r"cannot import .*syntax\.py: SyntaxError: .*line 2"),
        ("needy.py:f", r"ModuleNotFoundError: No module named 'absent_of_test' \(line 1 of .*need"),
        ("quitting.py:f", r"cannot import .*quitting\.py: SystemExit: 3 \(line 1 of "),
    ],
)
def test_a_file_that_cannot_be_used(file: Path, name: str, told: str) -> None:
    (file.parent / "syntax.py").write_text("x = 1\ndef f(:\n")
    (file.parent / "needy.py").write_text("import absent_of_test\n")
    (file.parent / "quitting.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(DataError, match=told) as caught:
        build_metric(f"{file.parent}/{name}", grader("marked"))
    assert str(caught.value).startswith(f"metric {name!r}: ")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent_of_test.scores:f", r"No module named 'absent_of_test'; is it installed, or on PY"),
        ("sys:getsizeof", r"sys has no file"),
        ("json:absent", r"absent is nothing there"),
    ],
)
def test_a_module_that_cannot_be_used(name: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        build_metric(name, grader("marked"))
