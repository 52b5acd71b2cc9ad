"""Pieces of the report as HTML. Every text that comes from outside passes `text`."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from stateful.evaluation.estimates import Interval, not_enough
from stateful.evaluation.uncertainty import MINIMUM_BARS
from stateful.metrics import METRICS, PER_YEAR, Metric, missing_reason
from stateful.verdict import money, percent

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BY_NAME = {metric.name: metric for metric in METRICS}
_STRETCHED = tuple(name for name in PER_YEAR if name != "turnover_per_year")


def text(value: Any) -> str:
    """Return any value as text that is safe inside an element or a quoted attribute."""
    return escape(str(value), quote=True)


def sentence(value: str) -> str:
    """Return a sentence as HTML whose dates do not break across lines."""
    return re.sub(r"\d{4}-\d\d-\d\d", r"<time>\g<0></time>", text(value))


def embedded_json(value: str) -> str:
    """Return JSON text that is safe inside a script element."""
    return value.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(value: str) -> str:
    """Return text compressed, as base64; the page's script unpacks it."""
    return base64.b64encode(gzip.compress(value.encode(), compresslevel=6, mtime=0)).decode()


@cache
def plotly_script() -> str:
    """Return plotly's script, `packed`: 2 MB in place of 5."""
    from plotly.offline import get_plotlyjs

    return packed(get_plotlyjs())


def figures_json(charts: Mapping[str, Figure]) -> str:
    """Return charts as the JSON that the page's script draws; equal arrays, such as dates, are there once.

    Returns:
        ``{"arrays": [...], "charts": {name: figure}}``; in a figure ``{"$": i}`` stands for an array.
    """
    arrays: dict[str, int] = {}

    def shared(value: Any) -> Any:
        if isinstance(value, dict):
            if "bdata" in value:
                return {"$": arrays.setdefault(json.dumps(value), len(arrays))}
            return {key: shared(item) for key, item in value.items()}
        return [shared(item) for item in value] if isinstance(value, list) else value

    found = {name: shared(json.loads(figure.to_json(validate=False))) for name, figure in charts.items()}
    return f'{{"arrays":[{",".join(arrays)}],"charts":{json.dumps(found, separators=(",", ":"))}}}'


def formatted(value: Any, kind: str) -> str:
    """Return a figure as it is shown."""
    if value is None:
        return "n/a"
    if kind == "percent":
        return percent(value, digits=2 if abs(value) < 10 else 0)
    if kind == "points":
        return f"{round(100 * value, 1) + 0.0:+,.1f}"
    if kind == "money":
        return money(value)
    if kind == "count":
        return f"{value:,}"
    if kind == "bars":
        return f"{value:,.0f} bars" if value >= 10 or value == int(value) else f"{value:,.1f} bars"
    if kind == "ratio":
        return f"{round(value, 2) + 0.0:,.2f}"
    return f"{value:,.4g}"


def reported(metrics: Mapping[str, Any], metric: Metric) -> tuple[Any, str | None]:
    """Return a figure, or None and why there is none; statistics stretched to a year need `MINIMUM_BARS`."""
    bars, value = metrics["bars"], metrics[metric.name]
    if metric.name in _STRETCHED and bars < MINIMUM_BARS:
        return None, not_enough(MINIMUM_BARS, bars)
    return value, missing_reason(metric, dict(metrics)) if value is None else None


def between(interval: Interval, kind: str) -> str | None:
    """Return an interval in words, or None where there is none."""
    if interval.low is None or interval.high is None:
        return None
    low, high = (
        percent(value, digits=1 if abs(value) < 10 else 0) if kind == "percent" else formatted(value, kind)
        for value in (interval.low, interval.high)
    )
    return f"{low} to {high}"


def missing(what: str, reason: str) -> str:
    """Return a line that says why something is not there."""
    return f"<p class=missing>{text(what)}: {text(reason)}.</p>"


def chart_box(
    name: str, caption: str, size: str = "", *, told: str = "", hint: str = "", tools: str = "", rem: float = 0.0
) -> str:
    """Return the place of a chart.

    Args:
        name: Its name among the figures.
        caption: What it shows and how to read it.
        size: ``tall``, ``short`` or neither.
        told: What can be seen in it, in words, for those who cannot see it.
        hint: What else can be done with a mouse.
        tools: Buttons and the like, as HTML.
        rem: Height where ``size`` does not fit, in rem.
    """
    height = f' style="height:{rem:g}rem"' if rem else ""
    below = text(caption) + (f" <span class=hint>{text(hint)}</span>" if hint else "")
    return (
        f'{tools}<figure class=box><div class="chart {size}"{height} id="{text(name)}-chart" '
        f'data-figure="{text(name)}" role=img aria-label="{text(told or caption)}"></div>'
        f"<figcaption>{below}</figcaption></figure>"
    )


def plain_table(rows: Iterable[tuple[Any, Any]], label: str) -> str:
    """Return a table of names and values."""
    body = "".join(f"<tr><th scope=row>{text(name)}</th><td>{text(_plain_value(v))}</td></tr>" for name, v in rows)
    return scroll_box(f"<table class=info><tbody>{body}</tbody></table>", label)


def _plain_value(value: Any) -> Any:
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{value:,.6g}" if math.isfinite(value) else "n/a"
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str)
    return value


def scroll_box(table: str, label: str, *, high: bool = False) -> str:
    """Return a table inside a box that scrolls by itself, by keyboard too."""
    style = "box scroll high" if high else "box scroll"
    return f'<div class="{style}" role=region aria-label="{text(label)}" tabindex=0>{table}</div>'
