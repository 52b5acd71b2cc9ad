"""How far luck could have moved the figures of a backtest.

Intervals are percentiles of 2,000 histories resampled in blocks (`stateful.evaluation.bootstrap`): the middle 95% of
what they come to. Percentiles, since they stay possible values (no return below -100%), agree whatever the unit
(return, yearly growth, logarithm), and say of a difference whether 0 is among its middle 95%. How often they hold the
truth is simulated in ``tests/proof/coverage.py``.

Two of them need a word. A difference is that between the agent and a baseline in the same resampled history. The
drawdown's interval is that of the drawdown in another history of the same length: a resampled path has one of its own,
and the one that happened may lie at either end. It takes the drift and volatility seen for the true ones, and so holds
the drawdown of a fresh period of the same kind in about 75 to 90% of cases, not 95% (`drawdown_words`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import default_rng

from batchenv.config import UncertaintyConfig
from stateful.evaluation.bootstrap import Resamples, common_block_length, resample, stationary_positions, varies
from stateful.evaluation.estimates import Figure, Interval, not_enough
from stateful.evaluation.sharpe import (
    Record,
    Trials,
    deflated_sharpe,
    minimum_track_record,
    probabilistic_sharpe,
    variance_of_trials,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MINIMUM_BARS = 60
"""Fewest returns that a statistic is computed from. From half as many, an interval of 95% holds the truth in 87% of
cases even where bars are independent (``python -m tests.proof.coverage --bars 30 60``)."""

DRAWDOWN_HOLDS = "75 to 90%"
"""How often the drawdown's interval of 95% holds the drawdown of a fresh period of the same world
(``python -m tests.proof.coverage --bars 60 252 795 --simulations 400 --resamples 500``)."""

FIGURES = ("total_return", "cagr", "sharpe", "max_drawdown")
"""The figures with an interval, by their names in the metrics."""


@dataclass(frozen=True)
class Difference:
    """The agent less a baseline.

    Attributes:
        total_return: Difference of the total returns.
        cagr: Difference of the yearly growth.
        sharpe: Difference of the yearly Sharpe ratios.
        probability_better: Part of the resampled histories in which the agent ends with more than the baseline.
        p_value: Two-sided: how often luck alone would bring the returns at least this far apart.
        distinguishable: Whether the interval of the yearly growth's difference leaves out 0: taken by itself.
        distinguishable_together: Whether that holds although the agent is compared with all baselines; see
            `hold_together`.
    """

    total_return: Interval
    cagr: Interval
    sharpe: Interval
    probability_better: float | None
    p_value: float | None
    distinguishable: bool | None
    distinguishable_together: bool | None = None


def hold_together(
    differences: Mapping[str, Difference], level: float, left_out: Collection[str] = ()
) -> dict[str, Difference]:
    """Return differences with ``distinguishable_together`` filled in.

    The probability that any of them is called distinguishable though there is no difference is at most 1 - ``level``:
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979). The
    smallest of n p-values has to be at most (1 - level) / n, the next (1 - level) / (n - 1), and so on, until one is
    not.

    Args:
        differences: The differences by name; those without a p-value are left as they are.
        level: Confidence.
        left_out: Names that nothing is claimed of, and that do not count.
    """
    known = sorted(
        (gap.p_value, name) for name, gap in differences.items() if gap.p_value is not None and name not in left_out
    )
    found, holds = dict(differences), True
    for rank, (p_value, name) in enumerate(known):
        holds = holds and (len(known) == 1 or p_value <= (1.0 - level) / (len(known) - rank))
        found[name] = replace(found[name], distinguishable_together=holds and bool(found[name].distinguishable))
    return found


@dataclass(frozen=True)
class Uncertainty:
    """How far luck could have moved the figures of a backtest.

    Attributes:
        level: Confidence of the intervals.
        resamples: Resampled histories.
        bars: Returns that were resampled.
        mean_block_length: Mean length of a block, in bars; None where nothing was resampled.
        agent: Intervals of the agent's figures, by the names of `FIGURES`.
        baselines: The same for each baseline.
        differences: The agent less each baseline.
        probabilistic_sharpe: Probability that the agent's true Sharpe ratio is above 0.
        deflated_sharpe: The same, given that it may be the best of all configurations tried.
        trials: How many configurations are known to have been tried on these bars, this one included; None where
            nobody counted.
        minimum_track_record: Bars needed to be confident, at ``level``, that the agent's true Sharpe ratio is above 0.
        dependent: These three with the dependence between bars counted, which they take to be none, by their names.
        dependence: Variance of the estimated Sharpe ratio over what it would be if bars were independent, at least 1.
        autocorrelation: Correlation of the agent's neighbouring returns.
    """

    level: float
    resamples: int
    bars: int
    mean_block_length: float | None
    agent: dict[str, Interval]
    baselines: dict[str, dict[str, Interval]]
    differences: dict[str, Difference]
    probabilistic_sharpe: Figure
    deflated_sharpe: Figure
    trials: int | None
    minimum_track_record: Figure
    dependent: dict[str, Figure]
    dependence: Figure
    autocorrelation: Figure

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return asdict(self)


def measure_uncertainty(
    agent: FloatArray,
    baselines: Mapping[str, FloatArray],
    *,
    config: UncertaintyConfig,
    periods_per_year: float | None,
    risk_free_rate: float = 0.0,
    trials: Trials | None = None,
    left_out: Collection[str] = (),
) -> Uncertainty:
    """Resample the accounts of a backtest.

    Args:
        agent: Equity of each bar, start bar first, in money, float64 ``[bars + 1]``.
        baselines: The same for each baseline. An account with fewer bars than the longest ended early.
        config: Resamples, level and seed.
        periods_per_year: Bars in a year; None where they are not known, and then there are no intervals.
        risk_free_rate: Yearly rate of the Sharpe ratio.
        trials: What else was tried on these bars, where known.
        left_out: Baselines that the agent is not compared with; they have intervals, and nothing is claimed of them.
    """
    accounts, length = resample_accounts(
        [agent, *baselines.values()], config=config, periods_per_year=periods_per_year, risk_free_rate=risk_free_rate
    )
    others = dict(zip(baselines, accounts[1:], strict=True))
    differences = {name: accounts[0].less(account) for name, account in others.items()}
    rate = 0.0 if periods_per_year is None else bar_rate(risk_free_rate, periods_per_year)
    record, missing = _record(agent, accounts[0].obstacle, rate)
    return Uncertainty(
        level=config.level,
        resamples=config.resamples,
        bars=max(map(len, [agent, *baselines.values()])) - 1,
        mean_block_length=length,
        agent=accounts[0].intervals(),
        baselines={name: account.intervals() for name, account in others.items()},
        differences=hold_together(differences, config.level, left_out),
        trials=None if trials is None else trials.count,
        **_proofs(record, missing, trials, config.level),
        dependent=_proofs(record and record.dependent, missing, trials, config.level),
        dependence=Figure(record.dependence) if record else Figure(None, missing),
        autocorrelation=Figure(record.autocorrelation) if record else Figure(None, missing),
    )


def _proofs(record: Record | None, missing: str | None, trials: Trials | None, level: float) -> dict[str, Figure]:
    """Return what a Sharpe ratio proves, or why that cannot be said."""
    if record is None:
        return dict.fromkeys(("probabilistic_sharpe", "deflated_sharpe", "minimum_track_record"), Figure(None, missing))
    return {
        "probabilistic_sharpe": Figure(probabilistic_sharpe(record)),
        "deflated_sharpe": _deflated(record, trials),
        "minimum_track_record": _track_record(record, level),
    }


def resample_accounts(
    equities: Sequence[FloatArray],
    *,
    config: UncertaintyConfig,
    periods_per_year: float | None,
    risk_free_rate: float = 0.0,
) -> tuple[list[Account], float | None]:
    """Resample several accounts by the same draws.

    Args:
        equities: Equity of each bar, start bar first, in money, float64 ``[bars + 1]``, one array for each account. An
            account with fewer bars than the longest ended early.
        config: Resamples, level and seed.
        periods_per_year: Bars in a year; None where they are not known, and then nothing is resampled.
        risk_free_rate: Yearly rate of the Sharpe ratio.

    Returns:
        The accounts in the same order, and the mean length of a block; None where nothing could be resampled.
    """
    bars = max(map(len, equities)) - 1
    obstacles = [_obstacle(equity, bars) for equity in equities]
    if periods_per_year is None:
        return [Account(config.level, obstacle or _NO_YEAR, {}) for obstacle in obstacles], None
    usable = [equity for equity, obstacle in zip(equities, obstacles, strict=True) if obstacle is None]
    length = None
    columns: Iterator[dict[str, FloatArray]] = iter(())
    if usable:
        returns = np.column_stack([_returns(equity) for equity in usable])
        length = common_block_length(returns)
        positions = stationary_positions(bars, length, config.resamples, default_rng(config.seed))
        drawn = resample(returns, _original_first(positions), bar_rate(risk_free_rate, periods_per_year))
        columns = iter(_figures(drawn, bars, periods_per_year))
    return [Account(config.level, obstacle, {} if obstacle else next(columns)) for obstacle in obstacles], length


def drawdown_words(level: float) -> str:
    """Say how far the drawdown's interval can be trusted.

    Args:
        level: Confidence of the intervals.
    """
    asked = ", not 95%" if level == 0.95 else " where 95% is asked for"
    return (
        "The interval of the drawdown holds less often than the others: it holds the drawdown of a fresh period of the "
        f"same kind in {DRAWDOWN_HOLDS} of cases{asked}."
    )


def bar_rate(yearly: float, periods_per_year: float) -> float:
    """Return the rate of a bar that compounds to a yearly one."""
    return float((1.0 + yearly) ** (1.0 / periods_per_year) - 1.0)


@dataclass(frozen=True, eq=False)
class Account:
    """What one account comes to: in the history that happened first, then in each resampled one.

    Attributes:
        level: Confidence of the intervals.
        obstacle: Why the account could not be resampled.
        values: Each of `FIGURES`, float64 ``[1 + resamples]``; empty where there is an obstacle.
    """

    level: float
    obstacle: str | None
    values: dict[str, FloatArray]

    def intervals(self) -> dict[str, Interval]:
        """Return each of `FIGURES` with its interval."""
        return {name: self._interval(name) for name in FIGURES}

    def less(self, other: Account) -> Difference:
        """Return this account less another, history by history."""
        if self.obstacle or other.obstacle:
            missing = Interval(None, None, None, self.obstacle or f"of the baseline, {other.obstacle}")
            return Difference(missing, missing, missing, None, None, None)
        gaps = Account(self.level, None, {name: self.values[name] - other.values[name] for name in FIGURES})
        found = gaps.intervals()
        drawn = gaps.values["total_return"][1:]
        above, below = int((drawn > 0).sum()), int((drawn < 0).sum())
        ties = len(drawn) - above - below
        # One is added to both counts so that no finite number of resamples claims certainty: A. Davison & D. Hinkley,
        # "Bootstrap methods and their application" (1997), section 4.2.
        tail = (min(above, below) + ties + 1) / (len(drawn) + 1)
        return Difference(
            total_return=found["total_return"],
            cagr=found["cagr"],
            sharpe=found["sharpe"],
            probability_better=(above + ties / 2) / len(drawn),
            p_value=min(1.0, 2.0 * tail),
            distinguishable=found["cagr"].excludes_zero,
        )

    def _interval(self, name: str) -> Interval:
        if self.obstacle:
            return Interval(None, None, None, self.obstacle)
        values = self.values[name]
        estimate = float(values[0]) if np.isfinite(values[0]) else None
        if np.isnan(values).any() and not np.isinf(values).any():
            return Interval(estimate, None, None, _STILL if estimate is None else _RARE)
        if not np.isfinite(values).all():
            return Interval(estimate, None, None, _HUGE)
        low, high = np.quantile(values[1:], [(1.0 - self.level) / 2.0, (1.0 + self.level) / 2.0])
        return Interval(estimate, float(low), float(high))


_STILL = "needs at least two returns that differ"
_RARE = "its returns differ on too few bars: some resampled histories have none of them"
_NO_YEAR = "the number of bars in a year is not known"
_HUGE = "beyond any number, stretched to a year from so few bars"


def _returns(equity: FloatArray) -> FloatArray:
    return np.asarray(equity[1:] / equity[:-1] - 1.0)


def _obstacle(equity: FloatArray, bars: int) -> str | None:
    """Say why an account cannot be resampled, or return None where it can."""
    if bars < MINIMUM_BARS:
        return not_enough(MINIMUM_BARS, bars)
    if not (equity > 0).all():
        return "the account lost everything"
    if len(equity) - 1 < bars:
        return f"the account ended early, after {len(equity) - 1:,} of {bars:,} bars"
    return None


def _original_first(positions: Iterable[IntArray]) -> Iterator[IntArray]:
    """Put the history that happened, which takes every bar in its turn, before the resampled ones."""
    for bar, drawn in enumerate(positions):
        yield np.append(bar, drawn)


def _figures(drawn: Resamples, bars: int, periods: float) -> list[dict[str, FloatArray]]:
    """Return `FIGURES` for each account, float64 ``[1 + resamples]``, by the formulas of `stateful.metrics`."""
    with np.errstate(over="ignore", invalid="ignore"):  # what a few bars make of a year may be beyond any number
        values = {
            "total_return": np.expm1(drawn.growth),
            "cagr": np.expm1(drawn.growth * (periods / bars)),
            "sharpe": drawn.sharpe * math.sqrt(periods),
            "max_drawdown": drawn.drawdown,
        }
    return [{name: array[:, i] for name, array in values.items()} for i in range(drawn.growth.shape[1])]


def _record(agent: FloatArray, obstacle: str | None, risk_free: float) -> tuple[Record | None, str | None]:
    """Return the agent's record, or why it has none."""
    if obstacle:
        return None, obstacle
    returns = _returns(agent)
    return (Record.of(returns, risk_free), None) if varies(returns) else (None, _STILL)


def _track_record(record: Record, level: float) -> Figure:
    needed = minimum_track_record(record, confidence=level)
    return Figure(needed) if needed else Figure(None, "the Sharpe ratio is not above 0, so no length is enough")


def _deflated(record: Record, trials: Trials | None) -> Figure:
    if trials is None:
        return Figure(
            None, "how many configurations were tried is not known; it is counted where run folders are tested"
        )
    if trials.count == 1:
        return Figure(None, "only one configuration is known to have been tried on these bars: nothing to deflate")
    spread = variance_of_trials(record, trials)
    if spread is None:
        return Figure(None, f"{trials.count} configurations were tried, but no other Sharpe ratio than this is known")
    return Figure(deflated_sharpe(record, trials.count, spread))
