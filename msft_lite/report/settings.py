"""What a run was started with, one line a value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from msft_lite.report.story import Story


def settings_rows(story: Story) -> list[tuple[str, str]]:
    """Returns key and value of all that the start row says, as ``rows.a.train`` where nested."""
    own: dict[str, object] = {
        "method": story.setting.method,
        "seed": story.setting.seed,
        "rows that steer": story.setting.steer_on,
        "marks per epoch": story.setting.marks_per_epoch,
    }
    facts = {**own, **story.setting.facts}
    return [row for key, value in facts.items() for row in _flat(key, value)]


def _flat(key: str, value: object) -> list[tuple[str, str]]:
    """Returns a row for ``value``, or one for each of its entries if it is an object."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, object]", value).items()
        return [row for name, entry in entries for row in _flat(f"{key}.{name}", entry)]
    return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]
