from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser

import pytest

from msft_lite.report.page.svg import Element

VOID = {"meta", "link", "br", "img", "input", "hr"}


def everything(element: Element) -> Iterator[Element]:
    yield element
    for child in element.children:
        if isinstance(child, Element):
            yield from everything(child)


@pytest.fixture
def found() -> Callable[[Element, str], list[Mapping[str, str]]]:
    """Attributes of all parts of a picture that are of exactly that class."""
    return lambda picture, css: [
        part.attributes for part in everything(picture) if part.attributes.get("class") == css
    ]


@pytest.fixture
def texts() -> Callable[[Element], list[str]]:
    """Everything that is written in a picture, tips left out."""
    return lambda picture: [
        str(child)
        for part in everything(picture)
        if part.tag == "text"
        for child in part.children
        if isinstance(child, str)
    ]


class Parsed(HTMLParser):
    """What a browser's parser makes of a page: its tags with attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.opened: list[str] = []
        self.sections: list[str] = []
        self._texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag == "section":
            self.sections.append(values["id"])
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.opened.pop()

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] not in ("style", "script"):
            self._texts.append(data)

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tags with the names of their attributes."""
        return [(tag, tuple(values)) for tag, values in self.tags]

    @property
    def text(self) -> str:
        return " ".join("".join(self._texts).split())


@pytest.fixture
def parsed() -> Callable[[str], Parsed]:
    """Parses a page; every tag that opens must close in its place."""
    return Parsed
