"""What the agent is compared with: simple rules, traded under the same costs, fills and start bar.

A baseline is told the environment at the close of each bar and answers with orders in shares. A new one is a class
with ``name``, ``label`` and ``orders``; hand it to `BackTesting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stateful.env import StatefulTradingEnv

FloatArray = npt.NDArray[np.float64]


class Baseline(Protocol):
    """A trading rule without learning."""

    @property
    def name(self) -> str:
        """Key in results and files, such as ``buy_and_hold``."""

    @property
    def label(self) -> str:
        """Name in words, as it reads in a sentence."""

    def orders(self, env: StatefulTradingEnv) -> FloatArray:
        """Return the orders decided at the close of ``env.bar``.

        Args:
            env: The account; only bars up to ``env.bar`` may be looked at.

        Returns:
            Signed shares, float64 ``[symbols]``; positive buys.
        """


@dataclass(frozen=True)
class BuyAndHold:
    """Equal money in every symbol that has a bar at the start, bought once and never traded again.

    The orders add up to all equity; where costs or a higher fill price make that unaffordable, rule 3.4 scales them
    down together, so everything is invested as far as it goes. Where the fill price is lower, the difference stays
    in cash, as does the part of a symbol that has no bar to fill at.
    """

    name: str = "buy_and_hold"
    label: str = "buy and hold"

    def orders(self, env: StatefulTradingEnv) -> FloatArray:
        """Buy at the first bar that has prices; see `Baseline.orders`."""
        bought = (env.market.has_bar[env.start : env.bar] & env.values.tradable[0]).any()
        return np.zeros(len(env.market.symbols)) if bought else _towards_equal(env)


@dataclass(frozen=True)
class EqualWeight:
    """The same money in every symbol listed so far, restored every ``rebalance_bars`` bars.

    A symbol without a bar today cannot be traded: what it holds is left out, and the others share the rest.

    Attributes:
        rebalance_bars: Bars between rebalances.
    """

    rebalance_bars: int = 21
    name: str = "equal_weight"
    label: str = "equal weight"

    def orders(self, env: StatefulTradingEnv) -> FloatArray:
        """Rebalance at the start bar and every ``rebalance_bars`` after it; see `Baseline.orders`."""
        due = (env.bar - env.start) % self.rebalance_bars == 0
        return _towards_equal(env) if due else np.zeros(len(env.market.symbols))


def _towards_equal(env: StatefulTradingEnv) -> FloatArray:
    """Return the orders that give every symbol with a bar today the same share of the money outside the others.

    Symbols that the lane may not trade (rule 8.1) are left out.
    """
    active = env.market.has_bar[env.bar] & env.values.tradable[0]
    orders = np.zeros(len(active))
    if not active.any():
        return orders
    mark = env.market.mark[env.bar][active]
    held = env.holdings[active]
    orders[active] = (env.cash + held @ mark) / active.sum() / mark - held
    return orders
