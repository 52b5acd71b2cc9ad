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
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from batchenv.errors import ConfigError, EnvironmentStateError
from batchenv.market import MarketData
from stateful.accounts import Accounts, BoolArray, FloatArray, IntArray, cores_of, total_return_index
from stateful.portfolios import equal

NEVER = -1
"""In place of a bar: nothing has been decided yet."""
_ROUNDING = 1e-12
"""Weights in float64 that differ by less are the same."""
_LEAST = {"rebalance_bars": 1, "window": 2, "skip": 0, "epsilon": 0, "turnover_per_bar": 0, "seed": 0}
"""The least value of a setting, by its name."""


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

    def __post_init__(self) -> None:
        """Check the settings of a dataclass.

        Raises:
            ConfigError: One is too small; names it.
        """
        for setting, least in _LEAST.items():
            value = getattr(self, setting, None)
            if value is not None and not value >= least:
                raise ConfigError(f"{self.name}: {setting} is {value!r}, expected at least {least}")

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
        cores_of(env)
        bound = copy.copy(self)
        vars(bound)["_env"] = env
        return bound

    @contextmanager
    def acting_in(self, env: Any) -> Iterator[None]:
        """Act in ``env`` for the body of a ``with``, as `batchenv.Agent.acting_in` does; `BackTesting` uses it.

        Raises:
            ConfigError: On entering, as `bind`.
        """
        cores_of(env)
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
        carried out at once, and to hold is to ask for the weights that are held (rule 2.3).

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
        actions = np.concatenate([self._actions(Accounts.of(core)) for core in cores_of(self._env)])
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


class WeightRule(BaselinePolicy):
    """A rule whose target weights follow from the market alone: the bars up to now, and which symbols may be traded.

    They are worked out once for each bar and universe, however many lanes ask. Bars before the first of a split part
    count (``market.history``): their prices are known, so a rule that looks back begins a backtest on held-out bars
    with all it needs.

    Attributes:
        rebalance_bars: Bars between decisions, the first of which is made at the start bar.
    """

    rebalance_bars: int
    at_once: ClassVar[bool] = False
    """Whether `weights` is asked for all bars of history and part, in order, in place of those that are needed."""

    def weights(self, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the weights decided at the close of some bars; no later bar may be looked at.

        Args:
            prices: What a share has grown to (`total_return_index`), float64 ``[all bars, symbols]``, NaN before the
                first bar of a symbol.
            active: Symbols that have a bar and may be traded, bool ``[all bars, symbols]``.
            bars: Which bars, rows of the two, int64 ``[k]``.

        Returns:
            float64 ``[k, symbols]``, at least 0, 0 where not active, with sum 1, or 0 where nothing is active.
        """
        raise NotImplementedError

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Decide at the start bar and every ``rebalance_bars`` after it; see `BaselinePolicy.decided`."""
        since = accounts.last_due(self.rebalance_bars)
        weights = np.zeros(accounts.holdings.shape)
        for universe, lanes in accounts.universes():
            weights[lanes] = self._table(accounts.task.market, universe, since[lanes])
        return np.where(weights.any(axis=1), since, NEVER), weights

    def _table(self, market: MarketData, universe: BoolArray, bars: IntArray) -> FloatArray:
        """Return the weights of some bars of the part, float64 ``[k, symbols]``, from memory where they are known."""
        tables = self.__dict__.setdefault("_tables", WeakKeyDictionary()).setdefault(market, {})
        key = universe.tobytes()
        prices = total_return_index(market)
        if key not in tables:
            tables[key] = np.full(prices.shape, np.nan)
        table: FloatArray = tables[key]
        rows = bars + len(prices) - market.n_bars
        missing = np.unique(rows[np.isnan(table[rows, 0])])
        if len(missing):
            needed = np.arange(len(prices)) if self.at_once else missing
            table[needed] = self.weights(prices, market.with_history().has_bar & universe, needed)
        return table[rows]


class WindowRule(WeightRule):
    """A rule that looks at the last ``window`` bars and today's.

    A symbol takes part once it has been listed for that long. Until one has, every symbol gets the same weight.

    Attributes:
        window: How many bars to look back.
    """

    window: int

    def over(self, prices: FloatArray) -> FloatArray:
        """Return the weights of n symbols.

        Args:
            prices: float64 ``[window + 1, n]``, as in `WeightRule.weights`, the last row today's.

        Returns:
            float64 ``[n]``, at least 0, with sum 1.
        """
        raise NotImplementedError

    def weights(self, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the weights window by window; see `WeightRule.weights`."""
        found = equal(active[bars])
        for i, bar in enumerate(bars.tolist()):
            first = bar - self.window
            if first < 0:
                continue
            listed = np.flatnonzero(active[bar] & ~np.isnan(prices[first]))
            if len(listed):
                found[i] = 0.0
                found[i, listed] = self.over(prices[first : bar + 1, listed])
        return found


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
