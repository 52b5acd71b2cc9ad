"""The page of the report: what is said first, and the sections in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from stateful import report_sections as sections
from stateful.attribution_figures import attribution_figures
from stateful.evaluation.page import Page, tiles
from stateful.evaluation.uncertainty import DRAWDOWN_HOLDS
from stateful.figures import build_figures
from stateful.price_figures import price_figures
from stateful.report_evidence import (
    Stress,
    attribution_section,
    certainty_section,
    limits_section,
    robustness_section,
)
from stateful.report_parts import BY_NAME, between, formatted, reported, sentence, text
from stateful.verdict import Note, account_sentence, carry_sentence, cost_sentence, limits, money, percent

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults
    from stateful.evaluation.flags import Flag
    from stateful.tear_sheet import TearSheet


@dataclass(frozen=True, eq=False)
class Beside:
    """What stands beside the results in their report.

    Attributes:
        title: Heading.
        learning_curve: Evaluations during training.
        run_info: Facts about the run.
        sheet: QuantStats' tear sheet; None where nobody asked for it.
        stress: The stress test of the same agent.
    """

    title: str | None = None
    learning_curve: pd.DataFrame | None = None
    run_info: Mapping[str, Any] | None = None
    sheet: TearSheet | None = None
    stress: Stress = field(default_factory=Stress)


def build_page(results: BacktestResults, beside: Beside | None = None) -> str:
    """Return the report as the text of one HTML page that needs nothing else."""
    beside = beside or Beside()
    prices = price_figures(results)
    charts = {
        **build_figures(results, beside.learning_curve),
        **(attribution_figures(results.attribution) if len(results.attribution.parts) else {}),
        **beside.stress.figures(),
        **{f"price-{i}": figure for i, figure in enumerate(prices.values())},
    }
    metrics, symbols = results.metrics, results.market.symbols
    shown = ", ".join(symbols[:8]) + (f" and {len(symbols) - 8} more" if len(symbols) > 8 else "")
    heading = beside.title or "Backtest report"
    return Page(
        title=heading,
        eyebrow=f"<strong>{text(heading)}</strong> · {text(shown)} · "
        f"<time>{metrics['first_date']}</time> to <time>{metrics['last_date']}</time>",
        verdict=_head(results),
        sections=_sections(results, beside, list(charts), list(prices)),
        charts=charts,
        footer="Made by batchenv. The same figures are in "
        + ", ".join(f'<a href="{name}">{name}</a>' for name in ("metrics.json", "history.parquet", "fills.csv"))
        + ' and <a href="trades.csv">trades.csv</a> beside this page.',
    ).html()


def _sections(results: BacktestResults, beside: Beside, charts: list[str], symbols: list[str]) -> dict[str, str]:
    learning = [name for name in charts if name.startswith("learning_")]
    return {
        "Equity": sections.equity_section(results),
        "Against the baselines": sections.comparison_section(results),
        "How sure": certainty_section(results),
        "Drawdown": sections.drawdown_section(results),
        "Rolling Sharpe ratio": sections.rolling_section(results),
        "Months": sections.months_section(results),
        "Where it came from": attribution_section(results),
        "Turnover and costs": sections.activity_section(results),
        "Robustness": robustness_section(beside.stress),
        "Weights": sections.weights_section(results),
        "Prices and fills": sections.prices_section(results, symbols),
        "Trades": sections.trades_section(results),
        "All figures": sections.metrics_section(results, beside.sheet),
        **({"Learning": sections.learning_section(learning)} if learning else {}),
        "What this does not show": limits_section(results),
        "Configuration": sections.configuration_section(results, beside.run_info),
    }


# --- what is said first -------------------------------------------------------------------------------------


def _head(results: BacktestResults) -> str:
    """Return the first lines of the page: why not to believe it, where that is grave; won or lost, and by how much."""
    verdicts, metrics = results.headlines, results.metrics
    first = "<h1>The agent was compared with nothing.</h1>"
    if verdicts:
        first = (
            f'<div class="verdict {verdicts[0].outcome}"><h1>{text(verdicts[0].headline)}</h1>'
            f"<p>{text(verdicts[0].detail)}</p></div>"
        )
    rest = [
        f'<div class="verdict {verdict.outcome}"><h2>{text(verdict.headline)}</h2><p>{text(verdict.detail)}</p></div>'
        for verdict in verdicts[1:]
    ]
    severe = [_flag(flag) for flag in results.flags if flag.severity == "severe"]
    alarm = f'<div class=alarm role=note aria-label="Severe red flags">{"".join(severe)}</div>' if severe else ""
    facts = [account_sentence(metrics), cost_sentence(metrics), carry_sentence(metrics)]
    lines = "".join(f"<p>{sentence(fact)}</p>" for fact in facts if fact)
    return "\n".join([alarm, first, *rest, f"<div class=facts>{lines}</div>", _warnings(results), _tiles(results)])


def _flag(flag: Flag | Note) -> str:
    """Return a flag with its first words, up to the colon, in bold."""
    name, colon, rest = flag.text.partition(":")
    if not colon or len(name) > 60:
        return f"<p>{sentence(flag.text)}</p>"
    return f"<p><strong>{text(name)}:</strong>{sentence(rest)}</p>"


def _warnings(results: BacktestResults) -> str:
    """Return what rests on little, or say that nothing was found."""
    found = [_flag(flag) for flag in results.flags if flag.severity == "warning"]
    notes = limits(results.metrics, results.config, results.market)
    found += [_flag(note) for note in notes if note.warning]
    if found:
        items = "".join(f"<li>{item}</li>" for item in found)
        return f"<section class=flags aria-labelledby=flags><h2 id=flags>Red flags</h2><ul>{items}</ul></section>"
    severe = any(flag.severity == "severe" for flag in results.flags)
    return "" if severe else "<p class=calm>None of the checks for red flags found anything.</p>"


def _tiles(results: BacktestResults) -> str:
    metrics, found = results.metrics, results.uncertainty
    years, bars = metrics["years"], metrics["bars"]

    def tile(name: str, label: str, otherwise: str = "") -> tuple[str, str, str]:
        kind, (value, reason) = BY_NAME[name].kind, reported(metrics, BY_NAME[name])
        interval = None if found is None else found.agent[name]
        sure = None if interval is None else between(interval, kind) or interval.reason
        return label, formatted(value, kind), sure or reason or otherwise

    lowest = metrics["max_drawdown_date"]
    rows = [
        tile("total_return", "Total return"),
        tile("cagr", "Growth a year", f"from {bars:,} bars only" if (years or 0) < 1 else f"over {years:.1f} years"),
        tile("sharpe", "Sharpe ratio"),
        tile("max_drawdown", "Largest drawdown", f"lowest on {lowest}" if lowest else "never below its start"),
        ("Orders filled", f"{metrics['fills']:,}", f"{metrics['closed_trades']:,} trades closed"),
        ("Costs paid", money(metrics["costs"]), f"{metrics['costs'] / metrics['initial_equity']:.2%} of initial cash"),
    ]
    note = ""
    if found is not None and found.agent["total_return"].low is not None:
        note = (
            f"<p class=under>Small: the middle {percent(found.level, digits=0)} of resampled histories; that of the "
            f"drawdown holds in {DRAWDOWN_HOLDS} of cases.</p>"
        )
    return tiles(rows) + note
