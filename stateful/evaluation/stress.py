"""Robustness: one trained policy over thousands of lanes that differ in start date, costs and initial cash.

The lanes are every combination of a `Scale` of fees, one of slippage, a few sizes of initial cash and many start bars.
They play the same number of bars in the batch tier, in one pass; buy and hold plays the same lanes beside them. Some
lanes are then played again by the evaluation tier, which must come to the same equity at every bar.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from batchenv.base import TradingTask
from batchenv.batch import BatchTradingEnv
from batchenv.config import AgentConfig, CostConfig, EnvConfig
from batchenv.episodes import draw
from batchenv.errors import ConfigError, MarketDataError
from batchenv.market import MarketData
from batchenv.parameters import per_symbol
from stateful.accounts import Accounts, part_of_index
from stateful.backtest import BackTesting
from stateful.baselines import BuyAndHold
from stateful.env import StatefulTradingEnv
from stateful.evaluation.estimates import not_enough
from stateful.evaluation.stress_results import Scale, StressResults, StressSetting
from stateful.evaluation.uncertainty import MINIMUM_BARS
from stateful.metrics import iso_date
from stateful.policies import largest_orders
from stateful.ratios import NOISE
from stateful.schedules import NEVER, Calendar, Chances
from stateful.verify import TOLERANCE, VerificationError

Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
Act = Callable[[Any, int], npt.NDArray[Any]]
"""Returns the actions of all lanes, given their observations and the number of steps taken."""

MULTIPLES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Fees and slippage that are tried, as multiples of the configuration's."""
CASH_MULTIPLES = (0.1, 1.0, 10.0)
"""Sizes of initial cash that are tried, as multiples of the configuration's."""
DEFAULT_LANES = 8192
_CHECKED = 8


def stress_test(
    testing: BackTesting, *, lanes: int = DEFAULT_LANES, horizon: int | None = None, progress: Progress | None = None
) -> StressResults:
    """Play the agent of a backtest from many start dates, at many costs and sizes of initial cash.

    Args:
        testing: Agent, bars, rules and scaling; ``testing.agent.predict`` must take a batch of observations.
        lanes: Most lanes to play; it decides the number of start dates, which are spread evenly.
        horizon: Bars that every lane plays, at least `MINIMUM_BARS`, since every figure is one of a year; None takes a
            year, or half of the bars where there are fewer than two.
        progress: Called as ``progress(done, total)`` with the agent's lane-steps after each bar.

    Returns:
        One row per lane, and the surfaces, break-even costs, figures and page made from them.

    Raises:
        ConfigError: ``lanes`` or ``horizon`` is out of range.
        MarketDataError: The bars are too few for the horizon, or the number of bars in a year is not known.
        VerificationError: The evaluation tier comes to another equity in one of the lanes checked.
    """
    env, config = testing.env, testing.config
    market, schedule = env.market, env.task.schedule
    periods = market.require_year("a stress test")
    horizon = _horizon(horizon, schedule.first, market)
    fees, fee_rates = _scale(env.config.cost_config.fee_rate, market.symbols, "fee_rate")
    slippages, slippage_rates = _scale(env.config.cost_config.slippage_rate, market.symbols, "slippage_rate")
    table = _combinations(lanes, schedule.first, market.n_bars - 1 - horizon, (fees, slippages), env.config)
    given = {
        "fee_rate": _rates(fee_rates, table["fee_multiple"]),
        "slippage_rate": _rates(slippage_rates, table["slippage_multiple"]),
        "initial_cash": table["initial_cash"].to_numpy(),
        "episode_start": table["start_bar"].to_numpy(),
    }
    rules = env.config.updated(
        episode_config={"length": horizon, "random_start": False},
        portfolio_config=env.config.portfolio_config.updated(maintain_history=False).model_dump(),
        reward_config={"type": "simple_return"},  # not looked at; one that both tiers know
    )
    base = _base_lane(table, fees, slippages, env.config.portfolio_config.initial_cash)
    watched = np.unique([base, *(draw(0, np.arange(_CHECKED - 1), 0, 0) % len(table))])
    held = _play_buy_and_hold(market, rules, given, horizon)
    batch = BatchTradingEnv(
        market, rules, env.features, len(table), seed=0, scaler=env.scaler, copy=False, lane_parameters=given
    )
    began = time.perf_counter()
    played = _play_agent(testing, batch, watched, progress)
    seconds = time.perf_counter() - began
    figures = played.tally.figures(periods, config.risk_free_rate, horizon)
    worst = _check(market, rules, given, watched, played)
    table = table.assign(
        start=market.timestamps[table["start_bar"].to_numpy()],
        fee_rate=table["fee_multiple"] * fee_rates.mean(),
        slippage_rate=table["slippage_multiple"] * slippage_rates.mean(),
        **figures,
        buy_and_hold=held,
        excess=figures["cagr"] - held,
    )
    setting = StressSetting(
        fee=fees,
        slippage=slippages,
        initial_cash=env.config.portfolio_config.initial_cash,
        horizon=horizon,
        fill=env.config.fill,
        periods_per_year=periods,
        risk_free_rate=config.risk_free_rate,
        first_date=iso_date(market.timestamps[schedule.first]),
        last_date=iso_date(market.timestamps[-1]),
        playable_bars=market.n_bars - 1 - schedule.first,
        lanes_checked=len(watched),
        worst_difference=worst,
        seconds=round(seconds, 3),
    )
    return StressResults(table, setting)


# --- lanes --------------------------------------------------------------------------------------------------


def _horizon(horizon: int | None, first: int, market: MarketData) -> int:
    """Return the bars that every lane plays."""
    most = market.n_bars - 1 - first
    if most < MINIMUM_BARS:
        raise MarketDataError(
            f"the held-out bars from the end of the features' warm-up: {not_enough(MINIMUM_BARS, most)}"
        )
    if horizon is None:
        return max(min(round(market.require_year("a stress test")), most // 2), MINIMUM_BARS)
    if horizon < MINIMUM_BARS:
        raise ConfigError(f"horizon: {not_enough(MINIMUM_BARS, horizon)}: figures of a year made of less mean nothing")
    if horizon > most:
        raise MarketDataError(
            f"horizon: {horizon:,} bars need {first + horizon + 1:,} held-out bars ({first:,} for the features to warm "
            f"up, {horizon:,} to play, and 1), and there are {market.n_bars:,}; expected a horizon of at most {most:,}"
        )
    return horizon


def _scale(configured: Any, symbols: tuple[str, ...], name: str) -> tuple[Scale, Floats]:
    """Return a scale of rates, and the rate of each symbol that its multiples are of, float64 ``[symbols]``.

    A configuration without that cost stands at 0 on a scale of the package's default rate.
    """
    rates = per_symbol(configured, symbols, f"cost_config.{name}")
    base = 1.0 if rates.any() else 0.0
    if not rates.any():
        rates = per_symbol(getattr(CostConfig(), name), symbols, name)
    multiples = tuple(m for m in MULTIPLES if m * rates.max() < 1.0)
    return Scale(multiples, base, float(rates.min()), float(rates.max())), rates


def _combinations(lanes: int, first: int, last: int, scales: tuple[Scale, Scale], config: EnvConfig) -> pd.DataFrame:
    """Return one row for every combination of start bar, multiple of fees, of slippage, and initial cash."""
    fees, slippages = (scale.multiples for scale in scales)
    cash = [config.portfolio_config.initial_cash * multiple for multiple in CASH_MULTIPLES]
    each = len(fees) * len(slippages) * len(cash)
    if lanes < each:
        raise ConfigError(
            f"lanes: got {lanes:,}, expected at least {each:,}: {len(fees)} fees, {len(slippages)} slippages and "
            f"{len(cash)} sizes of initial cash, for one start date"
        )
    count = min(lanes // each, last - first + 1)
    starts = np.linspace(first, last, count).round().astype(np.int64)
    names = ["start_bar", "fee_multiple", "slippage_multiple", "initial_cash"]
    return pd.MultiIndex.from_product([starts, fees, slippages, cash], names=names).to_frame(index=False)


def _rates(rates: Floats, multiples: pd.Series[float]) -> Floats:
    """Return the rate of every lane, float64 ``[lanes]``, or ``[lanes, symbols]`` where symbols differ."""
    factor = multiples.to_numpy(np.float64)
    return factor * rates[0] if np.ptp(rates) == 0 else factor[:, None] * rates


def _base_lane(table: pd.DataFrame, fees: Scale, slippages: Scale, cash: float) -> int:
    """Return the first lane with the costs and the cash of the configuration."""
    same = (table["fee_multiple"] == fees.base) & (table["slippage_multiple"] == slippages.base)
    return int(np.flatnonzero(same & (table["initial_cash"] == cash))[0])


# --- the pass -----------------------------------------------------------------------------------------------


class Tally:
    """Figures of every lane, added up bar by bar: nothing is kept but running numbers.

    Mean and variance of returns are updated as in B. P. Welford, "Note on a method for calculating corrected sums of
    squares and products", Technometrics 4(3), 1962.

    Attributes:
        equity: Last equity of each lane's own episode, float64 ``[lanes]``, money.
        bars: Bars that each lane has played, int64 ``[lanes]``.
        running: Lanes whose episode goes on, bool ``[lanes]``; what comes after it is not counted.
    """

    def __init__(self, initial_cash: Floats) -> None:
        """Start with the initial cash of each lane, float64 ``[lanes]``."""
        n = len(initial_cash)
        self.equity = initial_cash.copy()
        self.bars = np.zeros(n, np.int64)
        self.running = np.ones(n, np.bool_)
        self._initial, self._peak = initial_cash, initial_cash.copy()
        self._drawdown, self._mean, self._squares = np.zeros(n), np.zeros(n), np.zeros(n)

    def add(self, equity: Floats, ended: npt.NDArray[np.bool_]) -> None:
        """Take in the equity after a bar, float64 ``[lanes]``, and which episodes ended there, bool ``[lanes]``."""
        going = self.running
        equity = np.where(going, equity, self.equity)
        returns = equity / self.equity - 1.0
        self.bars += going
        surprise = returns - self._mean
        self._mean += np.where(going, surprise / np.maximum(self.bars, 1), 0.0)
        self._squares += np.where(going, surprise * (returns - self._mean), 0.0)
        self.equity = equity
        np.maximum(self._peak, equity, out=self._peak)
        np.minimum(self._drawdown, equity / self._peak - 1.0, out=self._drawdown)
        self.running = going & ~ended

    def figures(self, periods_per_year: float, risk_free_rate: float, horizon: int) -> dict[str, npt.NDArray[Any]]:
        """Return the figures of every lane, by the formulas of `stateful.metrics`.

        A lane that ended early is annualised over the whole horizon, since its money is gone for the rest of it, and
        an account that ends at or below nothing grows by -100% a year. A Sharpe ratio that cannot be had is NaN.
        """
        growth = self.equity / self._initial
        free = (1.0 + risk_free_rate) ** (1.0 / periods_per_year) - 1.0
        deviation = np.sqrt(self._squares / np.maximum(self.bars - 1, 1))
        sharpe = np.full(len(growth), np.nan)
        np.divide(self._mean - free, deviation, out=sharpe, where=(self.bars > 1) & (deviation > NOISE))
        with np.errstate(over="ignore"):
            cagr = np.minimum(np.maximum(growth, 0.0) ** (periods_per_year / horizon), np.finfo(float).max) - 1.0
        return {
            "total_return": growth - 1.0,
            "cagr": cagr,
            "sharpe": sharpe * np.sqrt(periods_per_year),
            "max_drawdown": self._drawdown,
            "bars": self.bars,
        }


class _Played(NamedTuple):
    """What a pass left: all lanes in sum, and some bar by bar."""

    tally: Tally
    actions: list[npt.NDArray[Any]]  # of the watched lanes, one array for each bar
    equity: list[Floats]  # of the watched lanes, after each bar


def _play(env: BatchTradingEnv, act: Act, steps: int, watched: npt.ArrayLike) -> _Played:
    """Play every lane's first episode of at most ``steps`` bars."""
    watched = np.asarray(watched, np.int64)
    observation, _ = env.reset()
    played = _Played(Tally(env.equity.copy()), [], [])
    for step in range(steps):
        actions = act(observation, step)
        observation, _, terminated, truncated, infos = env.step(actions)
        equity = env.equity.copy()
        if infos:  # these lanes show the start of their next episode already
            over = infos["_final_info"]
            equity[over] = infos["final_info"]["equity"][over]
        played.tally.add(equity, terminated | truncated)
        played.actions.append(np.asarray(actions)[watched])
        played.equity.append(equity[watched])
    env.close()
    return played


def _play_agent(testing: BackTesting, env: BatchTradingEnv, watched: Any, progress: Progress | None) -> _Played:
    """Let the agent decide for all lanes at once."""
    agent, horizon = testing.agent, int(env.task.schedule.length or 1)
    settings = getattr(agent, "config", None)
    if isinstance(settings, AgentConfig):
        import torch

        torch.set_num_threads(settings.n_threads)  # as in training: more only wait for each other on a busy machine
    if not testing.config.deterministic:
        from stable_baselines3.common.utils import set_random_seed

        set_random_seed(testing.env.seed_value)

    with testing.actor.acting_in(env) as decide:

        def act(observation: Any, step: int) -> npt.NDArray[Any]:
            if progress is not None:
                progress(step * env.num_envs, horizon * env.num_envs)
            actions: npt.NDArray[Any] = decide(observation)
            return actions

        played = _play(env, act, horizon, watched)
    if progress is not None:
        progress(horizon * env.num_envs, horizon * env.num_envs)
    return played


def _play_buy_and_hold(market: MarketData, rules: EnvConfig, given: dict[str, Any], horizon: int) -> Floats:
    """Play `stateful.baselines.BuyAndHold` in every lane; return its yearly growth, float64 ``[lanes]``.

    It is NaN where the rule could not buy all that it means to hold: such an account is no measure.

    Actions are float32, which rounds orders, but not an action of 1: where all of the k symbols can be bought at once,
    each order, equity / k, is an action of 1 with a ``trade_limit_percent`` of 1 / k. So the lanes are played in groups
    of the same k. Where a symbol has to wait, the limit is all equity.
    """
    growth = np.zeros(len(given["episode_start"]))
    limits = _first_orders(market, rules, given["episode_start"])
    for limit in np.unique(limits):
        which = np.flatnonzero(limits == limit)
        account = rules.portfolio_config.updated(trade_limit_percent=float(limit)).model_dump()
        own = rules.updated(
            portfolio_config=account, action_config={"mode": "trade"}, observation_config={}, features=()
        )
        mine = {name: values[which] for name, values in given.items()}
        env = BatchTradingEnv(market, own, n_envs=len(which), seed=0, copy=False, lane_parameters=mine)
        wanted, held = np.zeros((2, len(which), market.n_symbols), np.bool_)

        def act(_: Any, __: int, env: Any = env, wanted: Any = wanted, held: Any = held) -> npt.NDArray[Any]:
            accounts = Accounts.of(env)
            orders = BuyAndHold().orders_of(accounts)
            wanted |= orders > 0.0
            held |= accounts.holdings > 0.0
            largest = largest_orders(accounts)
            return np.divide(orders, largest, out=np.zeros_like(orders), where=largest > 0.0).astype(np.float32)

        tally = _play(env, act, horizon, []).tally
        found = tally.figures(market.require_year("a stress test"), 0.0, horizon)["cagr"]
        growth[which] = np.where((wanted & ~held).any(axis=1), np.nan, found)
    return growth


def _first_orders(market: MarketData, rules: EnvConfig, starts: npt.NDArray[np.int64]) -> Floats:
    """Return the largest order of buy and hold as a fraction of equity, 1 where a symbol has to wait; ``[lanes]``."""
    calendar, everything = Calendar.of(market), np.ones((len(starts), market.n_symbols), np.bool_)
    chances = Chances.of(TradingTask.build(market, rules.updated(features=())), part_of_index(market))
    opening = np.minimum(calendar.opening(everything, starts), market.n_bars - 1)
    part = calendar.holdable[opening]
    last = np.where(part, chances.last_needed(opening, np.ones((1, 1), np.int64), None), NEVER).max(axis=1)
    settled = calendar.late_arrival(everything, opening, np.full_like(opening, market.n_bars)) == opening
    at_once = settled & (last == opening) & (chances.shares is None)
    return np.where(at_once, 1.0 / np.maximum(part.sum(axis=1), 1), 1.0)


def _check(market: MarketData, rules: EnvConfig, given: dict[str, Any], watched: Any, played: _Played) -> float:
    """Play the watched lanes again in the evaluation tier; return the largest difference in equity.

    The difference is relative to the equity or, where that is more, to the initial cash.
    """
    worst, blind = 0.0, rules.updated(features=(), observation_config={})  # the actions are known: nothing is observed
    for i, lane in enumerate(watched.tolist()):
        own = {name: values[lane : lane + 1] for name, values in given.items()}
        env = StatefulTradingEnv(market, blind, seed=0, lane_parameters=own)
        env.reset()
        cash, over = env.equity, False
        for actions, equity in zip(played.actions, played.equity, strict=True):
            *_, terminated, truncated, _ = env.step(actions[i])
            difference = float(abs(env.equity - equity[i]) / max(env.equity, cash))
            worst, over = max(worst, difference), terminated or truncated
            if not difference <= TOLERANCE:
                raise VerificationError(
                    f"the tiers disagree on lane {lane} at bar {env.bar} ({iso_date(market.timestamps[env.bar])}): "
                    f"equity of the batch {equity[i]!r}, of the evaluation tier {env.equity!r}, expected within "
                    f"{TOLERANCE:g} of each other"
                )
            if over:
                break
        if (bars := env.bar - env.start) != played.tally.bars[lane]:
            raise VerificationError(
                f"the tiers disagree on lane {lane}: the batch ended it after {played.tally.bars[lane]} bars, the "
                f"evaluation tier after {bars}"
            )
    return worst
