"""Which baselines an agent can be compared with.

A baseline that could not do what it means to do is no measure: an agent is not better for having beaten it. It is
named, with the reason, and left out of every count. So is one that traded its money away: to beat it says no more than
that the agent traded less.

A reason is one of these, in this order:

* ``never_traded``: it has no fills. All cash means to have none.
* ``could_not_buy``: of some symbols it got less than half of what it ordered (`GOT`), and these are worth 1% of the
  account or more (`WORTH`). Orders count that had time to fill, see `_counting`.
* ``started_later``: its first fill came after the agent's, and not because the market of what it ordered was closed.
* ``lost_to_costs``: it lost more than 10% (`LOST`), and costs were at least half of that (`BY_COSTS`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchenv.base import TradingTask
from batchenv.calendars import LONG_WEEKEND, usual_gap
from batchenv.market import MarketData
from stateful.metrics import iso_date
from stateful.verdict import percent

if TYPE_CHECKING:
    from stateful.env import StatefulTradingEnv

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

GOT = 0.5
"""Part of the weight ordered that has to be reached at some time. Fees, slippage and gaps take a few percent, and so
does what others gained meanwhile; an account that reaches less than half holds another portfolio."""
WORTH = 0.01
"""Weight of what is missing from which on it matters: 1% of an account moves its return by less than its costs do."""
LOST = 0.10
"""Loss from which on costs are looked at: they are no reason in an account that kept its money."""
BY_COSTS = 0.5
"""Part of the loss that costs make up: from one half on, the account would have kept most of it without them."""
ENOUGH_BARS = 5
"""Bars of its own after which an order for a symbol has had time: a week of daily bars, in which also what is sold on
another exchange first, after a long weekend, has been sold."""


@dataclass
class OrderLog:
    """What a baseline ordered.

    Attributes:
        bars: The bars with orders.
        orders: What was ordered at each, signed shares, float64 ``[symbols]``.
    """

    bars: list[int] = field(default_factory=list)
    orders: list[FloatArray] = field(default_factory=list)

    def add(self, bar: int, orders: FloatArray) -> None:
        """Note the orders of a bar, float64 ``[symbols]``, unless there are none."""
        if np.count_nonzero(orders):
            self.bars.append(bar)
            self.orders.append(np.array(orders, np.float64))


def play_rule(baseline: Any, env: StatefulTradingEnv) -> OrderLog:
    """Play the episode that an environment is at the start of, and return what was ordered.

    Args:
        baseline: A `stateful.baselines.Baseline`.
        env: The account; its tables are left in it.
    """
    log, over = OrderLog(), False
    while not over:
        bar, orders = env.bar, baseline.orders(env)
        _, _, ruined, ended, _ = env.step_orders(orders)
        log.add(bar, orders)
        over = ruined or ended
    return log


def incomparable(
    baseline: Any,
    log: OrderLog,
    account: tuple[pd.DataFrame, pd.DataFrame],
    agent_fills: pd.DataFrame,
    task: TradingTask,
) -> dict[str, str] | None:
    """Return why an agent cannot be compared with a baseline, or None where it can.

    Args:
        baseline: A `stateful.baselines.Baseline`. One of one's own may say ``waits`` = True, if it stays out of the
            market until it sees a reason: it may start after the agent. One that orders nothing means to, unless it
            says ``rests`` = False.
        log: What it ordered.
        account: Its history and its fills, as `StatefulTradingEnv` has them.
        agent_fills: Fills of the agent.
        task: Market and rules.

    Returns:
        ``kind``, as the module lists them, and ``reason``, which reads on after the baseline's name.
    """
    (history, fills), market, fill = account, task.market, task.config.fill
    own = fills[fills["kind"] == "order"]
    if own.empty:
        if not log.bars and getattr(baseline, "rests", True):
            return None
        words = f"none of its orders, at {len(log.bars):,} bars, was filled" if log.bars else "it ordered nothing"
        return {"kind": "never_traded", "reason": f"never traded: {words}"}
    missing = could_not_buy(log, history, market, fill)
    if missing:
        return {"kind": "could_not_buy", "reason": f"could not buy {_listed(missing)}"}
    agents = agent_fills[agent_fills["kind"] == "order"]
    if not getattr(baseline, "waits", False) and _started_later(log, own, agents, market, fill):
        mine, theirs = (iso_date(found["timestamp"].min()) for found in (agents, own))
        reason = f"started later than the agent: its first order was filled on {theirs}, the agent's on {mine}"
        return {"kind": "started_later", "reason": reason}
    equity = history["equity"]
    return lost_to_costs(float(equity.iloc[0]), float(equity.iloc[-1]), float(history["costs"].sum()))


def could_not_buy(
    log: OrderLog, history: pd.DataFrame, market: MarketData, fill: str
) -> dict[str, tuple[float, float]]:
    """Return the symbols that a baseline ordered and did not get, with the greatest weight ordered and held.

    Empty where they are worth less than `WORTH` in all.

    Args:
        log: What it ordered.
        history: Its account.
        market: The bars.
        fill: The fill convention.
    """
    bars, orders, start = np.array(log.bars), np.array(log.orders), int(history["bar"].iloc[0])
    columns = [f"shares[{symbol}]" for symbol in market.symbols]
    shares, equity = history[columns].to_numpy(np.float64), history["equity"].to_numpy(np.float64)
    marks = np.nan_to_num(market.mark[start : start + len(equity)])
    held = (shares * marks / equity[:, None]).max(axis=0)
    rows = bars - start
    wanted = (shares[rows] + orders) * marks[rows] / equity[rows, None]
    counting = _counting(bars, orders > 0.0, market, fill, (start, start + len(equity) - 1))
    most = np.where(counting, wanted, 0.0).max(axis=0)
    missing = (most > 0.0) & (held < GOT * most)
    if float((most - held)[missing].sum()) < WORTH:
        return {}
    return {market.symbols[s]: (float(most[s]), float(held[s])) for s in np.flatnonzero(missing).tolist()}


def _counting(bars: IntArray, ordered: BoolArray, market: MarketData, fill: str, span: tuple[int, int]) -> BoolArray:
    """Return which purchases had time to fill, bool ``[bars with orders, symbols]``.

    An order had time when `ENOUGH_BARS` bars of its symbol came after it, or more days than the symbol usually pauses
    for (its usual gap of rule 4.4, and four days), or half of the test. It counts where its symbol had a bar to fill
    at, and also where it had none and the rule went on ordering for that long: what a rule takes back at the next bar
    it does not miss.

    Args:
        bars: The bars with orders, int64 ``[k]``.
        ordered: Which symbols were ordered there, bool ``[k, symbols]``.
        market: The bars.
        fill: The fill convention.
        span: First and last bar of the test.
    """
    counting = np.zeros_like(ordered)
    dates, whole = market.timestamps.astype("datetime64[D]").astype(np.int64), market.with_history()
    half, end = (span[1] - span[0]) / 2, span[1]
    for s in np.flatnonzero(ordered.any(axis=0)).tolist():
        patience = max(LONG_WEEKEND, usual_gap(whole.timestamps[whole.has_bar[:, s]]))
        had, last = np.cumsum(market.has_bar[:, s]), bars[ordered[:, s]][-1]
        left = (had[end] - had[bars] >= ENOUGH_BARS) | (dates[end] - dates[bars] > patience) | (end - bars >= half)
        kept = (dates[last] - dates[bars] > patience) | (last - bars + 1 >= half)
        counting[:, s] = ordered[:, s] & left & (_could_fill(bars, market, fill)[:, s] | kept)
    return counting


def _could_fill(bars: IntArray, market: MarketData, fill: str) -> BoolArray:
    """Return which symbols had a bar for orders decided at ``bars`` to fill at, bool ``[k, symbols]``."""
    return market.has_bar[np.minimum(bars + (fill != "close"), market.n_bars - 1)]


def _started_later(log: OrderLog, own: pd.DataFrame, agents: pd.DataFrame, market: MarketData, fill: str) -> bool:
    """Return whether a baseline was in the market later than the agent, and not because a market was closed.

    It was not late when it ordered as early as the agent, and what it ordered was filled at the first bar there was.
    """
    if agents.empty or own["fill_bar"].min() <= agents["fill_bar"].min():
        return False
    bars, first = np.array(log.bars), own["decision_bar"].min()
    early = bars < first
    ordered = np.array(log.orders)[early] > 0.0
    missed = ordered & _could_fill(bars[early], market, fill)
    return bool(bars[0] > agents["decision_bar"].min() or missed.any())


def lost_to_costs(start: float, end: float, costs: float) -> dict[str, str] | None:
    """Return why an account is no measure that traded its money away, or None where it is one.

    Args:
        start: Equity at the start, in money.
        end: Equity at the end.
        costs: Fees and slippage.
    """
    loss = start - end
    if loss <= LOST * start or costs < BY_COSTS * loss:
        return None
    reason = f"lost {percent(loss / start)}, and its costs came to {percent(costs / loss, digits=0)} of that loss"
    return {"kind": "lost_to_costs", "reason": reason}


def _listed(missing: dict[str, tuple[float, float]]) -> str:
    shown = [
        f"{symbol} (ordered {percent(wanted)} of the account, held at most {percent(held)})"
        for symbol, (wanted, held) in list(missing.items())[:3]
    ]
    more = len(missing) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
