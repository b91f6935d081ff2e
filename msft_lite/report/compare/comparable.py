"""Whether runs can be compared: the same rows of the same tasks, asked of the same base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from msft_lite.errors import LedgerError
from msft_lite.report.story import Story

# What may differ between runs that are compared, but has to be said.
SAID = ("device", "dtype", "engine", "tuning")


def check_comparable(named: Sequence[tuple[str, Story]]) -> None:
    """Refuses runs whose scores are not of the same rows, base and protocol; seeds may differ.

    Args:
        named: the runs, each with what messages call it.

    Raises:
        LedgerError: two runs differ, or one is not finished; the message names the key and both
            values.
    """
    for name, story in named:
        if story.finish is None:
            raise LedgerError(f"{name} is not finished and cannot be compared; resume it first")
    (first_name, first), *others = named
    for name, story in others:
        for key, value in _keys(first).items():
            _check_same(key, (first_name, value), (name, _keys(story)[key]))


def _keys(story: Story) -> dict[str, object]:
    return {
        "tasks": sorted(story.names),
        "score": dict(story.setting.scores),
        "data": story.setting.facts.get("data"),
        "base": story.setting.facts.get("base"),
        "steer_on": story.setting.steer_on,
        "metric": dict(story.setting.metrics),
        "report rows": {task: len(score.rows) for task, score in story.finish.best.items()}
        if story.finish
        else {},
    }


def _check_same(key: str, first: tuple[str, object], second: tuple[str, object]) -> None:
    """Raises if the values differ; of two objects the first key that differs is named."""
    (name, value), (other_name, other) = first, second
    if value == other:
        return
    entries, others = _entries(value), _entries(other)
    if entries and others:
        entry = next(k for k in (*entries, *others) if entries.get(k) != others.get(k))
        parts = (name, entries.get(entry)), (other_name, others.get(entry))
        _check_same(f"{key}.{entry}", *parts)
    raise LedgerError(
        f"{name} and {other_name} cannot be compared: {key} = {_text(value)} in the first and "
        f"{_text(other)} in the second; compare runs on the same base and the same rows"
    )


def _entries(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return "nothing" if value is None else repr(value)


def said_differences(named: Sequence[tuple[str, Story]]) -> list[str]:
    """Returns a sentence for everything that differs, may differ, and should be known."""
    notes: list[str] = []
    for key in SAID:
        names: dict[str, list[str]] = {}
        for name, story in named:
            names.setdefault(str(story.setting.facts.get(key, "unknown")), []).append(name)
        if len(names) > 1:
            told = ", ".join(f"{value} ({', '.join(of)})" for value, of in names.items())
            notes.append(f"The runs differ in {key}: {told}.")
    return notes
