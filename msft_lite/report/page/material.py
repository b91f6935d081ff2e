"""Everything a page is made of, read from a run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from msft_lite.ledger import read_rows
from msft_lite.report.page.examples import FILE_NAME, Examples, read_examples
from msft_lite.report.story import Story
from msft_lite.report.telling import tell

LEDGER_NAME, RECIPE_NAME = "ledger.jsonl", "recipe.toml"
_MOST_RECIPE_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class Material:
    """What is known of a run.

    Attributes:
        recipe: text of the resolved recipe, empty where there is no such file.
    """

    name: str
    story: Story
    recipe: str = ""
    examples: Examples = field(default_factory=Examples)


def read_material(folder: Path) -> Material:
    """Returns what the run in ``folder`` has recorded so far.

    Raises:
        LedgerError: the ledger is missing or damaged.
    """
    ledger = folder / LEDGER_NAME
    story = tell(read_rows(ledger), source=str(ledger))
    return Material(
        folder.resolve().name, story, _recipe(folder / RECIPE_NAME), read_examples(folder)
    )


def version_of(folder: Path) -> str:
    """Returns a text that changes when a file that the page is made of changes."""
    return "/".join(_state(folder / name) for name in (LEDGER_NAME, RECIPE_NAME, FILE_NAME))


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "-"
    return f"{found.st_size}.{found.st_mtime_ns}"


def _recipe(path: Path) -> str:
    """Returns the text; a recipe that cannot be read leaves its place empty."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_RECIPE_CHARACTERS)
    except OSError:
        return ""
