"""A rule without learning as a policy: it decides on target weights, and here they become actions or orders.

`BaselinePolicy.predict` has the form of stable-baselines3's and serves one account and many. An observation holds no
prices, so a policy is first bound to the environment that it acts in, and looks there: at bars up to the current one,
and at the accounts. It remembers nothing about an account: what it does follows from bar, start bar, cash and shares,
so a reset cannot leave anything behind, and lanes cannot be mixed up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from batchenv.base import BaseTradingEnv, TradingTask
from batchenv.errors import ConfigError, EnvironmentStateError
from batchenv.market import MarketData

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
NEVER = -1
"""In place of a bar: nothing has been decided yet."""
_ROUNDING = 1e-12
"""Weights in float64 that differ by less are the same."""
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
            bar, start = env.bar, values.start
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


class BaselinePolicy:
    """A trading rule without learning; subclasses say what to hold.

    Example:
        policy = EqualWeight(rebalance_bars=5).bind(venv)
        evaluate_policy(policy, venv)
        BackTesting(EqualWeight(), env).run()  # binds it itself

    Attributes:
        name: Key in results and files, such as ``buy_and_hold``.
        label: Name in words, as it reads in a sentence.
    """

    name: str
    label: str
    _env: Any = None

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Return the last decision of each lane; only bars up to the current one may be looked at.

        Args:
            accounts: k lanes at the close of their bars.

        Returns:
            The bar of the decision, int64 ``[k]``, `NEVER` where there was none, and the weights that were decided
            there, float64 ``[k, S]``: parts of `Accounts.money`, 0 for symbols that are not active there.
        """
        raise NotImplementedError

    def orders(self, env: Any) -> FloatArray:
        """Return the orders decided at the close of ``env.bar``, for `StatefulTradingEnv.step_orders`.

        Args:
            env: The account; it need not be the one that the policy is bound to.

        Returns:
            Signed shares, float64 ``[symbols]``; positive buys.
        """
        accounts = Accounts.of(env)
        since, weights = self.decided(accounts)
        if since[0] != accounts.bar[0]:
            return np.zeros(weights.shape[1])
        orders: FloatArray = accounts.towards(weights)[0]
        return orders

    # --- as a policy ----------------------------------------------------------------------------------------

    def bind(self, env: Any) -> Self:
        """Return a copy that acts in an environment.

        Args:
            env: An environment of this package, wrapped or not: one account, a batch, or a vector of single
                environments in this process.

        Raises:
            ConfigError: It is none of these.
        """
        _cores(env)
        bound = copy.copy(self)
        vars(bound)["_env"] = env
        return bound

    @contextmanager
    def acting_in(self, env: Any) -> Iterator[None]:
        """Act in ``env`` for the body of a ``with``, as `batchenv.Agent.acting_in` does; `BackTesting` uses it.

        Raises:
            ConfigError: On entering, as `bind`.
        """
        _cores(env)
        before = self._env
        vars(self)["_env"] = env  # settings are frozen, and this is none
        try:
            yield
        finally:
            vars(self)["_env"] = before

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        """Return the actions at the current bar of the environment that the policy is bound to.

        ``trade``, ``shares`` and ``discrete`` limit an order: a decision is then carried out over as many bars as the
        limit makes necessary, following the portfolio that was decided on as its prices move, and no longer than that;
        in `discrete` mode each bar sells, holds or buys, whichever is nearest. In `weights` mode a decision is
        carried out at once, and to hold is to ask for the weights that are held.

        Args:
            observation: What the environment returned last, float32 ``[size]`` or ``[k, size]``, or a dict of such
                arrays; only its shape is looked at.
            state: Returned as it is.
            episode_start: Ignored; an episode's start is known from the environment.
            deterministic: Ignored; a rule has no exploration.

        Returns:
            Actions in the form of the environment's action space, ``[symbols]`` or ``[k, symbols]`` (without symbols
            when ``joint``), and ``state``.

        Raises:
            EnvironmentStateError: The policy is not bound to an environment.
            ConfigError: The observation is not of as many lanes as the environment has.
        """
        if self._env is None:
            raise EnvironmentStateError(
                f"{self.name}: predict was called before the baseline was bound to an environment, where it finds its "
                "prices; expected baseline.bind(env), or 'with baseline.acting_in(env):'"
            )
        actions = np.concatenate([self._actions(Accounts.of(core)) for core in _cores(self._env)])
        array = np.asarray(observation["portfolio"] if isinstance(observation, dict) else observation)
        lanes = 1 if array.ndim < 2 else len(array)
        if lanes != len(actions):
            raise ConfigError(
                f"{self.name}: got {lanes} observations, expected {len(actions)}, one for each lane of the environment "
                "that the baseline is bound to"
            )
        return (actions[0] if array.ndim < 2 else actions), state

    def _actions(self, accounts: Accounts) -> npt.NDArray[Any]:
        """Return the actions of k lanes, as near to the decision as the mode comes."""
        since, weights = self.decided(accounts)
        if accounts.task.config.action_config.mode == "weights":
            return _weight_actions(accounts, np.where((since == accounts.bar)[:, None], weights, np.nan))
        return _limited_actions(accounts, since, weights)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the environment, and what was worked out for it, behind: in copies and in pickles."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


def _weight_actions(accounts: Accounts, weights: FloatArray) -> npt.NDArray[np.float32]:
    """Return actions of `weights` mode, float32 ``[k, S]``; NaN weights hold (rule 2.2)."""
    orders = np.where(np.isnan(weights), 0.0, accounts.towards(weights))
    value, equity = (accounts.holdings + orders) * accounts.marks, accounts.equity[:, None]
    wanted = np.divide(value, equity, out=np.zeros_like(value), where=equity > 0.0)
    exact = np.clip(wanted / accounts.task.config.action_config.max_weight, -1.0, 1.0)
    actions = exact.astype(np.float32)
    # Where everything is to be invested, numbers that float32 rounded down would leave some cash: rounded up, rule 2.2
    # scales their sum back to 1. With leverage it would not.
    invested = (wanted.sum(axis=1) > 1.0 - _ROUNDING) & (accounts.leverage == 1.0)
    low = (actions < exact * (1.0 - _ROUNDING)) & invested[:, None]
    return np.where(low, np.nextafter(actions, np.float32(1.0)), actions)


def _limited_actions(accounts: Accounts, since: IntArray, weights: FloatArray) -> npt.NDArray[Any]:
    """Return actions of `trade`, `shares` and `discrete` mode, where an action of 1 is an order of limited size."""
    task, marks, active = accounts.task, accounts.marks, accounts.active
    action = task.config.action_config
    full = np.divide(accounts.equity[:, None], marks, out=np.zeros_like(marks), where=active)  # all equity, in shares
    full = np.maximum(full, 0.0)
    largest = task.config.portfolio_config.trade_limit_percent * full
    if action.mode == "shares":
        largest = np.full_like(marks, action.max_shares)
    usable = active & (largest > 0.0)
    bars_needed = np.ceil(np.divide(full, largest, out=np.zeros_like(full), where=usable).max(axis=1) - 1e-9)
    busy = (since != NEVER) & (accounts.bar - since < bars_needed)
    orders = accounts.towards(_drifted(accounts, since, weights))
    parts = np.divide(orders, largest, out=np.zeros_like(orders), where=usable & busy[:, None])
    numbers = np.clip(parts, -1.0, 1.0)
    if action.mode != "discrete":
        return numbers.astype(np.float32)
    choices: IntArray = np.rint(numbers).astype(np.int64) + 1
    if action.joint:  # symbol 0 is the least significant digit
        choices = choices @ 3 ** np.arange(choices.shape[1])
    return choices


def _drifted(accounts: Accounts, since: IntArray, weights: FloatArray) -> FloatArray:
    """Return what has become of weights decided at ``since``: prices have moved, and some symbols have no bar now."""
    index = total_return_index(accounts.task.market)
    before = np.where(since == NEVER, accounts.bar, since)
    skip = len(index) - accounts.task.market.n_bars
    growth = np.nan_to_num(index[accounts.bar + skip] / index[before + skip])
    value = weights * growth * accounts.active
    total = value.sum(axis=1, keepdims=True) + 1.0 - weights.sum(axis=1, keepdims=True)  # the rest is cash
    drifted: FloatArray = np.zeros_like(value)
    np.divide(value, total, out=drifted, where=total > 0.0)
    return drifted


def _cores(env: Any) -> list[Any]:
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
