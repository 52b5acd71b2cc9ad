"""Pieces of the report as HTML. Every text that comes from outside passes `text`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from stateful.metrics import METRICS, Metric, iso_date, missing_reason
from stateful.verdict import money, percent

MAX_TRADES = 500
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def text(value: Any) -> str:
    """Return any value as text that is safe inside an element or a quoted attribute."""
    return escape(str(value), quote=True)


def sentence(value: str) -> str:
    """Return a sentence as HTML whose dates do not break across lines."""
    return re.sub(r"\d{4}-\d\d-\d\d", r"<time>\g<0></time>", text(value))


def embedded_json(value: str) -> str:
    """Return JSON text that is safe inside a script element."""
    return value.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def formatted(value: Any, kind: str) -> str:
    """Return a figure as it is shown."""
    if value is None:
        return "n/a"
    if kind == "percent":
        return percent(value, digits=2 if abs(value) < 10 else 0)
    if kind == "money":
        return money(value)
    if kind == "count":
        return f"{value:,}"
    if kind == "bars":
        return f"{value:,.0f} bars" if value >= 10 or value == int(value) else f"{value:,.1f} bars"
    if kind == "ratio":
        return f"{round(value, 2) + 0.0:,.2f}"
    return f"{value:,.4g}"


def metrics_table(columns: Mapping[str, Mapping[str, Any]], second_opinion: Mapping[str, Any] | None) -> str:
    """Return the table of figures, one column per account and one for VectorBT's view of the agent.

    Args:
        columns: Metrics by heading, the agent's first.
        second_opinion: VectorBT's figures under our names, or None to leave the column out.
    """
    heads = [*columns, *(["VectorBT, of the agent"] if second_opinion is not None else [])]
    parts = ["<thead><tr><th scope=col>Metric</th>"]
    parts += [f"<th scope=col>{text(head)}</th>" for head in heads]
    parts.append("</tr></thead>")
    for group in dict.fromkeys(metric.group for metric in METRICS):
        parts.append(f'<tbody><tr><th class=group scope=rowgroup colspan="{len(heads) + 1}">{group}</th></tr>')
        for metric in METRICS:
            if metric.group == group:
                parts.append(_metric_row(metric, columns, second_opinion))
        parts.append("</tbody>")
    return scroll_box(
        f"<table class=compare>{''.join(parts)}</table>", "Metrics of the agent and the baselines"
    ) + _footnotes(columns)


def _metric_row(
    metric: Metric, columns: Mapping[str, Mapping[str, Any]], second_opinion: Mapping[str, Any] | None
) -> str:
    cells = [f"<tr><th scope=row>{metric.label}</th>"]
    for i, metrics in enumerate(columns.values()):
        value = metrics[metric.name]
        style = "na" if value is None else "agent" if i == 0 else ""
        why = f' title="{text(missing_reason(metric, dict(metrics)))}"' if value is None else ""
        cells.append(f'<td class="{style}"{why}>{formatted(value, metric.kind)}</td>')
    if second_opinion is not None:
        known = metric.name in second_opinion
        shown = formatted(second_opinion[metric.name], metric.kind) if known else "–"
        cells.append(f'<td class="{"" if known else "none"}">{shown}</td>')
    return "".join([*cells, "</tr>"])


def _footnotes(columns: Mapping[str, Mapping[str, Any]]) -> str:
    notes = {
        f"n/a: {metric.label} {missing_reason(metric, dict(metrics))}."
        for metrics in columns.values()
        for metric in METRICS
        if metrics[metric.name] is None
    }
    return f"<ul class=footnotes>{''.join(f'<li>{text(note)}</li>' for note in sorted(notes))}</ul>" if notes else ""


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


def monthly_table(equity: pd.Series[float], others: Mapping[str, pd.Series[float]]) -> str:
    """Return the agent's return of each month as a heat map, with the years of the agent and of the others."""
    months = _period_returns(equity, "M")
    years = {"Agent": _period_returns(equity, "Y")} | {n: _period_returns(s, "Y") for n, s in others.items()}
    largest = max(0.02, float(np.nanmax(np.abs(months.to_numpy()))) if len(months) else 0.0)
    head = "".join(f"<th scope=col>{month}</th>" for month in _MONTHS)
    totals = "".join(f'<th scope=col class="total{"" if i else " edge"}">{text(n)}</th>' for i, n in enumerate(years))
    rows = []
    for year in years["Agent"].index:
        cells = [f"<tr><th scope=row>{year.year}</th>"]
        cells += [
            _heat(months.get(pd.Period(year=year.year, month=month, freq="M")), largest) for month in range(1, 13)
        ]
        for i, series in enumerate(years.values()):
            value = series.get(year)
            shown = "" if value is None else percent(float(value), sign=True)
            cells.append(f'<td class="{"total edge" if not i else ""}">{shown}</td>')
        rows.append("".join([*cells, "</tr>"]))
    return scroll_box(
        f"<table class=months><thead><tr><th scope=col>Year</th>{head}{totals}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>",
        "Return of each month",
    )


def _period_returns(equity: pd.Series[float], frequency: str) -> pd.Series[float]:
    """Return the return of each calendar month or year, from the last bar before it to its last bar."""
    ends = equity.groupby(pd.DatetimeIndex(equity.index).to_period(frequency)).last()
    before = ends.shift(1)
    before.iloc[0] = equity.iloc[0]
    return ends / before - 1.0


def _heat(value: Any, largest: float) -> str:
    if value is None or not math.isfinite(value):
        return "<td class=cell></td>"
    strength = min(1.0, abs(value) / largest) ** 0.7 * 0.55
    colour = "gain" if value >= 0 else "loss"
    return f'<td class=cell style="background:rgba(var(--{colour}),{strength:.2f})">{percent(value, sign=True)}</td>'


def trades_table(trades: pd.DataFrame) -> str:
    """Return the first trades as a table that sorts by any column."""
    shown = trades.iloc[:MAX_TRADES]
    heads = "".join(
        f"<th scope=col{'' if numeric else ' class=text'}{' data-number' if numeric else ''}>"
        f"<button type=button>{label}</button></th>"
        for label, numeric in _TRADE_HEADS
    )
    body = "".join(_trade_row(row) for row in shown.itertuples(index=False, name=None))
    return scroll_box(
        f"<table data-sortable><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>",
        "Trades",
        high=True,
    )


_TRADE_HEADS = (
    ("Symbol", False), ("Side", False), ("Opened", False), ("Closed", False), ("Shares", True), ("Entry price", True),
    ("Exit price", True), ("Profit", True), ("Return", True), ("Bars held", True), ("Closed by", False),
)  # fmt: skip
TRADE_COLUMNS = (
    "symbol", "side", "entry_time", "exit_time", "shares", "entry_price", "exit_price", "pnl", "return", "bars_held",
    "reason",
)  # fmt: skip
"""Columns of a trades table that the report shows; `trades_table` wants them in this order."""


def _trade_row(row: Sequence[Any]) -> str:
    symbol, side, opened, closed, shares, entry, end, profit, change, bars, reason = row
    is_open = reason == "open"
    cells = [
        _cell(symbol, symbol, "text"),
        _cell(side, side, "text"),
        _cell(iso_date(opened), iso_date(opened), "text"),
        _cell(iso_date(closed), "still held" if is_open else iso_date(closed), "text"),
        _cell(shares, f"{shares:,.4g}" if shares < 1000 else f"{shares:,.0f}"),
        _cell(entry, f"{entry:,.2f}"),
        _cell(end, f"{end:,.2f}"),
        _cell(profit, f"{round(profit, 2) + 0.0:+,.2f}"),
        _cell(change, percent(change, sign=True)),
        _cell(bars, f"{bars:,}"),
        _cell(reason, "–" if is_open else str(reason).replace("_", " "), "text"),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Any, shown: str, style: str = "") -> str:
    key = f"{value:.10g}" if isinstance(value, (float, np.floating)) else value
    return f'<td{f" class={style}" if style else ""} data-value="{text(key)}">{text(shown)}</td>'


def scroll_box(table: str, label: str, *, high: bool = False) -> str:
    """Return a table inside a box that scrolls by itself, by keyboard too."""
    style = "box scroll high" if high else "box scroll"
    return f'<div class="{style}" role=region aria-label="{text(label)}" tabindex=0>{table}</div>'
