"""Recipes: the TOML file that describes a run, checked in full before anything is loaded.

`load` reads a file, those that it extends and the changes from the command line and returns a
`Recipe` in which every path is absolute and every default filled in, or raises one error that lists
all problems. The keys stand in `models` and `method_tables`, their types in `keys`, what several
tables must agree on in `rules`, the wording of the problems in `problems`.
"""

from __future__ import annotations

from msft_lite.recipe.load import (
    MEMORY_KEYS,
    differing,
    digest,
    dump_toml,
    json_schema,
    load,
    samples,
)
from msft_lite.recipe.method_tables import METHOD_TABLES, MsftTable, SftTable
from msft_lite.recipe.models import (
    DataTable,
    EngineTable,
    EvalTable,
    ModelTable,
    Recipe,
    TrainTable,
)
from msft_lite.recipe.several import ALL_METHODS, Variant, load_several
from msft_lite.recipe.task_table import TaskTable

__all__ = [
    "ALL_METHODS",
    "MEMORY_KEYS",
    "METHOD_TABLES",
    "DataTable",
    "EngineTable",
    "EvalTable",
    "ModelTable",
    "MsftTable",
    "Recipe",
    "SftTable",
    "TaskTable",
    "TrainTable",
    "Variant",
    "differing",
    "digest",
    "dump_toml",
    "json_schema",
    "load",
    "load_several",
    "samples",
]
