"""A rule without learning as a policy: it decides on target weights, and here they become actions or orders.

`BaselinePolicy.predict` has the form of stable-baselines3's and serves one account and many. An observation holds no
prices, so a policy is first bound to the environment that it acts in, and looks there: at bars up to the current one,
and at the accounts. It remembers nothing about an account: what it does follows from bar, start bar, cash and shares,
so a reset cannot leave anything behind, and lanes cannot be mixed up.

A decision is carried out until every symbol in it has had a bar to fill at (`Accounts.carried_out`). A rule does not
know whether a symbol has a bar next: it orders, and an order in vain costs nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from batchenv.base import TradingTask
from batchenv.errors import ConfigError, EnvironmentStateError
from batchenv.market import MarketData
from stateful.accounts import Accounts, cores_of, part_of_index, total_return_index
from stateful.portfolios import equal
from stateful.schedules import NEVER, BoolArray, Calendar, Chances, FloatArray, IntArray

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
    rests: ClassVar[bool] = False
    """Whether it means to hold nothing; any other rule that has no fills is no measure of an agent."""
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
        orders: FloatArray = self.orders_of(Accounts.of(env))[0]
        return orders

    def orders_of(self, accounts: Accounts) -> FloatArray:
        """Return the orders of several accounts at the close of their bars: signed shares, float64 ``[k, S]``."""
        return self._carried_out(accounts, 1)

    def once(self, accounts: Accounts, since: IntArray) -> BoolArray:
        """Return whether what a decision bought is left alone while the rest of it is carried out, bool ``[k]``."""
        return np.zeros(len(since), np.bool_)

    def _carried_out(self, accounts: Accounts, bars: Any) -> FloatArray:
        """Return the orders of a decision that takes ``bars`` bars to fill at, float64 ``[k, S]``."""
        since, weights = self.decided(accounts)
        needed = np.broadcast_to(np.asarray(bars, np.int64), since.shape)
        return accounts.carried_out(since, weights, needed, self.once(accounts, since))

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

        ``trade``, ``shares`` and ``discrete`` limit an order: a decision is then carried out over as many bars of each
        symbol as the limit makes necessary, following the portfolio that was decided on as its prices move; in
        `discrete` mode each bar sells, holds or buys, whichever is nearest. In `weights` mode one bar of each symbol is
        enough, and to hold is to ask for the weights that are held (rule 2.3).

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
        if accounts.task.config.action_config.mode == "weights":
            return _weight_actions(accounts, self.orders_of(accounts))
        largest = largest_orders(accounts)
        # All equity has to fit through the limit.
        full = np.maximum(accounts.equity, 0.0)[:, None]
        worth = largest * accounts.marks
        parts = np.divide(full, worth, out=np.zeros_like(worth), where=worth > 0.0)
        bars = np.maximum(np.ceil(parts.max(axis=1) - 1e-9).astype(np.int64), 1)
        return _limited_actions(accounts, self._carried_out(accounts, bars), largest)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the environment, and what was worked out for it, behind: in copies and in pickles."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


@dataclass(frozen=True, eq=False)
class _Plan:
    """What a rule does in one episode of one account, as far as it follows from the market.

    Attributes:
        task: Market and rules.
        start: First bar of the episode.
        universe: Symbols that may be traded, as bytes.
        since: The bar of the last decision at each bar, `NEVER` before the first, list ``[bars]``.
        busy: Whether there can be an order at a bar, list ``[bars]``.
        weights: What was decided, float64 ``[bars, symbols]``, 0 where nothing was.
        holdable: `Calendar.holdable` of what may be traded, bool ``[bars, symbols]``.
        marks: `Calendar.marks`.
    """

    task: TradingTask
    start: int
    universe: bytes
    since: list[int]
    busy: list[bool]
    weights: FloatArray
    holdable: BoolArray
    marks: FloatArray


class WeightRule(BaselinePolicy):
    """A rule whose target weights follow from the market alone: the bars up to now, and which symbols may be traded.

    They are worked out once for each bar and universe, however many lanes ask. Bars before the first of a split part
    count (``market.history``): their prices are known, so a rule that looks back begins a backtest on held-out bars
    with all it needs.

    The first decision is made at the first bar of the episode with anything to hold. Within four days of it, each bar
    at which a symbol is first listed has a decision too (`stateful.schedules.SETTLING`).

    Attributes:
        rebalance_bars: Bars between decisions; None for a month of 30.4375 days, whatever the bars are.
    """

    rebalance_bars: int | None
    at_once: ClassVar[bool] = False
    """Whether `weights` is asked for all bars of history and part, in order, in place of those that are needed."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a rule that decides in its own way be asked at every bar: what is worked out ahead is not its own."""
        super().__init_subclass__(**kwargs)
        if "decided" in vars(cls) and "orders" not in vars(cls):
            cls.orders = BaselinePolicy.orders  # type: ignore[method-assign]

    def weights(self, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the weights decided at the close of some bars; no later bar may be looked at.

        Args:
            prices: What a share has grown to (`total_return_index`), float64 ``[all bars, symbols]``, NaN before the
                first bar of a symbol.
            active: Symbols that can be held and may be traded, bool ``[all bars, symbols]``. A symbol without a bar
                today is one of them, unless it is delisted or has halted (`stateful.schedules.Calendar`).
            bars: Which bars, rows of the two, int64 ``[k]``.

        Returns:
            float64 ``[k, symbols]``, at least 0, 0 where not active, with sum 1, or 0 where nothing is active.
        """
        raise NotImplementedError

    def weights_in(self, calendar: Calendar, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return `weights`; a rule that counts time, or a symbol's own bars, finds them in ``calendar``."""
        return self.weights(prices, active, bars)

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Return the last decision of each lane; see `BaselinePolicy.decided`."""
        since = self._since(accounts.calendar, accounts.allowed, accounts.start, accounts.bar)
        weights = np.zeros(accounts.holdings.shape)
        for universe, lanes in accounts.universes():
            known = lanes[since[lanes] != NEVER]
            weights[known] = self._decide(accounts.task.market, universe, since[known])
        return np.where(weights.any(axis=1), since, NEVER), weights

    def orders(self, env: Any) -> FloatArray:
        """Return the orders decided at the close of ``env.bar``; see `BaselinePolicy.orders`.

        What follows from the market is worked out once for an episode, and bars without orders cost next to nothing.
        """
        plan, bar = self._plan_of(env), env.bar
        if not plan.busy[bar]:
            return np.zeros(plan.weights.shape[1])
        if plan.since[bar] != bar:
            return super().orders(env)
        holdings, active, marks = env.holdings, plan.holdable[bar], plan.marks[bar]
        money = env.cash + float((holdings * marks) @ active)
        wanted = np.divide(plan.weights[bar] * money, marks, out=holdings.copy(), where=active)
        orders: FloatArray = wanted - holdings
        return orders

    def _due(self, calendar: Calendar, opening: IntArray, bar: IntArray) -> IntArray:
        """Return the last bar of the schedule, int64 ``[k]``."""
        return calendar.due(opening, bar, self.rebalance_bars)

    def _since(self, calendar: Calendar, allowed: BoolArray, start: IntArray, bar: IntArray) -> IntArray:
        """Return the bar of the last decision of each lane, `NEVER` before the first, int64 ``[k]``."""
        opening = calendar.opening(allowed, start)
        begun = opening <= bar
        opening = np.where(begun, opening, bar)
        since = np.maximum(self._due(calendar, opening, bar), calendar.late_arrival(allowed, opening, bar))
        return np.where(begun, since, NEVER)

    def _decide(self, market: MarketData, universe: BoolArray, bars: IntArray) -> FloatArray:
        """Return the weights decided at some bars of the part, float64 ``[k, symbols]``; they are remembered."""
        tables = self.__dict__.setdefault("_tables", WeakKeyDictionary()).setdefault(market, {})
        key, prices, calendar = universe.tobytes(), total_return_index(market), Calendar.of(market)
        if key not in tables:
            tables[key] = np.full(prices.shape, np.nan)
        table: FloatArray = tables[key]
        rows = bars + len(prices) - market.n_bars
        missing = np.unique(rows[np.isnan(table[rows, 0])])
        if len(missing):
            needed = np.arange(len(prices)) if self.at_once else missing
            table[needed] = self.weights_in(calendar, prices, calendar.all_holdable & universe, needed)
        return table[rows]

    def _plan_of(self, env: Any) -> _Plan:
        """Return the plan of the current episode of an account."""
        task, start, universe = env.task, env.start, env.values.tradable[0]
        plan: _Plan | None = self.__dict__.get("_plan")
        if plan is None or plan.task is not task or plan.start != start or plan.universe != universe.tobytes():
            plan = self.__dict__["_plan"] = self._make_plan(task, start, universe)
        return plan

    def _make_plan(self, task: TradingTask, start: int, universe: BoolArray) -> _Plan:
        market, calendar = task.market, Calendar.of(task.market)
        n = market.n_bars
        bars, since = np.arange(start, n), np.full(n, NEVER)
        allowed = np.broadcast_to(universe, (len(bars), market.n_symbols))
        since[start:] = self._since(calendar, allowed, np.full_like(bars, start), bars)
        decisions = np.unique(since[since != NEVER])
        weights = np.zeros((n, market.n_symbols))
        weights[decisions] = self._decide(market, universe, decisions)
        since[np.isin(since, decisions[~weights[decisions].any(axis=1)])] = NEVER
        done = Chances.of(task, part_of_index(market)).done(calendar.holdable, decisions, 1)
        last = np.searchsorted(decisions, since)
        busy = (since != NEVER) & (np.arange(n) <= np.append(done, NEVER)[last])
        holdable = calendar.holdable if universe.all() else calendar.holdable & universe
        return _Plan(task, start, universe.tobytes(), since.tolist(), busy.tolist(), weights, holdable, calendar.marks)


class EqualRule(WeightRule):
    """A rule that holds every symbol equally, whatever its past."""

    def weights(self, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return equal weights; see `WeightRule.weights`."""
        return equal(active[bars])

    def decided(self, accounts: Accounts) -> tuple[IntArray, FloatArray]:
        """Return the last decision of each lane; see `BaselinePolicy.decided`."""
        since = self._since(accounts.calendar, accounts.allowed, accounts.start, accounts.bar)
        active = accounts.calendar.holdable[since] & accounts.allowed & (since != NEVER)[:, None]
        return np.where(active.any(axis=1), since, NEVER), equal(active)

    orders = WeightRule.orders


class WindowRule(WeightRule):
    """A rule that looks at the bars of a window and at today's.

    A symbol takes part once it has been listed for that long. Until one has, every symbol gets the same weight.

    Attributes:
        window: How many bars to look back; None for `span`, a time, which is as long on a clock with weekends as on one
            without.
        skip: The last bars, which do not count; None for `skipped_span`, a time, where ``window`` is None too.
    """

    window: int | None
    span: ClassVar[int]
    """Length of the window where ``window`` is None, in nanoseconds."""
    skip: int | None = 0
    skipped_span: ClassVar[int] = 0
    """Length of what does not count where ``window`` is None, in nanoseconds."""

    def over(self, prices: FloatArray) -> FloatArray:
        """Return the weights of n symbols.

        Args:
            prices: The window as in `WeightRule.weights`, without what is skipped, float64 ``[bars, n]``; in bars,
                ``window`` - ``skip`` + 1 of them.

        Returns:
            float64 ``[n]``, at least 0, with sum 1.
        """
        raise NotImplementedError

    def weights(self, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the weights window by window, ``window`` in bars; see `WeightRule.weights`.

        Raises:
            ConfigError: ``window`` is a time, which needs the times of the bars: `weights_in`.
        """
        if self.window is None:
            raise ConfigError(f"{self.name}: window is a time; expected weights_in, which knows the times of the bars")
        return self._by_windows(prices, active, bars, bars - self.window, bars - (self.skip or 0))

    def weights_in(self, calendar: Calendar, prices: FloatArray, active: BoolArray, bars: IntArray) -> FloatArray:
        """Return the weights window by window; see `WeightRule.weights_in`."""
        if self.window is not None:
            return self.weights(prices, active, bars)
        firsts, lasts = (calendar.rows_back(bars, span) for span in (self.span, self.skipped_span))
        return self._by_windows(prices, active, bars, firsts, lasts)

    def _by_windows(
        self, prices: FloatArray, active: BoolArray, bars: IntArray, firsts: IntArray, lasts: IntArray
    ) -> FloatArray:
        """Return the weights decided at ``bars`` over windows from ``firsts`` to ``lasts``; no window is below 0."""
        found = equal(active[bars])
        for i, (bar, first, last) in enumerate(zip(bars.tolist(), firsts.tolist(), lasts.tolist(), strict=True)):
            if first < 0:
                continue
            listed = np.flatnonzero(active[bar] & ~np.isnan(prices[first]))
            if len(listed):
                found[i] = 0.0
                found[i, listed] = self.over(prices[first : last + 1, listed])
        return found


def part_that_fills(task: TradingTask, start: int, end: int) -> float:
    """Return the part of all symbols held or to be held, over some bars, that an order could fill in.

    An order for a symbol without a bar to fill at is in vain. Who wants to turn over so much orders more.

    Args:
        task: Market and rules.
        start: First bar of the episode.
        end: Last bar of the episode.
    """
    count = Chances.of(task, part_of_index(task.market)).count
    filled, held = int((count[end] - count[start]).sum()), int(Calendar.of(task.market).holdable[start:end].sum())
    return filled / held if filled else 1.0


def _weight_actions(accounts: Accounts, orders: FloatArray) -> npt.NDArray[np.float32]:
    """Return actions of `weights` mode, float32 ``[k, S]``; a symbol without an order is held (rule 2.3)."""
    value, equity = (accounts.holdings + orders) * accounts.marks, accounts.equity[:, None]
    wanted = np.divide(value, equity, out=np.zeros_like(value), where=equity > 0.0)
    exact = np.clip(wanted / accounts.task.config.action_config.max_weight, -1.0, 1.0)
    actions = exact.astype(np.float32)
    # Where everything is to be invested, numbers that float32 rounded down would leave some cash: rounded up, rule 2.2
    # scales their sum back to 1. With leverage it would not.
    invested = (wanted.sum(axis=1) > 1.0 - _ROUNDING) & (accounts.leverage == 1.0)
    low = (actions < exact * (1.0 - _ROUNDING)) & invested[:, None]
    return np.where(low, np.nextafter(actions, np.float32(1.0)), actions)


def largest_orders(accounts: Accounts) -> FloatArray:
    """Return the order of an action of 1 in `trade`, `shares` and `discrete` mode, shares, 0 where none is possible."""
    config, active = accounts.task.config, accounts.active
    if config.action_config.mode == "shares":
        return np.where(active, config.action_config.max_shares, 0.0)
    worth = config.portfolio_config.trade_limit_percent * np.maximum(accounts.equity, 0.0)[:, None]
    return np.divide(worth, accounts.marks, out=np.zeros_like(accounts.marks), where=active)


def _limited_actions(accounts: Accounts, orders: FloatArray, largest: FloatArray) -> npt.NDArray[Any]:
    """Return actions of `trade`, `shares` and `discrete` mode, where an action of 1 is an order of limited size."""
    action = accounts.task.config.action_config
    parts = np.divide(orders, largest, out=np.zeros_like(orders), where=largest > 0.0)
    numbers = np.clip(parts, -1.0, 1.0)
    if action.mode != "discrete":
        return numbers.astype(np.float32)
    choices: IntArray = np.rint(numbers).astype(np.int64) + 1
    if action.joint:  # symbol 0 is the least significant digit
        choices = choices @ 3 ** np.arange(choices.shape[1])
    return choices
