"""The arrays of all lanes, and the threads that walk over them. No money here: see ``accounting``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.base import TradingTask
from batchenv.config import RewardConfig
from batchenv.errors import ConfigError, did_you_mean
from batchenv.kernel import loops, state
from batchenv.rewards import (
    EVALUATION_REWARDS,
    TRAINING_REWARDS,
    RewardFunction,
    RewardStep,
    registered_reward,
    registered_rewards,
)

_MODES = {"trade": state.TRADE, "discrete": state.TRADE, "weights": state.WEIGHTS, "shares": state.SHARES}
_REWARDS = {
    "fast_profit_reward": state.FAST_PROFIT,
    "simple_return": state.SIMPLE_RETURN,
    "log_return": state.LOG_RETURN,
    "differential_sharpe": state.DIFFERENTIAL_SHARPE,
}
_PENALTIES = ("turnover_penalty", "drawdown_penalty")
_DEFAULT_ETA = 0.01


class Engine:
    """All lanes of one environment.

    Attributes:
        task: Market, rules and features.
        lanes: State of every lane.
        out: Results of the last step.
    """

    def __init__(self, task: TradingTask, n_lanes: int, n_threads: int = 1) -> None:
        """Allocate the arrays.

        Args:
            task: Market, rules and features.
            n_lanes: Number of lanes N.
            n_threads: Threads that share a step.

        Raises:
            ConfigError: The reward is not one that training can compute.
        """
        n, s = n_lanes, task.market.n_symbols
        self.task = task
        self.rules, self.custom_reward, self._reward_kwargs = _rules(task)
        self.market = _market(task)
        self.lanes = state.Lanes(
            cash=np.zeros(n),
            holdings=np.zeros((n, s)),
            equity=np.zeros(n),
            peak=np.zeros(n),
            entry=np.zeros((n, s if self.rules.unrealized_pnl else 0)),
            moments=np.zeros((n, 2)),
            bar=np.zeros(n, np.int64),
            start=np.zeros(n, np.int64),
            end=np.zeros(n, np.int64),
        )
        self.out = state.StepOutput(
            observation=np.zeros((n, task.layout.size), np.float32),
            reward=np.zeros(n),
            terminated=np.zeros(n, np.bool_),
            truncated=np.zeros(n, np.bool_),
            equity_before=np.zeros(n),
            turnover=np.zeros(n),
            costs=np.zeros(n),
        )
        edges = np.linspace(0, n, min(n_threads, n) + 1).astype(int).tolist()
        self._chunks = list(pairwise(edges))
        self._scratch = [np.zeros(s) for _ in self._chunks]
        self._pool = ThreadPoolExecutor(len(self._chunks) - 1, "batchenv") if len(self._chunks) > 1 else None

    @property
    def bytes_per_lane(self) -> int:
        """Size of one lane's state in bytes."""
        return state.lane_bytes(self.lanes)

    def open(self, which: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> None:
        """Start new episodes for some lanes and write their observations into ``out``; int64 ``[k]`` each."""
        loops.open_lanes(which, starts, ends, self.market, self.rules, self.lanes, self.out.observation)

    def advance(self, actions: npt.NDArray[np.float32]) -> None:
        """Take every lane over one bar and write the results into ``out``.

        Args:
            actions: Checked action numbers, float32 ``[N, S]``.

        Raises:
            ConfigError: A registered reward returned something other than one finite number for each lane.
        """
        others = [self._pool.submit(self._walk, k, actions) for k in range(1, len(self._chunks))] if self._pool else []
        self._walk(0, actions)
        wait(others)
        for other in others:
            other.result()
        if self.custom_reward is not None:
            self._apply_custom_reward(self.custom_reward)

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
            self._chunks, self._scratch = [(0, len(self.lanes.cash))], self._scratch[:1]

    def _walk(self, chunk: int, actions: npt.NDArray[np.float32]) -> None:
        first, stop = self._chunks[chunk]
        loops.advance_lanes(first, stop, actions, self.market, self.rules, self.lanes, self.out, self._scratch[chunk])

    def _apply_custom_reward(self, function: RewardFunction) -> None:
        """Rule 7.4: a registered reward, then penalties and scaling."""
        out, lanes = self.out, self.lanes
        step = RewardStep(out.equity_before, lanes.equity, lanes.peak, out.turnover, out.costs)
        value = np.asarray(function(step, **self._reward_kwargs), dtype=np.float64)
        name = self.task.config.reward_config.type
        if value.shape != out.reward.shape:
            raise ConfigError(
                f"reward {name!r}: returned shape {list(value.shape)}, expected {list(out.reward.shape)}, one per lane"
            )
        if not np.isfinite(value).all():
            lane = int(np.flatnonzero(~np.isfinite(value))[0])
            raise ConfigError(f"reward {name!r}: returned {value[lane]} for lane {lane}, expected a finite number")
        drawdown = 1.0 - lanes.equity / lanes.peak
        penalty = self.rules.turnover_penalty * out.turnover + self.rules.drawdown_penalty * drawdown
        out.reward[:] = (value - penalty) * self.rules.reward_scaling

    def __getstate__(self) -> dict[str, Any]:
        """Leave the threads behind when copied or pickled."""
        return {**self.__dict__, "_pool": None, "_chunks": [(0, len(self.lanes.cash))], "_scratch": self._scratch[:1]}


def _market(task: TradingTask) -> state.Market:
    """Rules 1.2 to 1.4 as matrices without NaN."""
    market, n_bars = task.market, task.market.n_bars
    fill = np.zeros((n_bars, market.n_symbols))
    if task.config.fill == "close":
        fill[:] = market.close
    else:
        prices = market.open if task.config.fill == "next_open" else market.close
        assert prices is not None  # TradingTask.build refuses next_open without opens
        fill[:-1] = prices[1:]
    fill[np.isnan(fill) | np.isnan(market.mark)] = 0.0
    return state.Market(
        mark=np.ascontiguousarray(np.where(np.isnan(market.mark), 1.0, market.mark)),
        fill=fill,
        features=task.features.values,
    )


def _rules(task: TradingTask) -> tuple[state.Rules, RewardFunction | None, dict[str, Any]]:
    config = task.config
    kind, custom, kwargs = _reward(config.reward_config)
    penalties = {key: kwargs.pop(key, 0.0) for key in _PENALTIES}
    rules = state.Rules(
        mode=_MODES[config.action_config.mode],
        trade_limit=config.portfolio_config.trade_limit_percent,
        max_shares=config.action_config.max_shares,
        fee_rate=config.cost_config.fee_rate,
        slippage_rate=config.cost_config.slippage_rate,
        initial_cash=config.portfolio_config.initial_cash,
        bankrupt_equity=config.portfolio_config.bankruptcy_fraction * config.portfolio_config.initial_cash,
        reward=kind,
        reward_scaling=config.reward_config.reward_scaling,
        turnover_penalty=float(penalties["turnover_penalty"]),
        drawdown_penalty=float(penalties["drawdown_penalty"]),
        eta=float(kwargs.get("eta", _DEFAULT_ETA)),
        unrealized_pnl=config.observation_config.unrealized_pnl,
        time_left=config.observation_config.time_left,
    )
    return rules, custom, kwargs


def _reward(config: RewardConfig) -> tuple[int, RewardFunction | None, dict[str, Any]]:
    """Check a reward's type and settings; return its code, the user's function if it is one, and its settings."""
    kwargs = dict(config.kwargs)
    custom = registered_reward(config.type)
    if custom is None and config.type not in _REWARDS:
        known = TRAINING_REWARDS + registered_rewards()
        if config.type in EVALUATION_REWARDS:
            why = "it looks at the account's history, which only the evaluation tier keeps"
        else:
            why = f"unknown reward{did_you_mean(config.type, known)}"
        raise ConfigError(
            f"reward_config.type: {config.type!r} cannot train: {why}; expected one of {', '.join(known)}"
        )
    allowed = _PENALTIES + (("eta",) if config.type == "differential_sharpe" else ())
    for key, value in kwargs.items():
        if custom is None and key not in allowed:
            raise ConfigError(
                f"reward_config.kwargs.{key}: unknown setting of {config.type!r}{did_you_mean(key, allowed)}; "
                f"expected {', '.join(allowed)}"
            )
        if key in allowed and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e300
        ):
            raise ConfigError(f"reward_config.kwargs.{key}: got {value!r}, expected a number from 0 upwards")
    if not 0 < kwargs.get("eta", _DEFAULT_ETA) <= 1 and config.type == "differential_sharpe":
        raise ConfigError(f"reward_config.kwargs.eta: got {kwargs['eta']!r}, expected a number above 0, at most 1")
    return (state.CUSTOM if custom else _REWARDS[config.type]), custom, kwargs
