"""SVG as plain data: small functions make elements, one function writes them, and escapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from html import escape

from msft_lite.report.wording import visible

Place = tuple[float, float]  # x to the right and y downwards, in units of the view box


@dataclass(frozen=True, slots=True)
class Element:
    """An element; its texts are foreign until `markup` writes them."""

    tag: str
    attributes: Mapping[str, str]
    children: tuple[Element | str, ...] = ()

    def titled(self, title: str) -> Element:
        """Returns the element with ``title`` shown while a pointer rests on it."""
        return replace(self, children=(Element("title", {}, (title,)), *self.children))


def markup(element: Element) -> str:
    """Returns ``element`` as markup; no text in it can end a tag, an attribute or a line."""
    attributes = "".join(
        f' {name}="{escape(visible(value))}"' for name, value in element.attributes.items()
    )
    inside = "".join(
        escape(visible(child)) if isinstance(child, str) else markup(child)
        for child in element.children
    )
    return f"<{element.tag}{attributes}>{inside}</{element.tag}>"


def drawing(width: float, height: float, label: str, parts: Iterable[Element]) -> Element:
    """Returns a whole picture; ``label`` is what a screen reader says of it."""
    attributes = {
        "viewBox": f"0 0 {number(width)} {number(height)}",
        "width": number(width),
        "height": number(height),
        "role": "img",
        "aria-label": label,
    }
    return Element("svg", attributes, tuple(parts))


def number(value: float) -> str:
    """Returns a coordinate with at most one digit behind the point."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def line(begin: Place, end: Place, css: str) -> Element:
    """Returns a straight line."""
    places = {"x1": begin[0], "y1": begin[1], "x2": end[0], "y2": end[1]}
    return Element("line", {**_numbers(places), "class": css})


def box(corner: Place, size: Place, css: str) -> Element:
    """Returns a rectangle from its upper left ``corner``; ``size`` is width and height."""
    places = {"x": corner[0], "y": corner[1], "width": size[0], "height": size[1]}
    return Element("rect", {**_numbers(places), "class": css})


def circle(centre: Place, radius: float, css: str) -> Element:
    """Returns a circle."""
    places = {"cx": centre[0], "cy": centre[1], "r": radius}
    return Element("circle", {**_numbers(places), "class": css})


def words(at: Place, text: str, css: str, *, anchor: str = "start") -> Element:
    """Returns a text on one line; ``anchor`` says which of its ends stands at ``at``."""
    places = _numbers({"x": at[0], "y": at[1]})
    return Element("text", {**places, "class": css, "text-anchor": anchor}, (text,))


def polyline(places: Iterable[Place], css: str) -> Element:
    """Returns an open line through ``places``."""
    return Element("polyline", {"points": _points(places), "class": css})


def polygon(places: Iterable[Place], css: str) -> Element:
    """Returns a filled outline through ``places``."""
    return Element("polygon", {"points": _points(places), "class": css})


def triangle(centre: Place, css: str) -> Element:
    """Returns the marker of a peak: a triangle that points up."""
    x, y = centre
    return polygon([(x, y - 5.5), (x + 5.2, y + 3.8), (x - 5.2, y + 3.8)], css)


def diamond(centre: Place, css: str) -> Element:
    """Returns the marker of the returned point: a diamond."""
    x, y = centre
    return polygon([(x, y - 6.5), (x + 6.5, y), (x, y + 6.5), (x - 6.5, y)], css)


def square(centre: Place, css: str) -> Element:
    """Returns the marker of a task that is not in training: a small square."""
    return box((centre[0] - 2.1, centre[1] - 2.1), (4.2, 4.2), css)


def _numbers(places: Mapping[str, float]) -> dict[str, str]:
    return {name: number(value) for name, value in places.items()}


def _points(places: Iterable[Place]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in places)
