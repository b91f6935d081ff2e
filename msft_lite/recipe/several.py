"""A recipe for several runs: the same in everything but method and seed."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from msft_lite.errors import RecipeError
from msft_lite.recipe.load import read_draft
from msft_lite.recipe.models import Recipe

# What `msft-lite compare` runs where a recipe names no methods: those of the paper, its own last.
ALL_METHODS = ("sft", "continual", "sro", "soft_sro", "dynamix", "ies", "msft")
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9.]+")


@dataclass(frozen=True, slots=True)
class Variant:
    """One run of a comparison; ``label`` tells its method from the others, without the seed."""

    label: str
    recipe: Recipe


def load_several(path: Path, overrides: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Returns the runs that the recipe at ``path`` describes, seed after seed.

    ``methods`` lists names, or tables as [method] is one; all of the paper's where it is left out.
    Options in [method] are those of the method it names; ``signal`` there goes for all. ``seeds``
    lists seeds; the recipe's own where it is left out. Each run has a folder of its own in
    ``output_dir``, called by its label, and by its seed where there are several.

    Raises:
        RecipeError: a file, an override, or one of the runs cannot be used.
    """
    draft = read_draft(path, overrides)
    document = dict(draft.document)
    methods = _methods(document.pop("methods", list(ALL_METHODS)), path)
    seeds = _seeds(document.pop("seeds", [document.get("seed", 20)]), path)
    parent = Path(str(document.get("output_dir", f"runs/{path.stem}")))
    variants: list[Variant] = []
    for seed in seeds:
        for label, method in methods.items():
            folder = parent / label / (f"seed-{seed}" if len(seeds) > 1 else "")
            own = copy.deepcopy(document)
            own |= {
                "method": method_table(document, method),
                "seed": seed,
                "output_dir": str(folder),
            }
            variants.append(Variant(label, draft.recipe(own)))
    return tuple(variants)


def _methods(value: object, path: Path) -> dict[str, Mapping[str, Any]]:
    """Returns the table of every method by its label."""
    entries = cast(list[Any], value) if isinstance(value, list) else []
    tables: list[Any] = [{"name": e} if isinstance(e, str) else e for e in entries]
    if not tables or not all(_is_named(table) for table in tables):
        raise RecipeError(
            f"{path}: methods = {value!r}: needed is a list of names, or of tables with a name, "
            'such as ["sft", { name = "msft", budget = 1 }]'
        )
    names = [table["name"] for table in tables]
    found = {_label(table, is_alone=names.count(table["name"]) == 1): table for table in tables}
    if len(found) < len(tables):
        raise RecipeError(f"{path}: methods = {value!r} names one twice; take it out")
    return found


def _is_named(table: object) -> bool:
    return isinstance(table, dict) and isinstance(cast(dict[str, Any], table).get("name"), str)


def _label(method: Mapping[str, Any], *, is_alone: bool) -> str:
    """Returns the name, with the options that are given if others have it: ``msft-budget-1``."""
    options = [] if is_alone else [(key, str(v)) for key, v in method.items() if key != "name"]
    parts = (method["name"], *(part for option in options for part in option))
    return "-".join(_NOT_IN_LABELS.sub("_", part) for part in parts)


def method_table(document: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``method`` with the options that it leaves out and [method] of ``document`` has.

    Those are all of them where both name one method, else ``signal`` alone.
    """
    given = document.get("method", {})
    below = cast(dict[str, Any], given) if isinstance(given, dict) else {}
    if below.get("name", "msft") != method["name"]:
        below = {key: value for key, value in below.items() if key == "signal"}
    return {**below, **method}


def _seeds(value: object, path: Path) -> list[int]:
    seeds = cast(list[Any], value) if isinstance(value, list) else []
    if not seeds or not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise RecipeError(f"{path}: seeds = {value!r}: needed is a list of different whole numbers")
    return cast(list[int], seeds)
