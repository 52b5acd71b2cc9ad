"""What the report shows of the accounts: each function returns the body of one section as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stateful.curves import half_a_year, rolling_obstacle
from stateful.evaluation.uncertainty import drawdown_words
from stateful.figures import accounts, bucket_size, grows_manifold
from stateful.metrics import iso_date
from stateful.price_figures import MAX_CHARTS, MAX_MARKS, rows_drawn
from stateful.report_parts import BY_NAME, chart_box, formatted, missing, plain_table, text
from stateful.report_tables import MAX_TRADES, comparison_table, footnotes, metrics_table, monthly_table, trades_table
from stateful.verdict import percent

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults
    from stateful.tear_sheet import TearSheet


def equity_section(results: BacktestResults) -> str:
    """Equity of all accounts, with the band of the agent's."""
    others = (
        "<button type=button data-group=others aria-pressed=true>Other baselines</button>"
        if len(results.baselines) > 1
        else ""
    )
    tools = (
        f"<div class=tools>{others}"
        f"<button type=button data-log=equity-chart aria-pressed={str(grows_manifold(results)).lower()}>"
        "Logarithmic scale</button></div>"
    )
    caption = (
        "Cash plus positions at each close, after fees, slippage, interest and dividends. The baselines start with the "
        f"same cash at the same bar and pay the same rates.{_band_words(results)}{_thinned(results)}"
    )
    ends = ", ".join(
        f"{account.label} {formatted(float(account.history['equity'].iloc[-1]), 'money')}"
        for account in accounts(results)
    )
    told = f"Lines of equity. At the end: {ends}. The same figures are in the table of the next section."
    hint = "Drag across any chart to zoom, double-click to return; press a name to show or hide it."
    return chart_box("equity", caption, "tall", told=told, hint=hint, tools=tools)


def _band_words(results: BacktestResults) -> str:
    found = results.uncertainty
    if found is None:
        return ""
    interval = found.agent["total_return"]
    if interval.low is None:
        return f" No band is drawn: {interval.reason}."
    return (
        f" The band holds, at each bar, the middle {percent(found.level, digits=0)} of {found.resamples:,} histories "
        "resampled from the agent's own bars: where it could as well have been in another stretch of the same kind. It "
        "ends in the interval of the total return."
    )


def _thinned(results: BacktestResults) -> str:
    every = bucket_size(len(results.history))
    return f" Every {every}{_ordinal(every)} bar is drawn." if every > 1 else ""


def _ordinal(number: int) -> str:
    if 10 <= number % 100 <= 20:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def drawdown_section(results: BacktestResults) -> str:
    """How deep each account fell."""
    depth = formatted(results.metrics["max_drawdown"], "percent")
    told = f"Lines of drawdown. The agent's largest is {depth}, lowest on {results.metrics['max_drawdown_date']}."
    return chart_box("drawdown", "How far each account lay below its highest equity so far.", "short", told=told)


def rolling_section(results: BacktestResults) -> str:
    """The Sharpe ratio of half a year, moving along."""
    reason = rolling_obstacle(results)
    if reason is not None:
        return missing("Rolling Sharpe ratio", reason)
    periods = results.market.require_year("the rolling Sharpe ratio")
    window = half_a_year(periods)
    caption = (
        f"Yearly Sharpe ratio of the last {window:,} bars, about half a year, at each bar. Its standard error is about "
        f"{(periods / window) ** 0.5:.1f}: swings of that size are noise."
    )
    return chart_box("rolling_sharpe", caption, "short")


def comparison_section(results: BacktestResults) -> str:
    """The main figures of all accounts."""
    found = results.uncertainty
    note = ""
    if found is not None:
        reasons = {interval.reason for interval in found.agent.values() if interval.reason}
        note = "".join(missing("Intervals of the agent's figures", reason) for reason in sorted(reasons))
        if not reasons:
            note = (
                f"<p>Small under the agent's figures: the middle {percent(found.level, digits=0)} of "
                f"{found.resamples:,} resampled histories. {drawdown_words(found.level)} Press a heading to sort.</p>"
            )
    return note + comparison_table(results)


def metrics_section(results: BacktestResults, sheet: TearSheet | None) -> str:
    """All figures of the agent and its main baseline, VectorBT's beside them, and the rest folded away."""
    metrics, stats = results.metrics, results.metrics["vectorbt"]
    figures = {"": metrics, **metrics["baselines"]}
    columns = {account.label: figures[account.name] for account in accounts(results)}
    main, others = dict(list(columns.items())[:2]), dict(list(columns.items())[2:])
    intro = f"<p>{_annualised(results)} All figures are after costs. Trades are matched first in, first out.</p>"
    rest = (
        "<details><summary>The same of the other baselines</summary>"
        f"{metrics_table(others, None)}{footnotes(others, main)}</details>"
        if others
        else ""
    )
    table = metrics_table(main, _in_our_terms(stats)) + footnotes(main)
    return intro + table + rest + _vectorbt_words(results) + _sheet_words(sheet)


def _annualised(results: BacktestResults) -> str:
    """Say how figures per year are made, or why there are none."""
    year, rate = results.market.year, results.metrics["risk_free_rate"]
    if year.periods is None:
        return f"No figure is per year, since the number of bars in a year is not known: {text(year.reason)}."
    return (
        f"Figures per year count {year.periods:g} bars a year ({text(year.reason)}) and a risk-free rate of {rate:.2%}."
    )


def _in_our_terms(stats: dict[str, Any] | None) -> dict[str, Any] | None:
    if stats is None:
        return None
    from stateful.analysis import in_our_terms

    return in_our_terms(stats)


def _vectorbt_words(results: BacktestResults) -> str:
    stats = results.metrics["vectorbt"]
    theirs = _in_our_terms(stats)
    if stats is None or theirs is None:
        reason = results.vectorbt_obstacle if results.backtest_config.vectorbt else None
        why = "VectorBT's statistics were switched off." if reason is None else f"VectorBT's statistics: n/a. {reason}."
        return f"<p>{text(why)}</p>"
    ours, again = results.metrics["final_equity"], theirs["final_equity"] or 0.0
    agreement = "equals ours exactly" if again == ours else f"differs from ours by {abs(again - ours):.0e}"
    return (
        f"<p>VectorBT replayed the same fills on its own: its final equity {agreement}. "
        "It averages entry prices where we match lots, so it counts trades in its own way.</p>"
        f"<details><summary>All of VectorBT's statistics</summary>"
        f"{plain_table(stats.items(), 'Statistics of VectorBT')}</details>"
    )


def _sheet_words(sheet: TearSheet | None) -> str:
    if sheet is None:
        return "<p>QuantStats' tear sheet was not asked for.</p>"
    if sheet.reason is not None:
        return missing("QuantStats' tear sheet", sheet.reason)
    return f'<p>A third opinion, on the same returns: <a href="{sheet.file}">QuantStats\' tear sheet</a>.</p>'


def months_section(results: BacktestResults) -> str:
    """Return of each month, and of each year beside the main baseline."""
    rest = {account.label: account.history["equity"] for account in accounts(results) if account.role == "main"}
    return (
        "<p>Return of the agent in each month, and by year. Blue is a gain, orange a loss; the first and the last "
        f"month may be incomplete.</p>{monthly_table(results.equity, rest)}"
    )


def weights_section(results: BacktestResults) -> str:
    """What the agent held."""
    return chart_box("weights", "Share of equity in each symbol at the close of each bar, and in cash.")


def activity_section(results: BacktestResults) -> str:
    """How much was traded, and what it cost."""
    metrics = results.metrics
    turnover = "Money traded as a share of equity, by month where there are several, else by bar."
    costs = "Fees and slippage paid so far."
    told = f"Line of costs paid so far; {formatted(metrics['costs'], 'money')} at the end."
    return (
        "<div class=columns>"
        f"<section><h3>Turnover</h3>{chart_box('turnover', turnover, 'short')}</section>"
        f"<section><h3>Costs</h3>{chart_box('costs', costs, 'short', told=told)}</section></div>"
    )


def prices_section(results: BacktestResults, symbols: Iterable[str]) -> str:
    """Prices of one symbol at a time, with the agent's fills."""
    symbols = list(symbols)
    if not symbols:
        return "<p>No symbol has a price in this period.</p>"
    counts = results.fills["symbol"].value_counts()
    options = "".join(
        f'<option value="price-{i}">{text(symbol)} ({int(counts.get(symbol, 0)):,} fills)</option>'
        for i, symbol in enumerate(symbols)
    )
    caption = (
        "Closes, and the agent's fills at the price paid or received; larger marks are larger orders. "
        "Symbols are in order of the money traded."
    )
    every = -(-len(results.history) // len(rows_drawn(len(results.history), len(symbols))))
    if every > 1:
        caption += f" Every {every}{_ordinal(every)} close is drawn."
    if len(counts) and int(counts.max()) > MAX_MARKS:
        caption += f" Of each symbol the {MAX_MARKS:,} largest fills are marked; all are in fills.csv."
    left_out = len(results.market.symbols) - len(symbols)
    if left_out and len(symbols) == MAX_CHARTS:
        caption += f" {left_out} further symbols are not shown."
    return (
        f"<p><label for=symbol>Symbol</label> <select id=symbol data-picks=price-0-chart>{options}</select></p>"
        + chart_box("price-0", caption, "tall")
    )


def trades_section(results: BacktestResults) -> str:
    """Every lot, or those that mattered most."""
    trades = results.trades
    if not len(trades):
        return "<p>There are none: the agent never traded.</p>"
    part = (
        f"The {MAX_TRADES:,} of {len(trades):,} that gained or lost most; all are in "
        '<a href="trades.csv">trades.csv</a>. '
        if len(trades) > MAX_TRADES
        else ""
    )
    return (
        f"<p>{part}One row per lot, first in, first out; profit is after the fees of both sides, without interest and "
        f"dividends. What is still held is valued at the last close.</p>{trades_table(trades)}"
    )


def learning_section(names: Iterable[str]) -> str:
    """The agent's evaluations during training."""
    charts = ""
    for name in names:
        measured = name.removeprefix("learning_")
        label = BY_NAME[measured].label if measured in BY_NAME else measured.replace("_", " ").capitalize()
        charts += f"<section>{chart_box(name, f'{label}, on the validation part.', 'short')}</section>"
    return (
        f"<p>What the agent was worth each time that it was evaluated in training.</p><div class=columns>{charts}</div>"
    )


def configuration_section(results: BacktestResults, run_info: Mapping[str, Any] | None) -> str:
    """What ran, and under which rules."""
    market = results.market
    span, gone = results.trained_on, market.delistings
    facts = {
        **(run_info or {}),
        **({} if span is None or run_info else {"Trained on": f"{iso_date(span[0])} to {iso_date(span[1])}"}),
        "Data": market.source,
        "Symbols": ", ".join(market.symbols),
        "Bars": f"{market.n_bars:,}",
        "Bars in a year": "not known" if market.year.periods is None else f"{market.year.periods:g}",
        "That rests on": market.year.reason,
        **({"Delisted": ", ".join(f"{name} {when}" for name, when in market.delistings.items())} if gone else {}),
        **({"About the data": " ".join(market.notes)} if market.notes else {}),
        "Data fingerprint": market.fingerprint,
        "Fill": results.config.fill,
    }
    blocks = "".join(
        f"<details><summary>{title}</summary><pre tabindex=0>{text(model.model_dump_json(indent=2))}</pre></details>"
        for title, model in (("Environment", results.config), ("Backtest", results.backtest_config))
    )
    return plain_table(facts.items(), "About this run") + blocks
