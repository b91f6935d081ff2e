"""Every row of real benchmarks becomes text whose own answer is graded right."""

from __future__ import annotations

from pathlib import Path

import pytest

from msft_lite.data.files import read_records
from msft_lite.data.grade import grader
from msft_lite.data.tasks import PRESETS
from msft_lite.data.tasks.items import preset_row
from msft_lite.data.tasks.preset import Preset

DATA = Path(__file__).parents[3] / "shared" / "data"
CASES = [
    pytest.param(preset, path, id=path.stem)
    for preset in PRESETS.values()
    for path in sorted(DATA.glob(f"{preset.file_stem or preset.name}.*.jsonl"))
]


# Without data beside the repository there are no cases, and pytest skips the test.
@pytest.mark.parametrize(("preset", "path"), CASES)
def test_gold_is_graded_right(preset: Preset, path: Path) -> None:
    scored = grader(preset.grade)
    for record in read_records(path):
        row = preset_row(preset, record, local=True)
        gold = scored.gold_of(row.answer)
        right = row.answer.rpartition("#### ")[2]
        assert gold, row.where
        assert gold == right.removesuffix("."), row.where
        assert scored.grade(row.answer, gold), row.where
        assert not scored.grade(f"#### {gold} or not", gold), row.where
        assert "\n\n" not in row.prompt + row.answer, row.where
        if row.answer.startswith("#### "):
            # A token a byte, and the end-of-text token: no tokenizer needs more.
            assert len(row.answer.encode()) + 1 <= preset.max_new_tokens, row.where
