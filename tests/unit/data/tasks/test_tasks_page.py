"""What docs/tasks.md shows is what models are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from msft_lite.data.prompts import Encoder, encode_prompts, encode_rows
from msft_lite.data.rows import Row
from msft_lite.data.tasks import PRESETS
from msft_lite.data.tasks.items import shot_rows
from msft_lite.data.tasks.preset import Hub, Item, Preset

PAGE = (Path(__file__).parents[4] / "docs" / "tasks.md").read_text(encoding="utf-8")
END = "<|end|>"

# The questions on the page, written for it.
EXAMPLES: Mapping[str, Item] = {
    "commonsenseqa": Item(
        "Where does a gardener leave a wet spade to dry?",
        "D",
        ("piano", "letter box", "lake", "shed", "wardrobe"),
    ),
    "openbookqa": Item(
        "A shadow on a wall grows when the lamp",
        "A",
        ("comes nearer to the object", "is switched off", "is painted", "cools down"),
    ),
    "aqua_rat": Item(
        "A tap fills a 90 litre tub in 15 minutes. How many litres flow in 4 minutes?",
        "C",
        ("18", "20", "24", "26", "30"),
        "Flow = 90 / 15 = 6 litres a minute\nIn 4 minutes: 6 * 4 = 24 litres",
    ),
    "gsm8k": Item(
        "A hall has 12 rows of 10 chairs. 35 chairs are broken. How many can be used?",
        "85",
        rationale="The hall has 12*10 = <<12*10=120>>120 chairs.\n"
        "Of these 120-35 = <<120-35=85>>85 can be used.",
    ),
    "sciq": Item("What do we call a scientist who studies fossils?", "paleontologist"),
    "arc_easy": Item(
        "A wet shirt dries fastest on a day that is",
        "B",
        ("cold and still", "warm and windy", "cold and foggy", "warm and rainy"),
    ),
    "hellaswag": Item(
        "A man fills a bucket with soapy water next to a car. He",
        "C",
        (
            "drinks the bucket in one gulp.",
            "folds the car and puts it in a drawer.",
            "dips a sponge in it and wipes the hood.",
            "plants the sponge in the road.",
        ),
    ),
    "winogrande": Item(
        "Nadia painted the fence for Iris because _ had broken her arm.", "B", ("Nadia", "Iris")
    ),
    "boolq": Item(
        "can the ferry carry lorries",
        "False",
        context="The ferry takes sixty people and their bicycles. Cars and lorries use the bridge.",
    ),
    "medmcqa": Item(
        "A child who limps after a fall on the knee may have broken the",
        "A",
        ("patella", "sternum", "mandible", "scapula"),
    ),
    "arc_challenge": Item(
        "A ball is dropped from twice the height. Which quantity has doubled when it lands?",
        "D",
        ("its mass", "its speed", "its weight", "its kinetic energy"),
    ),
    "piqa": Item(
        "To see whether an egg is boiled,",
        "B",
        ("smell its shell.", "spin it on the table."),
    ),
    "mmlu": Item(
        "Which sorting method takes the least time on a list that is sorted already?",
        "A",
        ("insertion sort", "selection sort", "heap sort", "merge sort"),
    ),
    "svamp": Item("A box held 20 nails. 8 were bent. How many nails were straight?", "12"),
}


def row_of(name: str) -> Row:
    return Row("example", *PRESETS[name].to_text(EXAMPLES[name]))


def decoded(ids: tuple[int, ...], tokenizer: object) -> str:
    from transformers import PreTrainedTokenizerFast

    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    text = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("name", PRESETS)
def test_prompt_and_training_text(name: str, tiny_model_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    encoder = Encoder(tokenizer)
    row, shots = row_of(name), shot_rows(PRESETS[name])
    asked = decoded(encode_prompts([row], shots, encoder)[0], tokenizer)
    (pair,), _ = encode_rows([row], encoder)
    prompt, answer = (decoded(ids, tokenizer) for ids in (pair.prompt, pair.answer))
    assert asked.endswith(f"\n\n{prompt}")
    assert answer.endswith(END)
    assert f"\n### {name}\n\n```text\n{asked}{answer.removesuffix(END)}\n```\n" in PAGE


def line_of(preset: Preset) -> str:
    hub = preset.hub
    dataset = f"{hub.dataset}:{hub.configuration}" if hub.configuration else hub.dataset
    splits = (split_of(hub, split) for split in (hub.train, hub.control, hub.report))
    cells = (f"`{preset.name}`", preset.domain, preset.licence, f"`{dataset}`", *splits)
    return f"| {' | '.join(cells)} | {preset.max_new_tokens} |\n"


def split_of(hub: Hub, split: str | None) -> str:
    return "carved" if split is None else f"{split} {hub.rows[split]:,}"


@pytest.mark.parametrize("name", PRESETS)
def test_table(name: str) -> None:
    assert line_of(PRESETS[name]) in PAGE


def test_nothing_else_is_shown() -> None:
    shown = [line.removeprefix("### ") for line in PAGE.splitlines() if line.startswith("### ")]
    assert shown == list(PRESETS)
