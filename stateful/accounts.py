"""What a rule may look at: the accounts of an environment as they stand, and the prices up to now.

Orders that carry out a decision follow from them: `Accounts.carried_out`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from batchenv.base import BaseTradingEnv, TradingTask
from batchenv.errors import ConfigError
from batchenv.market import MarketData
from stateful.schedules import NEVER, BoolArray, Calendar, Chances, FloatArray, IntArray

_OF_LANES = ("lane", "bar", "start", "cash", "equity", "holdings", "allowed", "leverage")
_INDICES: WeakKeyDictionary[MarketData, FloatArray] = WeakKeyDictionary()


def total_return_index(market: MarketData) -> FloatArray:
    """Return what one share of each symbol, dividends reinvested and splits counted, is worth at every bar.

    Bars before the part (``market.history``) come first. Prices that are adjusted already stay as they are.

    Returns:
        float64 ``[history and part, symbols]``, NaN before a symbol's first bar, the last value where it has none.
    """
    if market not in _INDICES:
        whole = market.with_history()
        before = np.concatenate([np.full((1, whole.n_symbols), np.nan), whole.mark[:-1]])
        factor = np.ones_like(before) if whole.splits is None else whole.splits.copy()
        if whole.dividends is not None:  # reinvested at the close before, as rule 4.3 does, and as adjusted prices do
            last = before / factor
            factor *= np.where(whole.dividends > 0.0, last / (last - whole.dividends), 1.0)
        _INDICES[market] = whole.mark * np.cumprod(factor, axis=0)
    return _INDICES[market]


def part_of_index(market: MarketData) -> FloatArray:
    """Return `total_return_index` without the bars before the part, float64 ``[bars, symbols]``."""
    return total_return_index(market)[-market.n_bars :]


@dataclass(frozen=True)
class Accounts:
    """The accounts of an environment at the close of their current bars; k lanes, S symbols.

    Attributes:
        task: Market and rules.
        lane: Lane numbers, int64 ``[k]``.
        bar: The current bar, int64 ``[k]``.
        start: The first bar of the episode, int64 ``[k]``.
        cash: Money, float64 ``[k]``.
        equity: Cash and positions at the mark, money, float64 ``[k]``.
        holdings: Shares, float64 ``[k, S]``.
        allowed: Which symbols the lane may trade (rule 8.1), bool ``[k, S]``.
        leverage: G, float64 ``[k]``.
    """

    task: TradingTask
    lane: IntArray
    bar: IntArray
    start: IntArray
    cash: FloatArray
    equity: FloatArray
    holdings: FloatArray
    allowed: BoolArray
    leverage: FloatArray

    @classmethod
    def of(cls, env: Any) -> Accounts:
        """Look at a `StatefulTradingEnv`, `FastTrainingEnv` or `BatchTradingEnv`."""
        if isinstance(env, BaseTradingEnv):
            values, lane = env.values, np.array([env.lane], np.int64)
            bar, start = np.array([env.bar], np.int64), np.array([env.start], np.int64)
        else:
            lane = np.arange(env.num_envs, dtype=np.int64)
            values = env.parameters.at(env.seed_value, lane, np.maximum(env.episode, 0))
            bar, start = np.array(env.bar), values.start
        account: Any = env
        cash, equity = (np.array(money, np.float64, ndmin=1) for money in (account.cash, account.equity))
        holdings = np.array(account.holdings, np.float64, ndmin=2)
        return cls(env.task, lane, bar, start, cash, equity, holdings, values.tradable, values.leverage)

    @cached_property
    def calendar(self) -> Calendar:
        """Which symbols can be held, and when."""
        return Calendar.of(self.task.market)

    @cached_property
    def active(self) -> BoolArray:
        """Symbols that can be held (`Calendar.holdable`) and that the lane may trade, bool ``[k, S]``."""
        return self.calendar.holdable[self.bar] & self.allowed

    @cached_property
    def marks(self) -> FloatArray:
        """mark[t], money per share, 0 before the first bar of a symbol, float64 ``[k, S]``."""
        return self.calendar.marks[self.bar]

    @cached_property
    def money(self) -> FloatArray:
        """Cash and the positions in active symbols: what can be divided now, float64 ``[k]``."""
        held: FloatArray = (self.holdings * self.marks).sum(axis=1, where=self.active)
        return self.cash + held

    def universes(self) -> list[tuple[BoolArray, IntArray]]:
        """Return each different row of `allowed`, bool ``[S]``, with the positions of the lanes that have it."""
        if (self.allowed == self.allowed[0]).all():
            return [(self.allowed[0], np.arange(len(self.allowed)))]
        rows, group = np.unique(self.allowed, axis=0, return_inverse=True)
        return [(row, np.flatnonzero(group.ravel() == i)) for i, row in enumerate(rows)]

    def towards(self, weights: FloatArray) -> FloatArray:
        """Return the orders that divide `money` by ``weights``; positions in symbols that are not active stay.

        Args:
            weights: float64 ``[k, S]``, 0 outside `active`.

        Returns:
            Signed shares, float64 ``[k, S]``.
        """
        wanted = weights * self.money[:, None]
        shares = np.divide(wanted, self.marks, out=np.zeros_like(wanted), where=self.active)
        return np.where(self.active, shares - self.holdings, 0.0)

    def drifted(self, since: IntArray, weights: FloatArray) -> FloatArray:
        """Return what has become of weights decided at ``since``, as prices moved; 0 outside `active`.

        Args:
            since: int64 ``[k]``.
            weights: float64 ``[k, S]``.
        """
        index = part_of_index(self.task.market)
        growth = np.nan_to_num(index[self.bar] / index[since])
        value = weights * growth * self.active
        total = value.sum(axis=1, keepdims=True) + 1.0 - weights.sum(axis=1, keepdims=True)  # the rest is cash
        drifted: FloatArray = np.zeros_like(value)
        np.divide(value, total, out=drifted, where=total > 0.0)
        return drifted

    def carried_out(self, since: IntArray, weights: FloatArray, bars: IntArray, once: BoolArray) -> FloatArray:
        """Return the orders that are left of decisions.

        A symbol is ordered towards what has become of its weight until it has had its chances (`Chances`). A purchase
        may have found no cash, because what is sold for it had its chance later: it is ordered until it has had its
        chances once more, from the last such sale on.

        Args:
            since: The bars of the decisions, int64 ``[k]``; `NEVER` where there was none.
            weights: What was decided, float64 ``[k, S]``.
            bars: Bars to fill at that a decision needs, int64 ``[k]``.
            once: Whether only symbols without their chances are ordered, so that what was bought is left alone, bool
                ``[k]``.

        Returns:
            Signed shares, float64 ``[k, S]``.
        """
        chances, decided = Chances.of(self.task, part_of_index(self.task.market)), np.flatnonzero(since != NEVER)
        alike = len(decided) and (bars[decided] == bars[decided[0]]).all()
        if alike and chances.shares is None:
            done = chances.done(self.calendar.holdable, since[decided], int(bars[decided[0]]))
            decided = decided[self.bar[decided] <= done]
        orders = np.zeros_like(self.holdings)
        if len(decided):
            busy = self._some(decided)
            orders[decided] = busy._left(since[decided], weights[decided], bars[decided], once[decided])
        return orders

    def _some(self, lanes: IntArray) -> Accounts:
        """Return some of the accounts."""
        if len(lanes) == len(self.lane):
            return self
        rows = {name: getattr(self, name)[lanes] for name in _OF_LANES}
        return replace(self, **rows)

    def _left(self, since: IntArray, weights: FloatArray, bars: IntArray, once: BoolArray) -> FloatArray:
        """Return the orders that are left of decisions that were made; see `carried_out`."""
        part = self.active & self.calendar.holdable[since]
        index = part_of_index(self.task.market)
        chances, needed, shares = Chances.of(self.task, index), bars[:, None], None
        if chances.shares is not None:
            weight = self.drifted(since, weights)
            worth = np.where(weight > 0.0, weight, 1.0) * self.money[:, None]
            shares = np.divide(worth, index[self.bar], out=np.zeros_like(worth), where=part)
        waiting = part & chances.waiting(since, self.bar, needed, shares)
        late = np.zeros_like(waiting)
        if not once.all():
            own = np.where(part, chances.last_needed(since, needed, shares), NEVER)
            last = own.max(axis=1)
            late = part & (own < last[:, None]) & ~once[:, None]
            late &= chances.waiting(np.clip(last, 0, self.bar), self.bar, needed, shares)
        if not (waiting | late).any():
            return np.zeros_like(self.holdings)
        orders = self.towards(self.drifted(since, weights))
        return np.where(waiting | (late & (orders > 0.0)), orders, 0.0)


def cores_of(env: Any) -> list[Any]:
    """Return the environments that hold the accounts of ``env``: one, or one for each lane.

    Raises:
        ConfigError: There are none, or they live in other processes.
    """
    core = getattr(env, "unwrapped", env)
    core = getattr(core, "batch", core)
    found = [getattr(one, "unwrapped", one) for one in getattr(core, "envs", [core])]
    if not found or not all(isinstance(getattr(one, "task", None), TradingTask) for one in found):
        raise ConfigError(
            f"env: got {type(env).__name__}, expected an environment of batchenv, or a vector of them in this process"
        )
    return found
