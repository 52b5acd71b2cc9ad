"""What a rule may look at: the accounts of an environment as they stand, and the prices up to now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from batchenv.base import BaseTradingEnv, TradingTask
from batchenv.errors import ConfigError
from batchenv.market import MarketData

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
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
    def active(self) -> BoolArray:
        """Symbols that have a bar now and that the lane may trade, bool ``[k, S]``."""
        return self.task.market.has_bar[self.bar] & self.allowed

    @cached_property
    def marks(self) -> FloatArray:
        """mark[t], money per share, 0 before the first bar of a symbol, float64 ``[k, S]``."""
        return np.nan_to_num(self.task.market.mark[self.bar])

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

    def last_due(self, every: int) -> IntArray:
        """Return the last bar of a schedule that begins at the start bar, int64 ``[k]``."""
        return self.bar - (self.bar - self.start) % every

    def towards(self, weights: FloatArray) -> FloatArray:
        """Return the orders that divide `money` by ``weights``; positions in symbols without a bar stay as they are.

        Args:
            weights: float64 ``[k, S]``, 0 outside `active`.

        Returns:
            Signed shares, float64 ``[k, S]``.
        """
        wanted = weights * self.money[:, None]
        shares = np.divide(wanted, self.marks, out=np.zeros_like(wanted), where=self.active)
        return np.where(self.active, shares - self.holdings, 0.0)


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
