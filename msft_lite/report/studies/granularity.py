"""Methods on the parts of one dataset as tasks of their own.

Source: Koh et al., arXiv 2603.21606, on the 21 subjects of MedMCQA: msft +1.86 and ies +0.29
points over sft.
"""

from __future__ import annotations

from msft_lite.report.compare import compare
from msft_lite.report.compare.figures import differences_figure
from msft_lite.report.compare.grids import differences_grid, methods_grid, scores_grid, whole_scale
from msft_lite.report.studies.study import Line, Picture, Stories, Study, better_up, signed
from msft_lite.report.wording import counted


def granularity(stories: Stories) -> Study:
    """Returns the study of one run each of sft and other methods."""
    comparison = compare({label: [story] for label, story in stories.items()})
    scale = better_up(whole_scale(comparison))
    told = ", ".join(
        f"{system.label} {signed(scale.factor * system.mean.difference.value, scale.digits)}"
        for system in comparison.others
    )
    lines: list[Line] = []
    for system in comparison.systems:
        for task, standing in {**system.tasks, "": system.mean}.items():
            lines.append(Line.of(system.label, task, "score", standing.score))
            if system.label != comparison.reference:
                lines.append(Line.of(system.label, task, "difference to sft", standing.difference))
    return Study(
        name="granularity",
        headline=f"mean over {counted(len(comparison.tasks), 'task')} against sft: {told}",
        grids=(methods_grid(comparison), scores_grid(comparison), differences_grid(comparison)),
        pictures=(Picture("differences", lambda: differences_figure(comparison)),),
        lines=tuple(lines),
        notes=comparison.notes,
    )
