"""Puts a page together: sections filled into a template that escapes every text."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msft_lite.report.page.costs import disk_panel, mean_panel, seconds_panel
from msft_lite.report.page.curves import loss_panels, score_panels
from msft_lite.report.page.ground import MOST_POINTS, scene_of
from msft_lite.report.page.headline import headline, settings_grids
from msft_lite.report.page.material import Material
from msft_lite.report.page.spending import disk_held, training_spent
from msft_lite.report.page.svg import Element, markup
from msft_lite.report.page.texts import NAME_LENGTH, cut, shortened, visible_lines
from msft_lite.report.page.tree import tree
from msft_lite.report.story import Story
from msft_lite.report.tables import Grid, control_grid, cost_grid, report_grid, rollout_grid
from msft_lite.report.wording import duration

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Leaver:
    """Why a task left."""

    n: int
    task: str
    reason: str


def page_html(material: Material, *, version: str = "") -> str:
    """Returns the page as one HTML document that asks for no other file.

    Args:
        material: what the run has recorded.
        version: of a page that is served: what ``/state`` says while the page is up to date. With
            one the page asks for it every two seconds; without one it asks for nothing.
    """
    story, scene = material.story, scene_of(material.story)
    spent, held = training_spent(story), disk_held(story)
    seconds = story.totals().spending.seconds
    return _document(
        title=f"{shortened(story.setting.method, NAME_LENGTH)}: {shortened(material.name)}",
        heading=f"Run with {shortened(story.setting.method, NAME_LENGTH)}",
        headline=headline(story),
        version=version,
        story=story,
        score_grids=_score_grids(story),
        score_panels=score_panels(scene),
        tree=tree(scene),
        mean=mean_panel(scene, spent),
        spent=spent,
        disk=None if held is None or not scene.marks else disk_panel(scene, held),
        seconds=seconds_panel(seconds),
        cost_notes=cost_grid(story).notes,
        whole_time=duration(sum(seconds.values())),
        loss_panels=loss_panels(scene),
        rollout_grid=rollout_grid(story),
        leavers=_leavers(story),
        settings_grids=settings_grids(story),
        recipe=visible_lines(material.recipe),
        examples=material.examples,
        has_points=len(scene.marks) <= MOST_POINTS,
        traits=_traits(story),
    )


def notice_html(title: str, text: str, *, version: str) -> str:
    """Returns a served page that only says ``text``, while there is nothing to show."""
    return _document(title=title, heading=title, headline=text, version=version, story=None)


def _document(**content: object) -> str:
    """Returns the template filled; its policy allows its own style and script and nothing else."""
    style, script = (_text(name) for name in ("style.css", "page.js"))
    is_live = bool(content["version"])
    page = _environment().get_template("page.html")
    made = {"style": style, "script": script, "policy": policy(is_live=is_live)}
    return page.render(content, **made).lstrip()


def policy(*, is_live: bool) -> str:
    """Returns the page's content security policy; a served page may ask its own server."""
    style, script = (_digest(_text(name)) for name in ("style.css", "page.js"))
    own = "; connect-src 'self'" if is_live else ""
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; img-src data:; "
        f"base-uri 'none'; form-action 'none'{own}"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def drawn(element: Element) -> Markup:
        return Markup(markup(element))

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {"drawn": drawn, "shortened": shortened, "cut": cut}
    environment.filters.update(filters)  # pyright: ignore[reportUnknownMemberType]
    return environment


def _score_grids(story: Story) -> tuple[Grid, ...]:
    first = () if story.finish is None else (report_grid(story),)
    return (*first, control_grid(story))


def _leavers(story: Story) -> tuple[Leaver, ...]:
    return tuple(
        Leaver(rollout.n, drop.task, drop.reason)
        for rollout in story.rollouts
        for drop in rollout.drops
    )


@dataclass(frozen=True, slots=True)
class Traits:
    """What a story has of that a legend must name."""

    is_finished: bool
    has_drops: bool
    has_excluded: bool
    has_back: bool
    has_many: bool
    is_planned: bool


def _traits(story: Story) -> Traits:
    return Traits(
        is_finished=story.finish is not None,
        has_drops=any(rollout.drops for rollout in story.rollouts),
        has_excluded=any(len(r.tasks) < len(story.tasks) for r in story.rollouts),
        has_back=story.totals().rolled_back_steps > 0,
        has_many=len(story.rollouts) > 1,
        is_planned=any(not rollout.is_complete for rollout in story.rollouts),
    )
