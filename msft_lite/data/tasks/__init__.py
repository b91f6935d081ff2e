"""The presets: benchmarks that a recipe names without saying where their rows lie."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msft_lite.data.tasks import (
    aqua_rat,
    arc_challenge,
    arc_easy,
    boolq,
    commonsenseqa,
    gsm8k,
    hellaswag,
    medmcqa,
    mmlu,
    openbookqa,
    piqa,
    sciq,
    svamp,
    winogrande,
)
from msft_lite.data.tasks.preset import Preset
from msft_lite.errors import DataError, did_you_mean

# The paper's ten, in its order; then further ones.
_MODULES = (
    commonsenseqa,
    openbookqa,
    aqua_rat,
    gsm8k,
    sciq,
    arc_easy,
    hellaswag,
    winogrande,
    boolq,
    medmcqa,
    arc_challenge,
    piqa,
    mmlu,
    svamp,
)
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {module.PRESET.name: module.PRESET for module in _MODULES}
)


def preset(name: str) -> Preset:
    """Returns the preset called ``name``.

    Raises:
        DataError: there is none.
    """
    if name not in PRESETS:
        raise DataError(
            f"no preset is called {name!r}{did_you_mean(name, PRESETS)}; `msft-lite tasks` lists "
            "them. Own rows need path, or dataset and split"
        )
    return PRESETS[name]
