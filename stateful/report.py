"""The report: one self-contained HTML page, figures as PNG, and the data behind them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pandas as pd

from batchenv.errors import RunError
from stateful.figures import MAX_PRICE_CHARTS, accounts, build_figures, price_figures
from stateful.plots import write_plots
from stateful.report_parts import (
    MAX_TRADES,
    TRADE_COLUMNS,
    embedded_json,
    formatted,
    metrics_table,
    monthly_table,
    plain_table,
    sentence,
    text,
    trades_table,
)
from stateful.verdict import Note, account_sentence, carry_sentence, cost_sentence, limits, money

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from stateful.backtest import BacktestResults

REPORT_FILES = (
    "report.html", "metrics.json", "trades.csv", "fills.csv", "history.parquet", "equity.png", "drawdown.png",
    "weights.png",
)  # fmt: skip
"""Every file of a report."""


def write_report(
    results: BacktestResults,
    directory: Path,
    *,
    title: str | None = None,
    learning_curve: pd.DataFrame | None = None,
    run_info: Mapping[str, Any] | None = None,
) -> Path:
    """Write all of `REPORT_FILES`, or nothing; see `BacktestResults.write`.

    Raises:
        RunError: One of the files is there already, or cannot be written.
    """
    _refuse_earlier_report(directory)
    staging = directory.parent / f".{directory.name}.unfinished-{os.getpid()}"
    try:
        staging.mkdir(parents=True)
        _write_data(results, staging)
        write_plots(results, staging)
        page = build_page(results, title=title, learning_curve=learning_curve, run_info=run_info)
        (staging / "report.html").write_text(page, encoding="utf-8")
        _move_into_place(staging, directory)
    except OSError as error:
        raise RunError(f"{directory}: cannot write the report: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return directory / "report.html"


def build_page(
    results: BacktestResults,
    *,
    title: str | None = None,
    learning_curve: pd.DataFrame | None = None,
    run_info: Mapping[str, Any] | None = None,
) -> str:
    """Return the report as the text of one HTML page that needs nothing else."""
    from plotly.offline import get_plotlyjs

    charts, prices = build_figures(results, learning_curve), price_figures(results)
    metrics = results.metrics
    heading = title or "Backtest report"
    symbols = results.market.symbols
    shown = ", ".join(symbols[:8]) + (f" and {len(symbols) - 8} more" if len(symbols) > 8 else "")
    return Template(_template("report.html")).substitute(
        title=text(heading),
        eyebrow=f"<strong>{text(heading)}</strong> · {text(shown)} · "
        f"<time>{metrics['first_date']}</time> to <time>{metrics['last_date']}</time>",
        verdict=_verdict(results),
        content="\n".join(_sections(results, charts, list(prices), run_info)),
        footer=_footer(results),
        figures=_figures_json(charts, list(prices.values())),
        plotly=get_plotlyjs(),
        style=_template("report.css"),
        script=_template("report.js"),
    )


# --- files --------------------------------------------------------------------------------------------------


def _refuse_earlier_report(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory}: is a file, expected a directory for the report")
    for name in REPORT_FILES:
        if (directory / name).exists():
            raise RunError(f"{directory / name}: exists already; expected a directory without an earlier report")


def _write_data(results: BacktestResults, directory: Path) -> None:
    summary = {
        "verdict": [str(verdict) for verdict in results.headlines],
        "flags": [asdict(flag) for flag in results.flags],
        **results.metrics,
        "attribution": results.attribution.as_dict(),
    }
    content = json.dumps(summary, indent=2, allow_nan=False)
    (directory / "metrics.json").write_text(content + "\n", encoding="utf-8")
    results.trades.to_csv(directory / "trades.csv", index=False)
    results.fills.to_csv(directory / "fills.csv", index=False)
    results.history.to_parquet(directory / "history.parquet")


def _move_into_place(staging: Path, directory: Path) -> None:
    """Rename the finished files into ``directory``; take back those already moved if one fails."""
    if not directory.exists():
        staging.rename(directory)
        return
    moved: list[Path] = []
    try:
        for name in REPORT_FILES:
            (staging / name).rename(directory / name)
            moved.append(directory / name)
    except OSError:
        for path in moved:
            path.unlink(missing_ok=True)
        raise


# --- page ---------------------------------------------------------------------------------------------------


def _template(name: str) -> str:
    return (files("stateful") / "templates" / name).read_text(encoding="utf-8")


def _figures_json(charts: Mapping[str, Figure], prices: Sequence[Figure]) -> str:
    named = ",".join(f"{json.dumps(name)}:{figure.to_json(validate=False)}" for name, figure in charts.items())
    listed = ",".join(figure.to_json(validate=False) for figure in prices)
    return embedded_json(f'{{"charts":{{{named}}},"prices":[{listed}]}}')


def _verdict(results: BacktestResults) -> str:
    """Return the first lines of the page: won or lost, by how much, at what cost."""
    parts = []
    for i, verdict in enumerate(results.headlines):
        level = "h1" if i == 0 else "h2"
        parts.append(
            f'<div class="verdict {verdict.outcome}"><{level}>{text(verdict.headline)}</{level}>'
            f"<p>{text(verdict.detail)}</p></div>"
        )
    if not parts:
        parts.append("<h1>The agent was compared with nothing</h1>")
    parts.append(f"<p class=facts>{sentence(account_sentence(results.metrics))}</p>")
    parts.append(f"<p>{text(cost_sentence(results.metrics))}</p>")
    carry = carry_sentence(results.metrics)
    if carry is not None:
        parts.append(f"<p>{text(carry)}</p>")
    parts += [f"<p class=warn>{text(note.text)}</p>" for note in _notes(results) if note.warning]
    parts.append(_tiles(results.metrics))
    return "\n".join(parts)


def _tiles(metrics: Mapping[str, Any]) -> str:
    tiles = [
        (
            "Total return",
            formatted(metrics["total_return"], "percent"),
            f"{money(metrics['final_equity'])} at the end",
        ),
        ("Per year (CAGR)", formatted(metrics["cagr"], "percent"), _duration(metrics)),
        (
            "Sharpe ratio",
            formatted(metrics["sharpe"], "ratio"),
            f"risk-free rate {metrics['risk_free_rate']:.1%}",
        ),
        ("Largest drawdown", formatted(metrics["max_drawdown"], "percent"), _lowest(metrics)),
        ("Orders filled", f"{metrics['fills']:,}", f"{metrics['closed_trades']:,} trades closed"),
        (
            "Costs paid",
            money(metrics["costs"]),
            f"{metrics['costs'] / metrics['initial_equity']:.2%} of initial cash",
        ),
    ]
    items = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, value, note in tiles)
    return f"<dl class=tiles>{items}</dl>"


def _duration(metrics: Mapping[str, Any]) -> str:
    years, bars = metrics["years"], metrics["bars"]
    return f"over {years:.1f} years" if years >= 1 else f"from {bars:,} bars only"


def _lowest(metrics: Mapping[str, Any]) -> str:
    date = metrics["max_drawdown_date"]
    return f"lowest on {date}" if date else "never below its start"


def _sections(
    results: BacktestResults,
    charts: Mapping[str, Figure],
    symbols: list[str],
    run_info: Mapping[str, Any] | None,
) -> list[str]:
    learning = [name for name in charts if name.startswith("learning_")]
    sections = {
        "equity": ("Equity", _equity_section()),
        "drawdown": (
            "Drawdown",
            _chart("drawdown", "How far each account lay below its highest equity so far.", "short"),
        ),
        "metrics": ("Metrics", _metrics_section(results)),
        "months": ("Months", _months_section(results)),
        "weights": (
            "Weights",
            _chart("weights", "Share of equity in each symbol at the close of each bar, and in cash."),
        ),
        "activity": ("Turnover and costs", _activity_section()),
        "prices": ("Prices and fills", _prices_section(results, symbols)),
        "trades": ("Trades", _trades_section(results)),
        "learning": ("Learning", _learning_section(learning)),
        "limits": ("What this does not show", _limits_section(results)),
        "configuration": ("Configuration", _configuration_section(results, run_info)),
    }
    if not learning:
        del sections["learning"]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, (title, _) in sections.items())
    parts = [f'<nav aria-label="Sections"><ul>{links}</ul></nav>']
    for name, (title, body) in sections.items():
        parts.append(f'<section id="{name}" aria-labelledby="{name}-head">{_head(name, title)}{body}</section>')
    return parts


def _head(name: str, title: str) -> str:
    toggle = (
        '<button type="button" data-log="equity-chart" aria-pressed="false">Logarithmic scale</button>'
        if name == "equity"
        else ""
    )
    return f'<div class=head><h2 id="{name}-head">{title}</h2>{toggle}</div>'


def _chart(name: str, caption: str, size: str = "", hint: str = "") -> str:
    more = f" <span class=hint>{hint}</span>" if hint else ""
    return (
        f'<figure class=box><div class="chart {size}" id="{name}-chart" data-figure="{text(name)}" role=img '
        f'aria-label="{text(caption)}"></div><figcaption>{text(caption)}{more}</figcaption></figure>'
    )


def _equity_section() -> str:
    caption = (
        "Cash plus positions at each close, after fees, slippage, interest and dividends. The baselines start with the "
        "same cash at the same bar and pay the same rates."
    )
    return _chart("equity", caption, "tall", "Drag across any chart to zoom, double-click to return.")


def _metrics_section(results: BacktestResults) -> str:
    metrics = results.metrics
    columns = {label: found for (label, *_), found in zip(accounts(results), _all_metrics(results), strict=True)}
    stats = metrics["vectorbt"]
    intro = (
        f"<p>Annualised with {metrics['periods_per_year']:g} bars a year and a risk-free rate of "
        f"{metrics['risk_free_rate']:.2%}; all after costs. Trades are matched first in, first out.</p>"
    )
    if stats is None:
        reason = results.vectorbt_obstacle if results.backtest_config.vectorbt else None
        why = "VectorBT's statistics were switched off." if reason is None else f"VectorBT's statistics: n/a. {reason}."
        return intro + metrics_table(columns, None) + f"<p>{text(why)}</p>"
    from stateful.analysis import in_our_terms

    theirs = in_our_terms(stats)
    ours, again = metrics["final_equity"], theirs["final_equity"] or 0.0
    agreement = "equals ours exactly" if again == ours else f"differs from ours by {abs(again - ours):.0e}"
    return (
        f"{intro}{metrics_table(columns, theirs)}"
        f"<p>VectorBT replayed the same fills on its own: its final equity {agreement}. "
        "It averages entry prices where we match lots, so it counts trades in its own way; they stand below.</p>"
        f"<details><summary>All of VectorBT's statistics</summary>"
        f"{plain_table(stats.items(), 'Statistics of VectorBT').replace('box scroll', 'scroll')}</details>"
    )


def _all_metrics(results: BacktestResults) -> list[Mapping[str, Any]]:
    return [results.metrics, *results.metrics["baselines"].values()]


def _months_section(results: BacktestResults) -> str:
    histories = [(label, history["equity"]) for label, history, *_ in accounts(results)]
    return (
        "<p>Return of the agent in each month, and of each account by year. Blue is a gain, orange a loss; "
        "the first and the last month may be incomplete.</p>" + monthly_table(results.equity, dict(histories[1:]))
    )


def _activity_section() -> str:
    turnover = "Money traded as a share of equity, by month where there are several, else by bar."
    costs = "Fees and slippage paid so far."
    return (
        "<div class=columns>"
        f"<section><h3>Turnover</h3>{_chart('turnover', turnover, 'short')}</section>"
        f"<section><h3>Costs</h3>{_chart('costs', costs, 'short')}</section></div>"
    )


def _prices_section(results: BacktestResults, symbols: list[str]) -> str:
    if not symbols:
        return "<p>No symbol has a price in this period.</p>"
    counts = results.fills["symbol"].value_counts()
    options = "".join(
        f'<option value="{i}">{text(symbol)} ({int(counts.get(symbol, 0)):,} fills)</option>'
        for i, symbol in enumerate(symbols)
    )
    caption = (
        "Closes, and the agent's fills at the price paid or received; larger marks are larger orders. "
        "Symbols are in order of the money traded."
    )
    left_out = len(results.market.symbols) - len(symbols)
    more = f" {left_out} further symbols are not shown." if left_out and len(symbols) == MAX_PRICE_CHARTS else ""
    return (
        f"<p><label for=symbol>Symbol</label> <select id=symbol>{options}</select></p>"
        f'<figure class=box><div class="chart tall" id=prices-chart role=img aria-label="{caption}"></div>'
        f"<figcaption>{caption}{more}</figcaption></figure>"
    )


def _trades_section(results: BacktestResults) -> str:
    trades = results.trades
    if not len(trades):
        return "<p>There are none: the agent never traded.</p>"
    part = (
        f"The first {MAX_TRADES:,} of {len(trades):,}; all are in <code>trades.csv</code>. "
        if len(trades) > MAX_TRADES
        else ""
    )
    return (
        f"<p>{part}One row per lot, first in, first out; profit is after the fees of both sides, without interest and "
        "dividends. What is still held is valued at the last close. Press a heading to sort.</p>"
        + trades_table(trades[list(TRADE_COLUMNS)])
    )


def _learning_section(names: list[str]) -> str:
    charts = "".join(
        f"<section><h3>{text(name[9:].replace('_', ' ').capitalize())}</h3>"
        f"{_chart(name, 'Evaluated during training, on the validation part.', 'short')}</section>"
        for name in names
    )
    return f"<div class=columns>{charts}</div>"


def _limits_section(results: BacktestResults) -> str:
    items = "".join(f"<li{' class=warn' if n.warning else ''}>{text(n.text)}</li>" for n in _notes(results))
    return f"<ul class=notes>{items}</ul>"


def _notes(results: BacktestResults) -> tuple[Note, ...]:
    return limits(results.metrics, results.config, results.market)


def _configuration_section(results: BacktestResults, run_info: Mapping[str, Any] | None) -> str:
    market = results.market
    facts = {
        **(run_info or {}),
        "data": market.source,
        "symbols": ", ".join(market.symbols),
        "bars": f"{market.n_bars:,} ({market.periods_per_year:g} a year)",
        "data fingerprint": market.fingerprint,
        "fill": results.config.fill,
    }
    blocks = "".join(
        f"<details><summary>{title}</summary><pre tabindex=0>{text(model.model_dump_json(indent=2))}</pre></details>"
        for title, model in (("Environment", results.config), ("Backtest", results.backtest_config))
    )
    return plain_table(facts.items(), "About this run") + blocks


def _footer(results: BacktestResults) -> str:
    return (
        "Made by batchenv. The same figures are in <code>metrics.json</code>, <code>history.parquet</code>, "
        "<code>fills.csv</code> and <code>trades.csv</code> beside this page."
    )
