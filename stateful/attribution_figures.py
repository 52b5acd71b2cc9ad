"""The charts of where a change of equity came from."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stateful.evaluation.attribution import ACCOUNT, Attribution
from stateful.figures import AGENT, BASELINES, OTHERS, STACK, blank
from stateful.verdict import money

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

KIND_NAMES = {
    "price": "Prices",
    "fees": "Fees",
    "slippage": "Slippage",
    "interest": "Interest on cash",
    "margin_interest": "Margin interest",
    "borrow": "Borrowed shares",
    "funding": "Funding",
    "dividends": "Dividends",
    "delisting": "Delistings",
}
"""Kinds of gain and cost in words, in the order of the page."""
CARRY = ("interest", "margin_interest", "borrow", "funding", "dividends")
MAX_SYMBOLS = 20
"""Symbols with a bar of their own; the smaller contributions are added up."""
_PARTS = (
    ("Prices, long", AGENT),
    ("Prices, short", STACK[7]),
    ("Costs", BASELINES[0]),
    ("Interest, dividends, borrowing", STACK[2]),
    ("Delistings", OTHERS),
)


def attribution_figures(attribution: Attribution) -> dict[str, Figure]:
    """Return the charts by name: ``by_symbol``, and ``by_kind``, from gross profit to net."""
    return {"by_symbol": _by_symbol(attribution), "by_kind": _by_kind(attribution)}


def symbol_parts(attribution: Attribution) -> pd.DataFrame:
    """Return what each symbol contributed, in money, the largest total first.

    Returns:
        Index: symbols, the account last (`ACCOUNT`), where it had interest; columns: ``Prices, long``,
        ``Prices, short``, ``Costs``, ``Interest, dividends, borrowing``, ``Delistings`` and ``Total``.
    """
    table, sides = attribution.by("symbol"), attribution.by("symbol", "side")["price"].unstack("side")
    long, short = (sides.get(side, 0.0) for side in ("long", "short"))
    columns = [long, short, table["fees"] + table["slippage"], table[list(CARRY)].sum(axis=1), table["delisting"]]
    parts = pd.DataFrame({name: column for (name, _), column in zip(_PARTS, columns, strict=True)}, index=table.index)
    parts = parts.fillna(0.0).assign(Total=table["total"])
    order = parts.drop(ACCOUNT).sort_values("Total", ascending=False, kind="stable").index
    return parts.loc[[*order, ACCOUNT] if parts.loc[ACCOUNT].any() else order]


def kinds_booked(attribution: Attribution) -> pd.Series[float]:
    """Return what each kind of gain and cost came to, in money; prices always, the others where there was any."""
    totals = attribution.by("kind")["total"]
    return totals[[name for name in KIND_NAMES if name == "price" or totals[name]]]


def rows_shown(attribution: Attribution) -> int:
    """Return how many rows the chart by symbol has."""
    return len(_folded(symbol_parts(attribution)))


def _folded(parts: pd.DataFrame) -> pd.DataFrame:
    """Add up the symbols beyond `MAX_SYMBOLS` that contributed least, gains and losses alike."""
    symbols = parts.drop(ACCOUNT, errors="ignore")
    if len(symbols) <= MAX_SYMBOLS:
        return parts
    small = symbols["Total"].abs().nsmallest(len(symbols) - MAX_SYMBOLS + 1).index
    rest = parts.loc[small].sum().to_frame(f"{len(small)} others").T
    kept = parts.drop(small)
    return pd.concat([kept.drop(ACCOUNT, errors="ignore"), rest, kept.loc[kept.index == ACCOUNT]])


def _by_symbol(attribution: Attribution) -> Figure:
    parts = _folded(symbol_parts(attribution))
    names = ["Cash" if name == ACCOUNT else str(name) for name in parts.index]
    labels = [f"{escape(n, quote=False)}  <b>{_signed(t)}</b>" for n, t in zip(names, parts["Total"], strict=True)]
    figure = blank(dates=False, barmode="relative", bargap=0.35, hovermode="y unified")
    for name, colour in _PARTS:
        if parts[name].any():
            figure.add_bar(
                x=parts[name].to_numpy(np.float64),
                y=labels,
                name=name,
                orientation="h",
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate="%{x:+,.0f}",
            )
    _money_across(figure)
    return figure


def _by_kind(attribution: Attribution) -> Figure:
    """From what prices brought to the change of equity, one step for each cost."""
    totals = kinds_booked(attribution)
    labels = [f"{KIND_NAMES[str(name)]}  <b>{_signed(total)}</b>" for name, total in totals.items()]
    figure = blank(dates=False, showlegend=False, hovermode="closest")
    figure.add_waterfall(
        x=[*totals.to_numpy(np.float64), 0.0],
        y=[*labels, f"Change of equity  <b>{_signed(attribution.change)}</b>"],
        measure=["relative"] * len(totals) + ["total"],
        orientation="h",
        increasing={"marker": {"color": AGENT}},
        decreasing={"marker": {"color": BASELINES[0]}},
        totals={"marker": {"color": OTHERS}},
        connector={"line": {"color": OTHERS, "width": 1}},
        hoverinfo="skip",
    )
    _money_across(figure)
    return figure


def _money_across(figure: Figure) -> None:
    figure.update_xaxes(
        tickformat="~s", showgrid=True, zeroline=True, zerolinecolor=OTHERS, ticks="", nticks=6, automargin=True
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, nticks=0, automargin=True)


def _signed(amount: float) -> str:
    shown = money(amount)
    return shown if shown.startswith("-") or not float(shown.replace(",", "")) else f"+{shown}"
