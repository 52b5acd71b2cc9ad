"""The tables of the report as HTML: figures, comparisons, months and trades."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from stateful.metrics import METRICS, Metric, iso_date
from stateful.report_parts import BY_NAME, between, formatted, reported, scroll_box, text
from stateful.verdict import percent

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults
    from stateful.evaluation.estimates import Interval
    from stateful.evaluation.uncertainty import Difference

MAX_TRADES = 250
"""Trades in the page: each is a row that the browser lays out."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_COMPARED = {
    "total_return": "Return",
    "cagr": "Growth a year",
    "sharpe": "Sharpe ratio",
    "max_drawdown": "Largest drawdown",
    "turnover_per_year": "Turnover a year",
    "costs": "Costs",
}


class Cell(NamedTuple):
    """A cell of a table that sorts.

    Attributes:
        key: What it is sorted by; None comes last.
        shown: Its text.
        below: A second line, smaller.
        style: Its classes.
    """

    key: Any
    shown: str
    below: str = ""
    style: str = ""

    def html(self) -> str:
        """Return the cell as HTML."""
        style = f' class="{self.style}"' if self.style else ""
        below = f"<small>{text(self.below)}</small>" if self.below else ""
        return f'<td{style} data-value="{_sort_key(self.key)}">{text(self.shown)}{below}</td>'


def sortable_table(heads: Iterable[tuple[str, bool]], rows: Iterable[str], label: str, **box: Any) -> str:
    """Return a table that sorts by any column, in a box that scrolls.

    Args:
        heads: Heading of each column, and whether it holds numbers.
        rows: Rows as HTML; every cell has a ``data-value``.
        label: What the table is.
        **box: As `scroll_box` has it.
    """
    cells = "".join(
        f"<th scope=col{' data-number' if numeric else ' class=text'}><button type=button>{text(head)}</button></th>"
        for head, numeric in heads
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table class=compare data-sortable><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
    return scroll_box(table, label, **box)


def comparison_table(results: BacktestResults) -> str:
    """Return the main figures of every account, with intervals under the agent's."""
    found = results.uncertainty
    intervals = {} if found is None else found.agent
    rows = [_compared_row("Agent", results.metrics, intervals)]
    for name, figures in results.metrics["baselines"].items():
        rows.append(_compared_row(_capital(results.labels[name]), figures, {}))
    heads = [("Account", False), *((head, True) for head in _COMPARED.values())]
    return sortable_table(heads, rows, "Main figures of all accounts")


def _compared_row(label: str, figures: Mapping[str, Any], intervals: Mapping[str, Interval]) -> str:
    style = "agent" if label == "Agent" else ""
    below = "<small>not compared</small>" if figures.get("not_comparable") else ""
    cells = [f'<th scope=row class="text {style}" data-value="{text(label)}">{text(label)}{below}</th>']
    for name in _COMPARED:
        kind = BY_NAME[name].kind
        below = (between(intervals[name], kind) or "") if name in intervals else ""
        value, _ = reported(figures, BY_NAME[name])
        cells.append(Cell(value, formatted(value, kind), below, style if value is not None else "na").html())
    return "".join(cells)


def differences_table(
    differences: Mapping[str, Difference], labels: Mapping[str, str], left_out: Collection[str] = ()
) -> str:
    """Return the agent less each baseline, with intervals.

    Args:
        differences: `Uncertainty.differences`.
        labels: Name of each baseline in words.
        left_out: Baselines that are no measure of the agent.
    """
    rows = []
    for name, gap in differences.items():
        label = _capital(labels[name])
        cells = [f'<th scope=row class=text data-value="{text(label)}">{text(label)}</th>']
        for interval, kind in ((gap.cagr, "points"), (gap.sharpe, "ratio")):
            shown = formatted(interval.estimate, kind)
            cells.append(Cell(interval.estimate, shown, between(interval, kind) or "").html())
        better, p = gap.probability_better, gap.p_value
        cells.append(Cell(better, "n/a" if better is None else percent(better, digits=0)).html())
        cells.append(Cell(p, "n/a" if p is None else f"{p:.3f}").html())
        verdict = {True: "only by itself", False: "not distinguishable", None: "not known"}[gap.distinguishable]
        verdict = "distinguishable" if gap.distinguishable_together else verdict
        verdict = "not compared" if name in left_out else verdict
        cells.append(Cell(verdict, verdict, style="text strong" if gap.distinguishable_together else "text").html())
        rows.append("".join(cells))
    heads = (
        ("Agent less", False), ("Growth a year, points", True), ("Sharpe ratio", True), ("Agent ahead in", True),
        ("p-value", True), ("From luck", False),
    )  # fmt: skip
    return sortable_table(heads, rows, "The agent less each baseline")


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]


def _sort_key(key: Any) -> str:
    if key is None:
        return ""
    return f"{key:.10g}" if isinstance(key, (float, np.floating)) else text(key)


def metrics_table(columns: Mapping[str, Mapping[str, Any]], second_opinion: Mapping[str, Any] | None) -> str:
    """Return the table of figures, one column per account and one for VectorBT's view of the agent.

    Args:
        columns: Metrics by heading.
        second_opinion: VectorBT's figures under our names, or None to leave the column out.
    """
    heads = [*columns, *(["VectorBT, of the agent"] if second_opinion is not None else [])]
    parts = ["<thead><tr><th scope=col>Metric</th>"]
    parts += [f"<th scope=col>{text(head)}</th>" for head in heads]
    parts.append("</tr></thead>")
    shown = [m for m in METRICS if m.group != "Carry" or any(figures[m.name] for figures in columns.values())]
    for group in dict.fromkeys(metric.group for metric in shown):
        parts.append(f'<tbody><tr><th class=group scope=rowgroup colspan="{len(heads) + 1}">{group}</th></tr>')
        for metric in shown:
            if metric.group == group:
                parts.append(_metric_row(metric, columns, second_opinion))
        parts.append("</tbody>")
    label = f"Metrics of {', '.join(columns)}"
    return scroll_box(f"<table class=compare>{''.join(parts)}</table>", label)


def _metric_row(
    metric: Metric, columns: Mapping[str, Mapping[str, Any]], second_opinion: Mapping[str, Any] | None
) -> str:
    cells = [f"<tr><th scope=row>{metric.label}</th>"]
    for account, metrics in columns.items():
        value, reason = reported(metrics, metric)
        style = "na" if value is None else "agent" if account == "Agent" else ""
        why = "" if reason is None else f' title="{text(reason)}"'
        cells.append(f'<td class="{style}"{why}>{formatted(value, metric.kind)}</td>')
    if second_opinion is not None:
        known = metric.name in second_opinion
        hidden = reported(next(iter(columns.values())), metric)[0] is None
        shown = formatted(None if hidden else second_opinion[metric.name], metric.kind) if known else "–"
        cells.append(f'<td class="{"" if known else "none"}">{shown}</td>')
    return "".join([*cells, "</tr>"])


def footnotes(columns: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Say what the figures that are missing in `metrics_table` need, but for what was said of ``before``."""
    notes = _reasons(columns) - _reasons(before or {})
    return f"<ul class=footnotes>{''.join(f'<li>{text(note)}</li>' for note in sorted(notes))}</ul>" if notes else ""


def _reasons(columns: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {
        f"n/a: {metric.label}{':' if reason.startswith('not') else ''} {reason}."
        for metrics in columns.values()
        for metric in METRICS
        if (reason := reported(metrics, metric)[1]) is not None
    }


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
    """Return the trades that gained or lost most as a table that sorts by any column, in order of time."""
    largest = trades["pnl"].abs().nlargest(MAX_TRADES, keep="first").index
    shown = trades.loc[np.sort(largest), list(_TRADE_COLUMNS)]
    rows = (_trade_row(row) for row in shown.itertuples(index=False, name=None))
    return sortable_table(_TRADE_HEADS, rows, "Trades", high=True)


_TRADE_HEADS = (
    ("Symbol", False), ("Side", False), ("Opened", False), ("Closed", False), ("Shares", True), ("Entry price", True),
    ("Exit price", True), ("Profit", True), ("Return", True), ("Bars held", True), ("Closed by", False),
)  # fmt: skip
_TRADE_COLUMNS = (
    "symbol", "side", "entry_time", "exit_time", "shares", "entry_price", "exit_price", "pnl", "return", "bars_held",
    "reason",
)  # fmt: skip


def _trade_row(row: Sequence[Any]) -> str:
    symbol, side, opened, closed, shares, entry, end, profit, change, bars, reason = row
    is_open = reason == "open"
    cells = (
        Cell(symbol, symbol, style="text"),
        Cell(side, side, style="text"),
        Cell(iso_date(opened), iso_date(opened), style="text"),
        Cell(iso_date(closed), "still held" if is_open else iso_date(closed), style="text"),
        Cell(shares, f"{shares:,.4g}" if shares < 1000 else f"{shares:,.0f}"),
        Cell(entry, f"{entry:,.2f}"),
        Cell(end, f"{end:,.2f}"),
        Cell(profit, f"{round(profit, 2) + 0.0:+,.2f}"),
        Cell(change, percent(change, sign=True)),
        Cell(bars, f"{bars:,}"),
        Cell(reason, "–" if is_open else str(reason).replace("_", " "), style="text"),
    )
    return "".join(cell.html() for cell in cells)
