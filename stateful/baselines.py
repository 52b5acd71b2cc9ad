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
from stateful.accounts import Accounts, BoolArray, FloatArray, IntArray
from stateful.policies import NEVER, BaselinePolicy, WeightRule, WindowRule
from stateful.portfolios import best_equally, equal, inverse_volatility, minimum_variance, normalised, reversion_step


class Baseline(Protocol):
    """What a backtest needs of a baseline."""

    @property
    def name(self) -> str:
        """Key in results and files, such as ``buy_and_hold``."""

    @property
    def label(self) -> str:
        """Name in words, as it reads in a sentence."""

    def orders(self, env: Any) -> FloatArray:
        """Return the orders decided at the close of ``env.bar``.

        Args:
            env: The account, a `StatefulTradingEnv`; only bars up to ``env.bar`` may be looked at.

        Returns:
            Signed shares, float64 ``[symbols]``; positive buys.
        """


def _equal_at(accounts: Accounts, since: IntArray) -> tuple[IntArray, FloatArray]:
    """Return equal weights of what is active at some bars, and those bars, `NEVER` where there is nothing."""
    active = accounts.task.market.has_bar[since] & accounts.allowed & (since != NEVER)[:, None]
    return np.where(active.any(axis=1), since, NEVER), equal(active)


@dataclass(frozen=True)
class BuyAndHold(BaselinePolicy):
    """Equal money in every symbol that has a bar at the start, bought once and never traded again.

    The orders add up to all equity; where costs or a higher fill price make that unaffordable, rule 3.4 scales them
    down together, so everything is invested as far as it goes. Where the fill price is lower, the difference stays
    in cash, as does the part of a symbol that has no bar to fill at.
    """

    name: str = "buy_and_hold"
    label: str = "buy and hold"

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Decide once, at the first bar with anything to buy; see `BaselinePolicy.decided`."""
        since, market = np.full_like(accounts.bar, NEVER), accounts.task.market
        for universe, lanes in accounts.universes():
            bars = np.flatnonzero((market.has_bar & universe).any(axis=1))
            found = np.append(bars, market.n_bars)[np.searchsorted(bars, accounts.start[lanes])]
            since[lanes] = np.where(found <= accounts.bar[lanes], found, NEVER)
        return _equal_at(accounts, since)


@dataclass(frozen=True)
class EqualWeight(BaselinePolicy):
    """The same money in every symbol listed so far, restored every ``rebalance_bars`` bars.

    A symbol without a bar today cannot be traded: what it holds is left out, and the others share the rest. With
    ``rebalance_bars`` 1 it is the uniform constant rebalanced portfolio.

    Attributes:
        rebalance_bars: Bars between rebalances.
    """

    rebalance_bars: int = 21
    name: str = "equal_weight"
    label: str = "equal weight"

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Decide at the start bar and every ``rebalance_bars`` after it; see `BaselinePolicy.decided`."""
        return _equal_at(accounts, accounts.last_due(self.rebalance_bars))


@dataclass(frozen=True)
class MinimumVariance(WindowRule):
    """The long-only portfolio with the least variance, by the shrunk covariance of the last ``window`` returns.

    See `stateful.portfolios.minimum_variance`.
    """

    window: int = 252
    rebalance_bars: int = 21
    name: str = "minimum_variance"
    label: str = "minimum variance"

    def over(self, prices: FloatArray) -> FloatArray:
        """Return the weights with the least variance; see `WindowRule.over`."""
        return minimum_variance(prices)


@dataclass(frozen=True)
class InverseVolatility(WindowRule):
    """Weights in proportion to 1 / volatility of the last ``window`` returns."""

    window: int = 63
    rebalance_bars: int = 21
    name: str = "inverse_volatility"
    label: str = "inverse volatility"

    def over(self, prices: FloatArray) -> FloatArray:
        """Return weights in proportion to 1 / volatility; see `WindowRule.over`."""
        return inverse_volatility(prices)


@dataclass(frozen=True)
class Momentum(WindowRule):
    """Equal weights of the symbols that gained most from ``window`` to ``skip`` bars ago.

    With daily bars that is the usual year without its last month, which tends to reverse (Jegadeesh & Titman, "Returns
    to buying winners and selling losers", Journal of Finance 48(1), 1993; Fama & French, "Multifactor explanations of
    asset pricing anomalies", Journal of Finance 51(1), 1996, for the skipped month). Only winners are held, nothing is
    sold short.

    Attributes:
        skip: The last bars, which do not count; below ``window``.
        top: Part of the symbols that is held, rounded up to whole symbols.
    """

    window: int = 252
    skip: int = 21
    top: float = 1 / 3
    rebalance_bars: int = 21
    name: str = "momentum"
    label: str = "momentum"

    def __post_init__(self) -> None:
        """Check the settings; see `BaselinePolicy`."""
        super().__post_init__()
        if self.skip >= self.window:
            raise ConfigError(f"{self.name}: skip is {self.skip}, expected less than window, {self.window}")
        if not 0 < self.top <= 1:
            raise ConfigError(f"{self.name}: top is {self.top:g}, expected a fraction above 0 and up to 1")

    def over(self, prices: FloatArray) -> FloatArray:
        """Return equal weights of the winners; see `WindowRule.over`."""
        return best_equally(prices[-1 - self.skip] / prices[0], self.top)


@dataclass(frozen=True)
class OLMAR(WeightRule):
    """On-Line Moving Average Reversion: buys what is below its moving average; trades at every bar.

    See `stateful.portfolios.reversion_step`. A portfolio follows from the one before. The first is uniform, and stands
    at the first bar of the data, not of the episode: an account joins a portfolio that is under way.

    Attributes:
        window: Bars of the moving average, today's included.
        epsilon: The growth that the portfolio asks for.
    """

    window: int = 5
    epsilon: float = 10.0
    rebalance_bars: int = 1
    name: str = "olmar"
    label: str = "OLMAR"
    at_once: ClassVar[bool] = True

    def weights(self, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the portfolio of every bar; see `WeightRule.weights`."""
        found = equal(active)
        for bar in range(max(self.window - 1, 1), len(prices)):
            recent = prices[bar - self.window + 1 : bar + 1]
            listed = np.flatnonzero(active[bar] & ~np.isnan(recent[0]))
            if len(listed):
                before = normalised(found[bar - 1, listed])
                found[bar] = 0.0
                found[bar, listed] = reversion_step(before, recent[:, listed], self.epsilon)
        return found[bars]


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
        if self.turnover_per_bar is None:
            raise ConfigError(
                f"{self.name}: turnover_per_bar is not known; expected a fraction of equity, or a backtest that plays "
                "this baseline after an agent"
            )
        active, money = accounts.active, accounts.money[:, None]
        streams = np.arange(active.shape[1])
        drawn = draw(self.seed, accounts.lane[:, None], accounts.bar[:, None], streams)
        # Exponential numbers, divided by their sum, are uniform on the simplex.
        waiting = np.where(active, -np.log((drawn + 0.5) / 2.0**32), 0.0)
        target = waiting / np.where(active.any(axis=1, keepdims=True), waiting.sum(axis=1, keepdims=True), 1.0)
        held = accounts.holdings * accounts.marks * active
        now = np.divide(held, money, out=np.zeros_like(held), where=money > 0.0)
        distance = np.abs(target - now).sum(axis=1, keepdims=True) * money
        wanted = self.turnover_per_bar * accounts.equity[:, None]
        part = np.divide(wanted, distance, out=np.zeros_like(wanted), where=distance > 0.0)
        return accounts.bar, now + np.minimum(part, 1.0) * (target - now)


@dataclass(frozen=True)
class AllCash(BaselinePolicy):
    """Never trades."""

    name: str = "cash"
    label: str = "all cash"

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Decide nothing; see `BaselinePolicy.decided`."""
        return np.full_like(accounts.bar, NEVER), np.zeros(accounts.holdings.shape)


_MAKERS: dict[str, Callable[[int], Baseline]] = {
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
