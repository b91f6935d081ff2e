"""Types of a recipe's keys: what a value may be, and how the paths among them are resolved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from msft_lite.errors import did_you_mean

KEY_PROBLEM = "key_problem"  # type of the errors below: `key` is appended to their location
METRICS = ("accuracy", "f1", "loss")
METRIC_PATTERN = r"^(accuracy|f1|loss|.+:[A-Za-z_][A-Za-z0-9_]*)$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"  # task names become parts of file names


class FileText(str):
    """A text that knows the folder of the file it stands in.

    A recipe may be read from several files, and only the types below tell which of its texts are
    paths.
    """

    __slots__ = ("folder",)

    def __new__(cls, text: str, folder: Path) -> FileText:
        made = super().__new__(cls, text)
        made.folder = folder
        return made

    def __deepcopy__(self, memo: object) -> FileText:
        return self  # texts do not change


class Table(BaseModel):
    """A strict table: no unknown keys, no conversions between types, no infinities."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def problem(key: str, message: str) -> PydanticCustomError:
    """Returns an error about ``key`` of the table at hand; '' for the table itself."""
    return PydanticCustomError(KEY_PROBLEM, "{message}", {"key": key, "message": message})


def anchored(text: str | Path, folder: Path) -> Path:
    """Returns a path made absolute against ``folder``.

    Links are kept as they are written: a virtual environment's interpreter and the files of a
    download cache are links whose targets have other names.
    """
    if not str(text) or "\0" in str(text):
        raise problem("", "a path is needed")
    path = folder / home_expanded(text)
    # Only the file system can tell where ".." leads: it may follow a link.
    return path.parent.resolve() / path.name if ".." in path.parent.parts else path


def home_expanded(value: str | Path) -> Path:
    """Returns ``value`` with a leading ``~`` replaced by the home folder."""
    try:
        return Path(value).expanduser()
    except RuntimeError:  # no such user
        return Path(value)


def absolute_path(value: Any, info: ValidationInfo) -> Any:
    """Returns a path made absolute against the folder of its file, or the validation's folder."""
    return anchored(value, _folder(value, info)) if isinstance(value, str | Path) else value


def working_path(value: Any) -> Any:
    """Returns a path made absolute against the working folder, whatever holds the recipe."""
    return anchored(value, Path.cwd()).resolve() if isinstance(value, str | Path) else value


def model_source(value: Any, info: ValidationInfo) -> Any:
    """Returns an absolute folder, or a hub name such as ``Qwen/Qwen2.5-0.5B`` unchanged."""
    if not isinstance(value, str) or not value:
        return value
    folder = anchored(value, _folder(value, info))
    if value.startswith((".", "/", "~")) or folder.is_dir():
        return str(folder)
    if value.count("/") > 1 or "\\" in value or " " in value:
        raise problem("", f"no folder {folder}; a model on the hub is named as owner/name")
    return value


def metric_source(value: Any, info: ValidationInfo) -> Any:
    """Returns the name of a metric, or module:function; a module's file is made absolute."""
    if not isinstance(value, str) or value in METRICS:
        return value
    module, _, function = value.rpartition(":")
    if re.fullmatch(METRIC_PATTERN, value):
        if module.endswith(".py"):
            return f"{anchored(module, _folder(value, info))}:{function}"
        if all(part.isidentifier() for part in module.split(".")):
            return value
    raise problem(
        "",
        f"must be one of {', '.join(map(repr, METRICS))}, or a function of your own as "
        f"package.module:name or file.py:name{did_you_mean(value, METRICS)}",
    )


def target_modules(value: Any) -> Any:
    """Returns "all-linear" or a tuple of module names."""
    if isinstance(value, list | tuple):
        names = tuple(cast(list[Any] | tuple[Any, ...], value))
        if names and all(isinstance(name, str) and name for name in names):
            return names
    elif value == "all-linear":
        return value
    raise problem("", 'needed is "all-linear" or a list of names such as ["q_proj", "v_proj"]')


def layer_interval(value: Any) -> Any:
    """Returns true, false, a number of layers, or ``auto``."""
    if isinstance(value, bool) or (isinstance(value, int) and value >= 1) or value == "auto":
        return value
    raise problem(
        "", 'needed is true, false, "auto", or a whole number k from 1 on: every k-th layer'
    )


def true_false_or_auto(value: Any) -> Any:
    """Returns true, false or ``auto``."""
    if isinstance(value, bool) or value == "auto":
        return value
    raise problem("", 'needed is true, false or "auto"')


def regular_expression(value: str) -> str:
    """Returns ``value`` if it is a regular expression."""
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise problem("", f"is not a regular expression: {error}") from None
    return value


def _folder(value: str | Path, info: ValidationInfo) -> Path:
    if isinstance(value, FileText):
        return value.folder
    return info.context["folder"] if info.context else Path.cwd()


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fraction01 = Annotated[float, Field(ge=0.0, lt=1.0)]
Seconds = Annotated[float, Field(gt=0.0)]
Text = Annotated[str, Field(min_length=1)]
RecipePath = Annotated[Path, BeforeValidator(absolute_path)]
WorkingPath = Annotated[Path, BeforeValidator(working_path)]
ModelSource = Annotated[Text, BeforeValidator(model_source)]
MetricSource = Annotated[str, BeforeValidator(metric_source), Field(pattern=METRIC_PATTERN)]
Pattern = Annotated[Text, AfterValidator(regular_expression)]
