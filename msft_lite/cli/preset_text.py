"""How presets are printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from msft_lite.cli.texts import masked_legend, print_pieces, print_text, print_title
from msft_lite.data.tasks.items import shot_rows
from msft_lite.data.tasks.preset import Hub, Preset
from msft_lite.report.tables import Grid, rich_grid
from msft_lite.run.samples import Piece

USE_COLUMNS = ("Task ", "Domain ", "Train", "Control", "Report", "Shots", "Grade ", "Tokens")
SOURCE_COLUMNS = ("Task ", "Dataset on the hub ", "Licence ")
CARVED = "carved"


def print_presets(presets: Sequence[Preset], console: Console) -> None:
    """Prints what each preset is good for, and where its rows come from."""
    uses = Grid(
        "Presets",
        USE_COLUMNS,
        tuple(_use(preset) for preset in presets),
        notes=(
            "Rows of the published splits; carved: taken from the training rows. Tokens: most of "
            "an answer.",
        ),
    )
    sources = Grid("Sources", SOURCE_COLUMNS, tuple(_source(preset) for preset in presets))
    for grid in (uses, sources):
        console.print(rich_grid(grid, width=console.width))


def print_preset(preset: Preset, console: Console) -> None:
    """Prints what ``preset`` trains on and what it asks, as text."""
    print_presets([preset], console)
    shots = shot_rows(preset)
    print_title(f"training text; no loss: {masked_legend(console)}", console)
    first = shots[0]
    print_pieces([Piece(first.prompt, False), Piece(first.answer, True)], console)
    console.print("The end-of-text token follows, with loss.")
    print_title(f"prompt with {len(shots)} shots; ▮: the question follows in their form", console)
    print_text("\n\n".join([*(row.prompt + row.answer for row in shots), "▮"]), console)


def _use(preset: Preset) -> tuple[str, ...]:
    hub = preset.hub
    return (
        preset.name,
        preset.domain,
        _rows(hub, hub.train),
        _rows(hub, hub.control),
        _rows(hub, hub.report),
        str(len(preset.shots)),
        preset.grade,
        str(preset.max_new_tokens),
    )


def _rows(hub: Hub, split: str | None) -> str:
    return CARVED if split is None else f"{hub.rows[split]:,}"


def _source(preset: Preset) -> tuple[str, ...]:
    hub = preset.hub
    dataset = f"{hub.dataset}:{hub.configuration}" if hub.configuration else hub.dataset
    return (preset.name, dataset, preset.licence)
