"""Metrics: what an output is worth."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import string
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsFloat

from msft_lite.core import MILLION
from msft_lite.data.grade import Grader
from msft_lite.errors import DataError

LOSS = "loss"  # the metric that is computed by the trainer, not from an output
SLACK = 0.5 / MILLION  # scores are kept in millionths, so 1.0000001 is 1

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Metric:
    """What an output is worth.

    Attributes:
        name: ``accuracy``, ``f1``, ``loss``, or ``module:function``; a module's file is named
            without its folder, so that a run that was moved stays the same run.
        is_graded: whether a row can be worth anything but 0 and 1.
        worth: worth of an output (first argument) given the gold (second), between 0 and 1; of
            the metric ``loss`` it is not asked. A function of the user's own that fails, or
            returns anything else, raises a DataError.
        digest: sha256 of the source file of a function of the user's own; empty otherwise.
    """

    name: str
    is_graded: bool
    worth: Callable[[str, str], float]
    digest: str = ""


def build_metric(name: str, grader: Grader) -> Metric:
    """Returns the metric called ``name``.

    Args:
        name: ``accuracy``, ``f1``, ``loss``, ``package.module:function`` or
            ``/folder/file.py:function``. Only then is code of the user's own run.
        grader: of the task; tells ``accuracy`` what is right and ``f1`` which part counts.

    Raises:
        DataError: the function cannot be imported or takes other arguments.
    """
    if name == "accuracy":
        return Metric(name, is_graded=False, worth=lambda out, gold: float(grader.grade(out, gold)))
    if name == "f1":
        return Metric(name, is_graded=True, worth=lambda out, gold: f1(grader.extract(out), gold))
    if name == LOSS:
        return Metric(name, is_graded=True, worth=_not_asked)
    return _own(name)


def f1(found: str, gold: str) -> float:
    """Returns the F1 of the words of ``found`` against those of ``gold``, as SQuAD counts them.

    In lower case, without ASCII punctuation and articles; a word counts as often as both have it.
    Ours: a gold without any other word, such as ``A``, must be found as it stands.

    Source: Rajpurkar et al., arXiv 1606.05250, section 6.1.
    """
    ours, theirs = _words(found), _words(gold)
    if not theirs:
        return float(found.strip().lower() == gold.strip().lower())
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def _not_asked(output: str, gold: str) -> float:
    raise NotImplementedError(f"the metric {LOSS} comes from the trainer, not from an output")


def _own(name: str) -> Metric:
    """Returns the metric that a function of the user's own computes."""
    module, _, attribute = name.rpartition(":")
    path = Path(module)
    shown = f"{path.name}:{attribute}"
    values, source = _of_file(path, shown) if path.is_absolute() else _of_module(module, shown)
    function = _function(values, attribute, shown)
    return Metric(
        shown,
        is_graded=True,
        worth=lambda output, gold: _checked(shown, function, output, gold),
        digest=hashlib.sha256(source).hexdigest(),
    )


def _of_file(path: Path, metric: str) -> tuple[Mapping[str, Any], bytes]:
    """Returns what the file defines, and its bytes: the same that ran, whatever caches hold."""
    try:
        source = path.read_bytes()
    except OSError as error:
        raise DataError(f"metric {metric!r}: cannot read {path}: {error.strerror}") from None
    # In sys.modules, because dataclasses look themselves up there.
    module = ModuleType(f"msft_lite_metric_{hashlib.sha256(source).hexdigest()[:16]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise DataError(f"metric {metric!r}: cannot import {path}: {_told(error)}") from None
    return vars(module), source


def _of_module(module: str, metric: str) -> tuple[Mapping[str, Any], bytes]:
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise DataError(
            f"metric {metric!r}: cannot import {module}: {_told(error)}; is it installed, or on "
            "PYTHONPATH? A file is named by its path: folder/file.py:function"
        ) from None
    spec = imported.__spec__
    if spec is None or spec.origin is None or not spec.has_location:
        raise DataError(f"metric {metric!r}: {module} has no file to tell its versions by")
    return vars(imported), Path(spec.origin).read_bytes()


def _function(values: Mapping[str, Any], attribute: str, metric: str) -> Callable[..., object]:
    function = values.get(attribute)
    if not callable(function):
        found = "nothing" if function is None else f"of type {type(function).__name__}"
        raise DataError(f"metric {metric!r}: a function is needed, {attribute} is {found} there")
    try:
        inspect.signature(function).bind("output", "gold")
    except TypeError as error:
        raise DataError(
            f"metric {metric!r}: it is called with two texts, the output and the gold: {error}"
        ) from None
    except ValueError:  # a function in C may not tell its arguments
        pass
    return function


def _checked(metric: str, function: Callable[..., object], output: str, gold: str) -> float:
    """Returns what ``function`` makes of an output if it is a number from 0 to 1."""
    place = f"metric {metric!r} on the output {output[:60]!r} (gold {gold[:60]!r})"
    try:
        found = function(output, gold)
        worth = float(found) if isinstance(found, SupportsFloat) else None
    except (Exception, SystemExit) as error:
        raise DataError(f"{place}: {_told(error)}") from None
    if worth is None or not -SLACK <= worth <= 1.0 + SLACK:  # written so that nan fails
        raise DataError(f"{place}: it returned {found!r}; needed is a number from 0 to 1")
    return worth


def _told(error: BaseException) -> str:
    """Returns the error in one line, with the place in the user's code where it arose."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    others = (__file__, importlib.__file__)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename not in others and not f.filename.startswith("<frozen")]
    place = f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""
    return text.replace("\n", " ") + place
