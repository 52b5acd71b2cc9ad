"""What the agent is compared with: simple rules, traded under the same costs, fills and start bar.

Each is a policy with `predict` (`stateful.policies`), so it runs wherever an agent does. In a backtest a baseline is
told the environment at the close of each bar and answers with orders in shares, which the agent's action mode does not
limit: buy and hold through a limit of 10% a bar would not be buy and hold.

A baseline of one's own is a subclass of `WeightRule` or `BaselinePolicy` there, or, for backtests alone, any class
with ``name``, ``label`` and ``orders``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from batchenv.config import BacktestConfig
from batchenv.episodes import draw
from batchenv.errors import ConfigError
from stateful.accounts import Accounts
from stateful.policies import BaselinePolicy, EqualRule, WeightRule, WindowRule
from stateful.portfolios import (
    best_equally,
    equal,
    expected_reversions,
    inverse_volatility,
    minimum_variance,
    normalised,
    reversion_towards,
)
from stateful.schedules import MONTH, NEVER, QUARTER, YEAR, BoolArray, Calendar, FloatArray, IntArray


class Baseline(Protocol):
    """What a backtest needs of a baseline."""

    @property
    def name(self) -> str:
        """Key in results and files, such as ``buy_and_hold``."""

    @property
    def label(self) -> str:
        """Name in words, as it reads in a sentence."""

    # ``waits`` and ``rests`` may be stated too: see `stateful.evaluation.comparable.incomparable`.

    def orders(self, env: Any) -> FloatArray:
        """Return the orders decided at the close of ``env.bar``.

        Args:
            env: The account, a `StatefulTradingEnv`; only bars up to ``env.bar`` may be looked at.

        Returns:
            Signed shares, float64 ``[symbols]``; positive buys.
        """


@dataclass(frozen=True)
class BuyAndHold(EqualRule):
    """Equal money in every symbol that is listed at the start, bought once and never traded again.

    The orders add up to all equity; where costs or a higher fill price make that unaffordable, rule 3.4 scales them
    down together, so everything is invested as far as it goes. Where the fill price is lower, the difference stays
    in cash. The money for a symbol without a bar to fill at waits for its next bar, and for a symbol that a
    participation limit allows in parts only, for as many bars as it takes.
    """

    name: str = "buy_and_hold"
    label: str = "buy and hold"
    rebalance_bars = None

    def _due(self, calendar: Calendar, opening: IntArray, bar: IntArray) -> IntArray:
        """Return the opening: there is one decision."""
        return opening

    def once(self, accounts: Accounts, since: IntArray) -> BoolArray:
        """Leave alone what was bought, unless it has to be divided again with a symbol that was listed a day later."""
        opening = accounts.calendar.opening(accounts.allowed, accounts.start)
        alone: BoolArray = since == opening
        return alone


@dataclass(frozen=True)
class EqualWeight(EqualRule):
    """The same money in every symbol listed so far, restored once a month or every ``rebalance_bars`` bars.

    With ``rebalance_bars`` 1 it is the uniform constant rebalanced portfolio.
    """

    rebalance_bars: int | None = None
    name: str = "equal_weight"
    label: str = "equal weight"


@dataclass(frozen=True)
class MinimumVariance(WindowRule):
    """The long-only portfolio with the least variance, by the shrunk covariance of a year's returns.

    See `stateful.portfolios.minimum_variance`. A symbol without a bar has a return of 0 there: on one clock, variances
    of all symbols are those of the same time.
    """

    window: int | None = None
    rebalance_bars: int | None = None
    span: ClassVar[int] = YEAR
    name: str = "minimum_variance"
    label: str = "minimum variance"

    def over(self, prices: FloatArray) -> FloatArray:
        """Return the weights with the least variance; see `WindowRule.over`."""
        return minimum_variance(prices)


@dataclass(frozen=True)
class InverseVolatility(WindowRule):
    """Weights in proportion to 1 / volatility of a quarter's returns; a symbol without a bar has a return of 0."""

    window: int | None = None
    rebalance_bars: int | None = None
    span: ClassVar[int] = QUARTER
    name: str = "inverse_volatility"
    label: str = "inverse volatility"

    def over(self, prices: FloatArray) -> FloatArray:
        """Return weights in proportion to 1 / volatility; see `WindowRule.over`."""
        return inverse_volatility(prices)


@dataclass(frozen=True)
class Momentum(WindowRule):
    """Equal weights of the symbols that gained most in a year without its last month.

    The last month tends to reverse (Jegadeesh & Titman, "Returns to buying winners and selling losers", Journal of
    Finance 48(1), 1993; Fama & French, "Multifactor explanations of asset pricing anomalies", Journal of Finance 51(1),
    1996, for the skipped month). Only winners are held, nothing is sold short.

    Attributes:
        skip: The last bars, which do not count; below ``window``. None for a month: a twelfth of a year of time, or 21
            bars where ``window`` counts bars.
        top: Part of the symbols that is held, rounded up to whole symbols.
    """

    window: int | None = None
    skip: int | None = None
    top: float = 1 / 3
    rebalance_bars: int | None = None
    name: str = "momentum"
    label: str = "momentum"
    span: ClassVar[int] = YEAR
    skipped_span: ClassVar[int] = MONTH

    def __post_init__(self) -> None:
        """Check the settings; see `BaselinePolicy`."""
        super().__post_init__()
        if self.window is None and self.skip is not None:
            raise ConfigError(f"{self.name}: skip is {self.skip} bars, expected a window in bars too")
        if self.window is not None and self.skip is None:
            object.__setattr__(self, "skip", 21)  # frozen
        if self.window is not None and self.skip is not None and self.skip >= self.window:
            raise ConfigError(f"{self.name}: skip is {self.skip}, expected less than window, {self.window}")
        if not 0 < self.top <= 1:
            raise ConfigError(f"{self.name}: top is {self.top:g}, expected a fraction above 0 and up to 1")

    def over(self, prices: FloatArray) -> FloatArray:
        """Return equal weights of the winners; see `WindowRule.over`."""
        return best_equally(prices[-1] / prices[0], self.top)


@dataclass(frozen=True)
class OLMAR(WeightRule):
    """On-Line Moving Average Reversion: buys what is below its moving average; trades at every bar.

    See `stateful.portfolios.reversion_step`. A portfolio follows from the one before. The first is uniform, and stands
    at the first bar of the data, not of the episode: an account joins a portfolio that is under way. A moving average
    is that of a symbol's own last bars: a weekend of others does not repeat its Friday.

    While the data are shorter than that, the portfolio does what the authors' own code does (B. Li, D. Sahoo & S. Hoi,
    "OLPS: a toolbox for on-line portfolio selection", Journal of Machine Learning Research 17, 2016): uniform for two
    bars, then the last price relative in place of the expected one until there are ``window`` + 1 of them.

    Attributes:
        window: Bars of the moving average, today's included.
        epsilon: The growth that the portfolio asks for.
    """

    window: int = 5
    epsilon: float = 10.0
    rebalance_bars: int | None = 1
    name: str = "olmar"
    label: str = "OLMAR"
    at_once: ClassVar[bool] = True

    def weights(self, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the portfolio of every bar, each of which all symbols have; see `WeightRule.weights`."""
        return self._portfolios(prices, active, ~np.isnan(prices))[bars]

    def weights_in(self, calendar: Calendar, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the portfolio of every bar; see `WeightRule.weights_in`."""
        return self._portfolios(prices, active, calendar.has_bar)[bars]

    def _portfolios(self, prices: FloatArray, active: BoolArray, has_bar: BoolArray) -> FloatArray:
        """Return the portfolio of every bar, float64 ``[all bars, symbols]``."""
        expected = expected_reversions(prices, has_bar, self.window)
        with np.errstate(invalid="ignore"):
            expected[2 : self.window + 1] = prices[2 : self.window + 1] / prices[1 : self.window]
        expected[:2] = np.nan
        known = active & ~np.isnan(expected)
        found, whole = equal(active), np.atleast_1d(known.all(axis=1))
        for bar in np.flatnonzero(known.any(axis=1)).tolist():
            if whole[bar] and whole[bar - 1]:
                found[bar] = reversion_towards(found[bar - 1], expected[bar], self.epsilon)
            else:
                part = np.flatnonzero(known[bar])
                before = normalised(found[bar - 1, part])
                found[bar] = 0.0
                found[bar, part] = reversion_towards(before, expected[bar, part], self.epsilon)
        return found


@dataclass(frozen=True)
class RandomTurnover(BaselinePolicy):
    """Trades at random, as much at every bar as the agent does on average.

    Each bar draws target weights, uniform among all long-only ones, and goes so far towards them that the notional of
    its orders is ``turnover_per_bar`` of equity. The draw is a function of seed, lane and bar. Only the turnover is
    the agent's: the account starts in cash, and how much of it is invested comes of itself.

    Attributes:
        turnover_per_bar: Fraction of equity; None takes the mean of the agent that a backtest has just played.
        seed: Seed of the draws.
    """

    turnover_per_bar: float | None = None
    seed: int = 0
    name: str = "random"
    label: str = "random trading"

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Decide at every bar; see `BaselinePolicy.decided`.

        Raises:
            ConfigError: ``turnover_per_bar`` is not known.
        """
        target = self._targets(accounts.lane[:, None], accounts.bar[:, None], accounts.active)
        money, turnover = accounts.money[:, None], self._turnover
        held = accounts.holdings * accounts.marks * accounts.active
        gaps = target * money - held
        distance = np.abs(gaps).sum(axis=1, keepdims=True)
        part = turnover * accounts.equity[:, None] / np.where(distance > 0.0, distance, np.inf)
        aim = held + np.minimum(part, 1.0) * gaps
        return accounts.bar, np.divide(aim, money, out=np.zeros_like(held), where=money > 0.0)

    def orders(self, env: Any) -> FloatArray:
        """Return the orders decided at the close of ``env.bar``; see `BaselinePolicy.orders`."""
        (active, marks, targets), bar = self._path(env), env.bar
        held = env.holdings * marks[bar] * active[bar]
        gaps = targets[bar] * (env.cash + float(held.sum())) - held
        distance = float(np.abs(gaps).sum())
        if distance > 0.0:
            gaps *= min(self._turnover * env.equity / distance, 1.0)
        orders: FloatArray = np.divide(gaps, marks[bar], out=np.zeros_like(gaps), where=active[bar])
        return orders

    @property
    def _turnover(self) -> float:
        """``turnover_per_bar``.

        Raises:
            ConfigError: It is not known.
        """
        if self.turnover_per_bar is None:
            raise ConfigError(
                f"{self.name}: turnover_per_bar is not known; expected a fraction of equity, or a backtest that plays "
                "this baseline after an agent"
            )
        return self.turnover_per_bar

    def _path(self, env: Any) -> tuple[BoolArray, FloatArray, FloatArray]:
        """Return what can be held, the marks and the targets of every bar of an account, ``[bars, symbols]``."""
        task, universe = env.task, env.values.tradable[0]
        known = self.__dict__.get("_known")
        if known is None or known[0] is not task or known[1:3] != (env.lane, universe.tobytes()):
            calendar, bars = Calendar.of(task.market), np.arange(task.market.n_bars)[:, None]
            active = calendar.holdable & universe
            path = active, calendar.marks, self._targets(np.int64(env.lane), bars, active)
            known = self.__dict__["_known"] = (task, env.lane, universe.tobytes(), path)
        found: tuple[BoolArray, FloatArray, FloatArray] = known[3]
        return found

    def _targets(self, lane: Any, bar: IntArray, active: BoolArray) -> FloatArray:
        """Return weights of what is active, uniform among all, float64 ``[k, symbols]``; 0 where nothing is."""
        drawn = draw(self.seed, lane, bar, np.arange(active.shape[1]))
        # Exponential numbers, divided by their sum, are uniform on the simplex.
        waiting = np.where(active, -np.log((drawn + 0.5) / 2.0**32), 0.0)
        targets: FloatArray = waiting / np.where(
            active.any(axis=1, keepdims=True), waiting.sum(axis=1, keepdims=True), 1.0
        )
        return targets


@dataclass(frozen=True)
class AllCash(BaselinePolicy):
    """Never trades."""

    name: str = "cash"
    label: str = "all cash"
    rests: ClassVar[bool] = True

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Decide nothing; see `BaselinePolicy.decided`."""
        return np.full_like(accounts.bar, NEVER), np.zeros(accounts.holdings.shape)

    def orders(self, env: Any) -> FloatArray:
        """Order nothing; see `BaselinePolicy.orders`."""
        return np.zeros(env.market.n_symbols)


_MAKERS: dict[str, Callable[[int | None], Baseline]] = {
    "buy_and_hold": lambda _: BuyAndHold(),
    "equal_weight": lambda every: EqualWeight(rebalance_bars=every),
    "minimum_variance": lambda every: MinimumVariance(rebalance_bars=every),
    "inverse_volatility": lambda every: InverseVolatility(rebalance_bars=every),
    "momentum": lambda every: Momentum(rebalance_bars=every),
    "olmar": lambda _: OLMAR(),
    "random": lambda _: RandomTurnover(),
    "cash": lambda _: AllCash(),
}


def make_baselines(config: BacktestConfig) -> tuple[Baseline, ...]:
    """Return the baselines that a backtest's configuration names."""
    return tuple(_MAKERS[name](config.rebalance_bars) for name in config.baselines)
