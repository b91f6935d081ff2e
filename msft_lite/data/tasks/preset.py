"""What a preset is: where a benchmark's rows come from and how they become text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Domain = Literal["science and knowledge", "commonsense and language", "mathematical"]


@dataclass(frozen=True, slots=True)
class Hub:
    """A dataset on the hub, pinned.

    Attributes:
        dataset: ``owner/name``.
        revision: commit of the dataset's repository; None follows its main branch.
        configuration: name of the configuration, empty if it has one only.
        train: split to train on; likewise ``control`` and ``report``. None is carved from train.
        rows: rows of each of those splits, as published.
    """

    dataset: str
    revision: str | None
    configuration: str
    train: str
    control: str | None
    report: str | None
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Item:
    """A row in the common form that every preset's hub rows are mapped to.

    Local files of presets hold this form, one JSON object a line: ``id``, ``question``,
    ``choices``, ``answer``, ``rationale``, ``context``, ``subject``; null where there is none.

    Attributes:
        answer: letter of the right choice, or the answer itself where there are no choices.
    """

    question: str
    answer: str
    choices: tuple[str, ...] = ()
    rationale: str = ""
    context: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Preset:
    """A benchmark.

    Attributes:
        name: what recipes call it.
        to_item: maps a hub row to the common form; raises DataError where it cannot, such as for a
            row whose answer is withheld. The message does not say where.
        to_text: returns question and answer as they are trained on, ``Q: ..\\nA: `` and
            ``#### B``; raises DataError as ``to_item`` does.
        shots: solved items, written for this project, shown before each question.
        grade: name of the grader.
        max_new_tokens: enough for a right answer in the form of ``to_text``.
        file_stem: start of its local files' names where it is not ``name``.
        licence: of the data.
    """

    name: str
    domain: Domain
    licence: str
    hub: Hub
    to_item: Callable[[Mapping[str, object]], Item]
    to_text: Callable[[Item], tuple[str, str]]
    shots: tuple[Item, ...]
    max_new_tokens: int
    grade: str = "marked"
    file_stem: str = ""
