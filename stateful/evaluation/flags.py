"""Red flags: what makes the figures of a backtest look better than they are, each named, with its number.

A check returns a `Flag`, or None where there is nothing to flag. Flags are sorted by severity:

* ``severe``: the figures cannot be believed as they stand;
* ``warning``: they rest on little, or on something that may not come again;
* ``note``: something could not be checked, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchenv.errors import ConfigError
from batchenv.market import MarketData
from stateful.evaluation.attribution import ACCOUNT
from stateful.evaluation.capacity import Participation
from stateful.metrics import bar_returns, iso_date
from stateful.verdict import money, no_measure, percent

if TYPE_CHECKING:
    from stateful.backtest import BacktestResults

Floats = npt.NDArray[np.float64]
Severity = Literal["severe", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("severe", "warning", "note")
Span = tuple[np.datetime64, np.datetime64]
TrainedOn = MarketData | tuple[Any, Any]
"""The bars that an agent was trained and chosen on: a market, or its first and last timestamp, both included."""

MANY_TRIALS = 5
"""Configurations tried on the same bars: if none has skill, the best of 5 passes a test at 5% in 1 - 0.95^5 = 23% of
cases."""
MIN_TRADES = 30
"""Closed trades: with fewer, the standard error of the share of winners, sqrt(0.25 / n), is above 9 points."""
ONE_SOURCE = 0.9
"""Part of the profit that makes one symbol, month or handful of bars all of it, for practical purposes."""
HANDFUL = 5
"""Bars that count as a handful: a week of trading."""
MIN_BARS, MIN_MONTHS = 250, 12
"""Bars and months below which a handful of bars, or one month, is most of the period in any case. With normal returns
and a Sharpe ratio of 1, the best 5 of 250 bars bring 0.8 of a year's return and the best of 12 months 0.55; of half
a year they bring 1.4 and 0.9."""
UNFILLABLE = 0.10
"""Part of a bar's volume beyond which nobody gets filled at its price; zipline's default limit for basis points of
slippage (``FixedBasisPointsSlippage(volume_limit=0.1)``)."""
NOTICED = 0.01
"""Part of a bar's volume that moves the price: about a tenth of the bar's volatility, by the square-root law (Toth and
others, "Anomalous price impact and the critical nature of liquidity in financial markets", Physical Review X 1, 2011).
"""
TOLERATED = 0.01
"""Part of the money traded that may go beyond these limits without a flag."""
SAME_ACTION = 0.02
"""Difference of action numbers, in [-1, 1], that counts as none: 1% of their range."""
CONSTANT = 0.95
"""Part of the bars with the same action that makes a policy constant."""
FOLLOWS = 0.98
"""Correlation with a baseline's returns from which on it explains 96% of the agent's variance (0.98 squared)."""
MIN_STEPS = 30
"""Bars below which neither actions nor a correlation say much: the 95% interval of a correlation of 0.98 in 30 returns
goes from 0.958 to 0.991 (Fisher's z)."""
DEPENDENT = 1.3
"""How many times its variance under independence an estimate has where it matters: a test at 5% is then one at 7.5%,
since 1.645 / sqrt(1.3) = 1.44."""
SIGNIFICANT = 1.96
"""An autocorrelation times the root of the number of bars, below which chance explains it (in 97.5% of cases)."""
_ONE_SIDED = 1.645
COSTLY = 0.5
"""Part of the profit before costs that goes to costs: at one half, costs twice as high leave nothing."""


@dataclass(frozen=True)
class Flag:
    """Something that makes a backtest look better than it is.

    Attributes:
        name: What was found, such as ``few_trades``.
        severity: ``severe``, ``warning`` or ``note``.
        text: One to three sentences with number, threshold and reason.
    """

    name: str
    severity: Severity
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text


def red_flags(results: BacktestResults) -> tuple[Flag, ...]:
    """Return everything that is to be flagged in a backtest, the gravest first."""
    if not results.metrics["bars"]:
        return ()
    found = [*results.fit, *(flag for check in _CHECKS if (flag := check(results)) is not None)]
    return tuple(sorted(found, key=lambda flag: SEVERITIES.index(flag.severity)))


def training_span(trained_on: TrainedOn | None) -> Span | None:
    """Return the first and the last timestamp of the bars that an agent was trained and chosen on.

    Raises:
        ConfigError: It is neither a market nor two timestamps in order.
    """
    if trained_on is None:
        return None
    if isinstance(trained_on, MarketData):
        return trained_on.timestamps[0], trained_on.timestamps[-1]
    try:
        stamps = [pd.Timestamp(end) for end in trained_on]
        first, last = (t.tz_convert(None).to_datetime64() if t.tz else t.to_datetime64() for t in stamps)
    except (TypeError, ValueError):
        first = last = np.datetime64("NaT")
    if not first <= last:
        raise ConfigError(f"trained_on: got {trained_on!r}, expected a MarketData, or its first and last timestamp")
    return first, last


# --- is it a test at all ------------------------------------------------------------------------------------


def _seen_in_training(results: BacktestResults) -> Flag | None:
    """Bars that the agent was trained or chosen on, as somebody says or as its model remembers."""
    stamps = results.history.index.to_numpy()
    known = (results.trained_on, results.remembered)
    spans = [span for span in known if span is not None and _within(stamps, span).any()]
    if not spans:
        return _training_unknown(results)
    count = int(np.any([_within(stamps, span) for span in spans], axis=0).sum())
    first, last = min(first for first, _ in spans), max(last for _, last in spans)
    return Flag(
        "seen_in_training",
        "severe",
        f"This is not a test: {count:,} of its {len(stamps):,} bars ({percent(count / len(stamps))}) lie in the period "
        f"that the agent was trained or chosen on, {iso_date(first)} to {iso_date(last)}. What it did there shows "
        "what it remembers, not what it would do on new bars.",
    )


def _training_unknown(results: BacktestResults) -> Flag | None:
    """A training that nobody spoke of, whose bars the model may remember."""
    if results.trained_on is not None:
        return None
    name = "seen_in_training_unknown"
    if results.remembered is None:
        text = "Not checked: whether the agent has seen these bars in training. Nothing says which it was trained on."
        return Flag(name, "note", text)
    first, last = (iso_date(end) for end in results.remembered)
    return Flag(
        name,
        "note",
        f"Not checked: whether the agent learned from other bars too, or was chosen on these. It remembers the bars "
        f"{first} to {last}, none of which are tested; trained_on says the rest.",
    )


def _scaled_by_tested_bars(results: BacktestResults) -> Flag | None:
    """Feature scaling that knows the bars that are tested."""
    scaler, stamps = results.scaler, results.history.index.to_numpy()
    if scaler is None or scaler.fitted_on is None:
        return None
    first, last = (np.datetime64(end) for end in scaler.fitted_on)
    seen = int(_within(stamps, (first, last)).sum())
    if not seen:
        return None
    return Flag(
        "scaled_by_tested_bars",
        "severe",
        f"Scaled by tested bars: mean and standard deviation of the features were measured on {iso_date(first)} to "
        f"{iso_date(last)}, and {seen:,} of the {len(stamps):,} bars tested are among them. So the agent sees what "
        "nobody could have known then; hand in the training's scaling (scaler=), or test on the later part of a split.",
    )


def _within(stamps: npt.NDArray[Any], span: Span) -> npt.NDArray[np.bool_]:
    return np.asarray((stamps >= span[0]) & (stamps <= span[1]))


def _tried_before(results: BacktestResults) -> Flag | None:
    """Bars on which one configuration after the other was tried."""
    count = 1 if results.trials is None else results.trials.count
    if count < MANY_TRIALS:
        return None
    return Flag(
        "tried_before",
        "warning",
        f"These bars were tested on before: {count:,} configurations are known to have been tried on them (flagged "
        f"from {MANY_TRIALS}). If none had any skill, the best of them would pass a test at 5% with a chance of "
        f"{percent(1 - 0.95**count, digits=0)}; the deflated Sharpe ratio counts that.",
    )


def _optimistic_fills(results: BacktestResults) -> Flag | None:
    """Fills at the close that the decision was made on."""
    if results.config.fill != "close":
        return None
    return Flag(
        "optimistic_fills",
        "severe",
        "Optimistic fills: orders fill at the very close that they were decided on (fill = 'close'). Nobody can trade "
        "like that; run again with 'next_open' before believing these figures.",
    )


def _level_features(results: BacktestResults) -> Flag | None:
    """Features that know later splits and dividends."""
    names = results.level_features
    if not names:
        return None
    return Flag(
        "level_features",
        "severe",
        f"Features that look ahead: {', '.join(names)}. They depend on the level of prices or volumes, and adjusted "
        "prices and volumes know later splits and dividends. Use ratios, or data that are not adjusted "
        "(data.adjusted: false).",
    )


def _ruined(results: BacktestResults) -> Flag | None:
    """An account that ended before its time (rule 7.1)."""
    equity, fraction = results.equity, results.config.portfolio_config.bankruptcy_fraction
    if equity.iloc[-1] > fraction * (1 + 1e-9) * equity.iloc[0] + 1e-12 * equity.max():
        return None
    return Flag(
        "ruined",
        "severe",
        f"The account was ruined on {results.metrics['last_date']}, with {money(equity.iloc[-1])} left of "
        f"{money(equity.iloc[0])}. Figures per year and ratios stop there; the baselines went on.",
    )


# --- does it trade, and could anybody ------------------------------------------------------------------------


def _few_trades(results: BacktestResults) -> Flag | None:
    """No trades, or too few to tell skill from luck."""
    metrics = results.metrics
    if not metrics["fills"]:
        return Flag("never_traded", "severe", "The agent never traded: there is nothing to judge.")
    closed = metrics["closed_trades"]
    if closed >= MIN_TRADES:
        return None
    why = "No position was ever closed, so no decision has been seen through."
    if closed:
        error = percent(0.5 / math.sqrt(closed), digits=0)
        why = f"The share of winners among so few has a standard error of {error}: luck looks like skill."
    return Flag("few_trades", "warning", f"Too few trades: {closed:,} closed (flagged below {MIN_TRADES}). {why}")


def _unfillable(results: BacktestResults) -> Flag | None:
    """Orders that take too much of the volume of their bar."""
    found = Participation.measure(results.fills, results.market)
    if found is None:
        text = "Not checked: whether anybody could fill these orders. The data have no volumes."
        return Flag("unfillable_unknown", "note", text) if len(results.fills) else None
    if found.beyond(UNFILLABLE) > TOLERATED:
        return _beyond_volume(results, found, UNFILLABLE, "severe", "Nobody gets filled like that at the bar's price.")
    if found.beyond(NOTICED) > TOLERATED and not results.config.cost_config.impact_coefficient:
        why = "Orders of that size move the price, and these costs do not count it (cost_config.impact_coefficient)."
        return _beyond_volume(results, found, NOTICED, "warning", why)
    return None


def _beyond_volume(results: BacktestResults, found: Participation, limit: float, severity: Severity, why: str) -> Flag:
    largest, part = found.fills.iloc[int(found.parts.argmax())], float(found.parts.max())
    most = f"{percent(part)} of it" if np.isfinite(part) else "a fill in a bar without any volume"
    capacity = found.capacity(results.metrics["initial_equity"], NOTICED, TOLERATED)
    if capacity > 0:
        why += f" An account that starts with {money(capacity)} stays within {percent(NOTICED, digits=0)}."
    return Flag(
        "unfillable",
        severity,
        f"Too large for the market: {percent(found.beyond(limit))} of the money traded went into orders beyond "
        f"{percent(limit, digits=0)} of their bar's volume (flagged above {percent(TOLERATED, digits=0)}), at most "
        f"{most} ({largest['symbol']}, {iso_date(largest['timestamp'])}). {why}",
    )


def _costs(results: BacktestResults) -> Flag | None:
    """Trading for free, or costs that decide the result."""
    metrics = results.metrics
    if not metrics["fills"]:
        return None
    if metrics["costs"] == 0:
        return Flag("free_trading", "warning", "Trading was free: no fee was paid and no slippage.")
    kept = metrics["final_equity"] - metrics["initial_equity"]
    before = kept + metrics["costs"]
    if before <= 0 or metrics["costs"] < COSTLY * before:
        return None
    return Flag(
        "costs_decide",
        "warning",
        f"Costs decide: fees and slippage took {percent(metrics['costs'] / before)} of the {money(before)} made "
        f"before them (flagged from {percent(COSTLY, digits=0)}). "
        + (f"Costs {before / metrics['costs']:.1f} times as high leave nothing." if kept > 0 else "Nothing was left."),
    )


# --- where the profit comes from ------------------------------------------------------------------------------


def _one_symbol(results: BacktestResults) -> Flag | None:
    """A profit that one symbol made."""
    profit = results.attribution.change
    if profit <= 0 or results.market.n_symbols < 2:
        return None
    totals = results.attribution.by("symbol")["total"].drop(ACCOUNT)
    best, name = float(totals.max()), totals.idxmax()
    if best < ONE_SOURCE * profit:
        return None
    return Flag(
        "one_symbol",
        "warning",
        f"One symbol made the profit: of {money(profit)} in all, {name} brought {money(best)} and everything else "
        f"together {money(profit - best)} (flagged from {percent(ONE_SOURCE, digits=0)} in one symbol). The "
        "path of one price is one observation.",
    )


def _one_month(results: BacktestResults) -> Flag | None:
    """A return that one month made."""
    equity = results.equity
    if equity.iloc[-1] <= equity.iloc[0]:
        return None
    months = equity.groupby(pd.DatetimeIndex(equity.index).to_period("M")).last()
    growth = np.diff(np.log([equity.iloc[0], *months]))
    return _concentrated("one_month", f"its best month, {months.index[int(growth.argmax())]}", growth, 1, MIN_MONTHS)


def _few_bars(results: BacktestResults) -> Flag | None:
    """A return that a handful of bars made."""
    equity = results.equity.to_numpy(np.float64)
    if equity[-1] <= equity[0]:
        return None
    return _concentrated("few_bars", f"its best {HANDFUL} bars", np.diff(np.log(equity)), HANDFUL, MIN_BARS)


def _concentrated(name: str, words: str, growth: Floats, count: int, least: int) -> Flag | None:
    """Flag a return of which the best ``count`` of its parts, as log returns, are `ONE_SOURCE` or more.

    With fewer than ``least`` parts that says nothing.
    """
    if len(growth) < least:
        text = f"Not checked: whether {words} made the return (needs {least}, has {len(growth)})."
        return Flag(f"{name}_unknown", "note", text)
    total, best = float(growth.sum()), float(np.sort(growth)[-count:].sum())
    if best < ONE_SOURCE * total:
        return None
    return Flag(
        name,
        "warning",
        f"The return hangs on {'one month' if count == 1 else f'{count} bars'}: without {words} "
        f"({percent(float(np.expm1(best)), sign=True)}), the total of "
        f"{percent(float(np.expm1(total)), sign=True)} would be {percent(float(np.expm1(total - best)), sign=True)} "
        f"(flagged from {percent(ONE_SOURCE, digits=0)} of the log return). What came once may not come again.",
    )


# --- is there a policy ----------------------------------------------------------------------------------------


def _constant_policy(results: BacktestResults) -> Flag | None:
    """An agent that does the same whatever it sees."""
    names = [name for name in results.history.columns if name.startswith("action[")]
    actions = results.history[names].to_numpy(np.float64)[1:]
    if len(actions) < MIN_STEPS or np.isnan(actions).any():
        return None
    usual = np.median(actions, axis=0)
    same = float((np.abs(actions - usual) <= SAME_ACTION).all(axis=1).mean())
    if same < CONSTANT:
        return None
    return Flag(
        "constant_policy",
        "warning",
        f"The policy is constant: in {percent(same)} of the bars the action is the same within "
        f"{percent(SAME_ACTION / 2, digits=0)} of its range (flagged from {percent(CONSTANT, digits=0)}). It does not "
        "react to what it observes; a fixed rule does as well.",
    )


def _follows_a_baseline(results: BacktestResults) -> Flag | None:
    """Returns that are a baseline's in another size."""
    mine = bar_returns(np.asarray(results.equity, np.float64))
    best: tuple[float, float, str] = (0.0, 0.0, "")
    for name, account in results.baselines.items():
        theirs = bar_returns(np.asarray(account["equity"], np.float64))
        both = np.vstack([mine[: len(theirs)], theirs[: len(mine)]])
        if both.shape[1] >= MIN_STEPS and (np.ptp(both, axis=1) > 0).all():
            spread = np.cov(both)
            correlation = float(spread[0, 1] / np.sqrt(spread[0, 0] * spread[1, 1]))
            best = max(best, (correlation, float(spread[0, 1] / spread[1, 1]), results.labels[name]))
    correlation, beta, label = best
    if correlation < FOLLOWS:
        return None
    return Flag(
        "follows_baseline",
        "warning",
        f"The agent does what {label} does: its returns follow that baseline's with correlation {correlation:.3f} "
        f"(flagged from {FOLLOWS:g}) and beta {beta:.2f}. What it earned is what that exposure earns.",
    )


def _dependent_bars(results: BacktestResults) -> Flag | None:
    """Returns so alike from bar to bar that the Sharpe ratio proves less than its formula says."""
    found = results.uncertainty
    if found is None or found.dependence.value is None or found.autocorrelation.value is None:
        return None
    ratio, correlation = found.dependence.value, found.autocorrelation.value
    if ratio < DEPENDENT or correlation * math.sqrt(found.bars) < SIGNIFICANT:
        return None
    error = percent(NormalDist().cdf(-_ONE_SIDED / math.sqrt(ratio)), digits=0)
    return Flag(
        "dependent_bars",
        "warning",
        f"Bars depend on each other: neighbouring returns correlate by {correlation:.2f}, and the variance of the "
        f"Sharpe ratio's estimate is {ratio:.1f} times what it would be otherwise (flagged from {DEPENDENT:g}). A test "
        f"at 5% that takes bars as independent errs in {error} of cases: read the probability with their dependence "
        "counted.",
    )


def _no_measure(results: BacktestResults) -> Flag | None:
    """Baselines that could not do what they mean to do."""
    named = [
        f"{results.labels[name]} {why['reason']}"
        for name, why in no_measure(results.metrics).items()
        if why["kind"] != "lost_to_costs"
    ]
    if not named:
        return None
    return Flag(
        "no_measure",
        "severe",
        f"No measure of the agent: {'; '.join(named)}. To be ahead of such an account says nothing, so it is left out "
        "of every count.",
    )


def _lost_to_costs(results: BacktestResults) -> Flag | None:
    """Baselines that traded their money away."""
    found = no_measure(results.metrics)
    named = [f"{results.labels[name]} {why['reason']}" for name, why in found.items() if why["kind"] == "lost_to_costs"]
    if not named:
        return None
    return Flag(
        "baseline_lost_to_costs",
        "note",
        f"Not counted as beaten: {'; '.join(named)}. Whoever trades less is ahead of that.",
    )


def _same_baselines(results: BacktestResults) -> Flag | None:
    """Baselines that are one account under several names."""
    same: dict[bytes, list[str]] = {}
    for name, account in results.baselines.items():
        same.setdefault(account["equity"].to_numpy(np.float64).tobytes(), []).append(results.labels[name])
    groups = [" and ".join([", ".join(names[:-1]), names[-1]]) for names in same.values() if len(names) > 1]
    if not groups:
        return None
    return Flag(
        "same_baselines",
        "note",
        f"Counted more than once: {'; '.join(groups)} did the same at every bar. It may be that no symbol has been "
        "listed for as long as a rule looks back, or that the test is shorter than a month.",
    )


_CHECKS: tuple[Callable[[BacktestResults], Flag | None], ...] = (
    _seen_in_training,
    _scaled_by_tested_bars,
    _tried_before,
    _dependent_bars,
    _optimistic_fills,
    _level_features,
    _ruined,
    _no_measure,
    _lost_to_costs,
    _same_baselines,
    _few_trades,
    _unfillable,
    _costs,
    _one_symbol,
    _one_month,
    _few_bars,
    _constant_policy,
    _follows_a_baseline,
)
