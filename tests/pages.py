"""Reading the pages: what stands in them, and whether it is sound HTML."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

VOID = {"meta", "link", "br", "hr", "img", "input"}
BLOCKS = {"p", "li", "h1", "h2", "h3", "figcaption"}


class Page(HTMLParser):
    """A parsed page; making one checks that its elements nest.

    Attributes:
        tags: Every tag, in order.
        ids: Every id.
        links: Every ``href`` and ``src``.
        boxes: Name of every chart in the page.
        texts: Text of every paragraph, list item, heading and caption, by tag.
        tables: Rows of cell texts, heading first, by the label of the box that the table is in.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.boxes: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._label = ""
        self.feed(source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("src", "href") if name in found]
        self.boxes += [found["data-figure"] or ""] if "data-figure" in found else []
        if found.get("role") == "region":
            self._label = found["aria-label"] or ""
            self.tables[self._label] = []
        if tag == "tr":
            self.tables.setdefault(self._label, []).append([])
        if tag in ("td", "th"):
            self.tables[self._label][-1].append("")
        if tag in BLOCKS:
            self.texts.append((tag, ""))
        if tag not in VOID:
            self.open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.open]
        if "td" in inside or "th" in inside:
            cell = self.tables[self._label][-1]
            cell[-1] += " " + data if inside[-1] == "small" else data
        elif any(tag in BLOCKS for tag in inside):
            tag, so_far = self.texts[-1]
            self.texts[-1] = (tag, so_far + data)

    def said(self, *tags: str) -> list[str]:
        """Return the texts of some tags, of all blocks where none is named."""
        return [" ".join(text.split()) for tag, text in self.texts if not tags or tag in tags]

    @property
    def head(self) -> str:
        """The source above the sections."""
        return self.source[self.source.index("<body>") : self.source.index("<main")]

    @property
    def body(self) -> str:
        """The source without scripts and styles."""
        return self.source[self.source.index("<body>") : self.source.index('id="chart-data"')]

    @property
    def charts(self) -> dict[str, Any]:
        """The figures of the page, as its script draws them; arrays are lists of numbers."""
        return _filled(self.content["charts"], self.content["arrays"])

    @property
    def content(self) -> dict[str, Any]:
        """What is packed beside the page's text."""
        return json.loads(unpacked(self.source, "chart-data"))


def unpacked(source: str, name: str) -> str:
    """Return what a page holds compressed."""
    found = re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', source)
    assert found
    return gzip.decompress(base64.b64decode(found[1])).decode()


def _filled(value: Any, arrays: list[dict[str, str]]) -> Any:
    if isinstance(value, dict):
        if "$" in value:
            array = arrays[value["$"]]
            return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]).tolist()
        return {key: _filled(item, arrays) for key, item in value.items()}
    return [_filled(item, arrays) for item in value] if isinstance(value, list) else value
