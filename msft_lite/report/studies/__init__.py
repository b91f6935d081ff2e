"""The studies of the paper, each a pure function of finished runs.

Each takes the runs by their label and returns a `Study`; `write_study` and `print_study` show it.
`TELLERS` has them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msft_lite.report.studies.budget import budget
from msft_lite.report.studies.decomposition import decomposition
from msft_lite.report.studies.files import STUDY, print_study, write_study
from msft_lite.report.studies.granularity import granularity
from msft_lite.report.studies.heterogeneity import heterogeneity
from msft_lite.report.studies.loss import loss
from msft_lite.report.studies.scale import scale
from msft_lite.report.studies.shift import shift
from msft_lite.report.studies.study import Line, Picture, Stories, Study

TELLERS: Mapping[str, Callable[[Stories], Study]] = {
    "heterogeneity": heterogeneity,
    "shift": shift,
    "budget": budget,
    "scale": scale,
    "granularity": granularity,
    "decomposition": decomposition,
    "loss": loss,
}

__all__ = [
    "STUDY",
    "TELLERS",
    "Line",
    "Picture",
    "Stories",
    "Study",
    "print_study",
    "write_study",
]
