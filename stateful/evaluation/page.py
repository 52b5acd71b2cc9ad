"""The frame of a page: the report's template, style and script around one's own sections and charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from stateful.report_parts import figures_json, packed, plotly_script, text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Page:
    """One self-contained HTML page; what is not a plain title is HTML.

    Attributes:
        title: Its title.
        eyebrow: The small line on top.
        verdict: What it comes to, in words.
        sections: Body of each section by its title, in order.
        charts: The figures that `chart` refers to.
        footer: The last line.
    """

    title: str
    eyebrow: str
    verdict: str
    sections: Mapping[str, str]
    charts: Mapping[str, Figure]
    footer: str

    def html(self) -> str:
        """Return the page as text that needs nothing else."""
        return Template(_template("report.html")).substitute(
            title=text(self.title),
            eyebrow=self.eyebrow,
            verdict=self.verdict,
            content=self._content(),
            footer=self.footer,
            figures=packed(figures_json(self.charts)),
            plotly=plotly_script(),
            style=_template("report.css"),
            script=_template("report.js"),
        )

    def _content(self) -> str:
        ids = {title: title.lower().replace(" ", "-") for title in self.sections}
        links = "".join(f'<li><a href="#{ids[title]}">{text(title)}</a></li>' for title in self.sections)
        parts = "".join(
            f'<section id="{ids[title]}" aria-labelledby="{ids[title]}-head">'
            f'<h2 id="{ids[title]}-head">{text(title)}</h2>{body}</section>'
            for title, body in self.sections.items()
        )
        return f'<nav aria-label="Sections"><ul>{links}</ul></nav>{parts}'


def chart(name: str, caption: str, size: str = "") -> str:
    """Return the place of a chart, ``tall``, ``short`` or neither, with its caption."""
    return (
        f'<figure class=box><div class="chart {size}" id="{name}-chart" data-figure="{text(name)}" role=img '
        f'aria-label="{text(caption)}"></div><figcaption>{text(caption)}</figcaption></figure>'
    )


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return the large figures: name, value, and a note on each."""
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)} <small>{text(note)}</small></dd></div>"
        for name, value, note in rows
    )
    return f"<dl class=tiles>{items}</dl>"


def _template(name: str) -> str:
    return (files("stateful") / "templates" / name).read_text(encoding="utf-8")
