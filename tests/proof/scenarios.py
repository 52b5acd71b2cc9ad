"""Random worlds to compare the tiers in: market, rules, lane parameters and actions, all from one `random.Random`.

The same code serves hypothesis, which hands in a generator that it can shrink, and ``make proof``, which hands in a
seeded one.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from batchenv import BatchTradingEnv, EnvConfig, MarketData

FAULTS = ("late", "pause", "stop", "gap", "round", "jump", "quiet")
"""What may be wrong or awkward with a market: see `_closes` and `_presence`."""


@dataclass(frozen=True)
class Scenario:
    """One comparison.

    Attributes:
        market: The bars.
        config: The rules.
        lane_parameters: Parameters by lane, or None.
        actions: Action numbers or choices, ``[steps, n_envs, ...]``.
        closes: Where a lane asks for no position in place of them, as well as float32 can say it; ``[steps, n_envs]``.
        seed: Seed of the episodes.
        covered: Names of what is switched on, for the proof's table.
    """

    market: MarketData
    config: EnvConfig
    lane_parameters: dict[str, Any] | None
    actions: np.ndarray
    closes: np.ndarray
    seed: int
    covered: tuple[str, ...]

    def action(self, step: int, env: BatchTradingEnv) -> np.ndarray:
        """Return the actions of a step for all lanes; what closes a position depends on how large it is."""
        config, actions = self.config, self.actions[step]
        mode, held = config.action_config.mode, env.holdings
        if mode == "discrete":
            return actions
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if mode == "shares":
                all_of_it = -held / config.action_config.max_shares
            elif mode == "trade":
                worth = held * np.nan_to_num(self.market.mark[env.bar])
                all_of_it = -worth / (config.portfolio_config.trade_limit_percent * env.equity[:, None])
            else:
                all_of_it = np.zeros_like(held)
            all_of_it = np.nan_to_num(all_of_it.clip(-1.0, 1.0))
        return np.where(self.closes[step][:, None], all_of_it.astype(np.float32), actions)


def scenario(r: random.Random, *, n_bars: int, n_symbols: int, n_envs: int, steps: int) -> Scenario:
    """Draw a world."""
    faults = [name for name in FAULTS if r.random() < 0.3]
    market = make_market(r, n_bars, n_symbols, faults)
    config, on = make_rules(r, market)
    given, lanes_on = make_lane_parameters(r, config, market, n_envs)
    actions = make_actions(r, config, market, n_envs, steps)
    on += ("splits and dividends",) if market.dividends is not None else ()
    seed = r.randrange(2**31)
    config, reward_on = make_reward(r, config)
    more, more_on = make_more_lane_parameters(r, config, market, n_envs)
    config, actions, joint_on = make_joint(r, config, actions)
    config, closes, closes_on = make_closing(r, config, n_envs, steps)
    covered = (*on, *lanes_on, *reward_on, *more_on, *joint_on, *closes_on, *(f"market: {name}" for name in faults))
    return Scenario(market, config, ((given or {}) | more) or None, actions, closes, seed, covered)


def make_market(r: random.Random, n_bars: int, n_symbols: int, faults: list[str]) -> MarketData:
    """Draw bars with the given faults."""
    later = r.choice([0, 0, 3])  # bars after the part that is played
    dates = pd.date_range("2021-01-01", periods=n_bars + later, freq=r.choice(["B", "h", "7D"]))
    parts, stopped = [], []
    for k in range(n_symbols):
        bars = _bars(r, len(dates), faults)
        present = _presence(r, len(dates), faults) if k else np.ones(len(dates), bool)
        stopped += [] if present[-1] else [f"S{k}"]
        table = pd.DataFrame({"date": dates, "symbol": f"S{k}", **bars})[present].reset_index(drop=True)
        acts = r.random() < 0.3 and "jump" not in faults  # a jump looks like a split that prices do not follow
        parts.append(_with_actions(r, table) if acts else table)
    frame = pd.concat(parts, ignore_index=True).fillna({"dividend": 0.0, "split": 1.0})
    if r.random() < 0.3:
        frame["funding"] = [r.choice([0.0, 0.001, -0.002]) for _ in range(len(frame))]
    gone = r.choice([None, [name for name in stopped if r.random() < 0.8]])
    market = MarketData.from_frame(frame, delisted=gone)
    return market.between(end=dates[n_bars]) if later else market


def _bars(r: random.Random, n_bars: int, faults: list[str]) -> dict[str, np.ndarray]:
    whole = "round" in faults
    close = float(r.choice([8, 50, 100, 1000]))
    rows = []
    for _ in range(n_bars):
        first = close * (1 + r.choice([0.0, 0.0, r.uniform(-0.05, 0.05)]))
        if "jump" in faults and r.random() < 0.1:
            first *= r.choice([0.3, 0.6, 1.7, 4.0])
        close = first * (1 + r.uniform(-0.06, 0.06))
        if whole:
            first, close = max(1.0, round(first)), max(1.0, round(close))
        reach = r.choice([0.0, 0.02, 0.1])
        high, low = max(first, close) * (1 + reach), min(first, close) * (1 - reach)
        volume = 0.0 if "quiet" in faults and r.random() < 0.15 else float(r.choice([40, 1_000, 100_000]))
        rows.append((first, high, low, close, volume))
    columns = np.array(rows).T
    return dict(zip(("open", "high", "low", "close", "volume"), columns, strict=True))


def _presence(r: random.Random, n_bars: int, faults: list[str]) -> np.ndarray:
    present = np.ones(n_bars, bool)
    if "late" in faults:
        present[: r.randrange(1, max(2, n_bars // 2))] = False
    if "stop" in faults:
        present[n_bars - r.randrange(1, max(2, n_bars // 3)) :] = False
    if "pause" in faults:
        for _ in range(2):
            at = r.randrange(n_bars)
            present[at : at + r.randrange(1, 4)] = False
    if "gap" in faults and r.random() < 0.5:
        present[r.randrange(n_bars)] = False
    if present.sum() < 2:
        present[:] = True
    return present


def _with_actions(r: random.Random, table: pd.DataFrame) -> pd.DataFrame:
    """Add a few splits, which prices follow, and dividends, on bars that the symbol has and after its first."""
    dividend, split = np.zeros(len(table)), np.ones(len(table))
    for at in {r.randrange(1, len(table)) for _ in range(3)}:
        if r.random() < 0.5:
            split[at] = r.choice([2.0, 0.5, 1.5])
        if r.random() < 0.7:
            dividend[at] = 0.02
    prices = ["open", "high", "low", "close"]
    table = table.assign(**{name: table[name] / np.cumprod(split) for name in prices})
    before = table["close"].shift(1, fill_value=1.0).to_numpy()
    dividend = np.round(dividend * before / split, 4)
    return table.assign(dividend=dividend, split=split)


def make_rules(r: random.Random, market: MarketData) -> tuple[EnvConfig, tuple[str, ...]]:
    """Draw rules, each switched on now and then; return them and their names."""
    on: list[str] = []

    def maybe(name: str, chance: float = 0.3) -> bool:
        if r.random() < chance:
            on.append(name)
            return True
        return False

    symbols = market.symbols

    def amount(low: float, high: float) -> Any:
        value = r.choice([low, high, r.uniform(low, high)])
        if len(symbols) > 1 and r.random() < 0.3:
            on.append("by symbol")
            return {"*": value, symbols[0]: r.uniform(low, high)}
        return value

    mode = r.choice(["trade", "weights", "shares", "discrete"])
    fill = r.choice(["next_open", "next_close", "close"])
    on += [f"mode {mode}", f"fill {fill}"]
    costs: dict[str, Any] = {
        "fee_rate": amount(0.0, 0.02) if maybe("fee rate", 0.7) else 0.0,
        "slippage_rate": amount(0.0, 0.01) if maybe("slippage", 0.6) else 0.0,
    }
    if maybe("fee fixed", 0.2):
        costs["fee_fixed"] = amount(0.5, 5.0)
    if maybe("fee per share", 0.2):
        costs["fee_per_share"] = amount(0.001, 0.05)
    if maybe("fee minimum", 0.2):
        costs["fee_minimum"] = amount(1.0, 20.0)
    if maybe("impact", 0.2):
        costs["impact_coefficient"] = r.uniform(0.01, 0.3)
    execution: dict[str, Any] = {}
    if maybe("lots"):
        execution["lot_size"] = r.choice([1.0, 10.0, 0.01])
    if maybe("smallest order", 0.2):
        execution["min_notional"] = r.uniform(1.0, 500.0)
    if maybe("participation", 0.2):
        execution["participation_limit"] = r.uniform(0.01, 1.0)
    if maybe("stop loss", 0.25):
        execution["stop_loss"] = r.choice([0.02, 0.05, 0.2])
    if maybe("take profit", 0.25):
        execution["take_profit"] = r.choice([0.02, 0.05, 0.3])
    if maybe("delisting haircut", 0.2):
        execution["delisting_haircut"] = r.uniform(0.0, 1.0)
    margin: dict[str, Any] = {}
    if maybe("short", 0.5):
        margin["allow_short"] = True
    if maybe("leverage", 0.4):
        margin["leverage"] = r.choice([1.5, 2.0, 5.0])
    leverage = margin.get("leverage", 1.0)
    if maybe("net limit", 0.2):
        margin["net_limit"] = r.uniform(0.2, leverage)
    if maybe("maintenance margin", 0.3):
        margin["maintenance_margin"] = r.uniform(0.0, 0.9) / leverage
    carry: dict[str, Any] = {}
    if maybe("cash rate", 0.25):
        carry["cash_rate"] = r.choice([0.05, -0.01])
    borrows = "allow_short" in margin or "leverage" in margin
    if borrows:
        if maybe("margin rate", 0.3):
            carry["margin_rate"] = r.uniform(0.0, 0.5)
        if maybe("borrow", 0.3):
            carry["borrow_rate"] = amount(0.0, 0.5)
        if maybe("funding", 0.2):
            carry["funding_rate"] = amount(-0.3, 0.5)
        if "funding" in market.columns and maybe("funding column", 0.5):
            carry["funding_column"] = "funding"
    if market.dividends is not None and maybe("reinvest", 0.5):
        carry["dividends"] = "reinvest"
    randomization: dict[str, Any] = {}
    for name, low, high in (("fee_rate", 0.0, 0.01), ("slippage_rate", 0.0, 0.01), ("initial_cash", 500.0, 50_000.0)):
        if maybe(f"drawn {name}", 0.1):
            randomization[name] = [low, high]
    for name, high in (("fee_fixed", 5.0), ("fee_per_share", 0.05), ("fee_minimum", 20.0)):
        if maybe(f"drawn {name}", 0.06):
            randomization[name] = [0.0, high]
    if maybe("drawn tradable", 0.1):
        randomization["tradable"] = [1, len(symbols)]
    if borrows and maybe("drawn borrow_rate", 0.1):
        randomization["borrow_rate"] = [0.0, 0.5]
    if borrows and maybe("drawn leverage", 0.1):
        randomization["leverage"] = [1.0, leverage]
    length = r.randrange(3, max(4, market.n_bars // 2))
    if maybe("drawn episode_length", 0.1):
        randomization["episode_length"] = [2, length]
    config = EnvConfig.model_validate(
        {
            "features": ["return_1"],
            "feature_scaling": "none",
            "portfolio_config": {
                "initial_cash": r.choice([1_000.0, 10_000.0, 12_345.67]),
                "trade_limit_percent": r.choice([0.1, 0.5, 1.0]),
                "bankruptcy_fraction": r.choice([0.0, 0.0, 0.5, 0.9]),
            },
            "cost_config": costs,
            "execution_config": execution,
            "margin_config": margin,
            "carry_config": carry,
            "randomization": randomization,
            "action_config": {
                "mode": mode,
                "max_shares": r.choice([5.0, 100.0, 64.0]),
                "max_weight": r.choice([1.0, leverage]),
            },
            "observation_config": {"unrealized_pnl": r.random() < 0.5, "time_left": r.random() < 0.5},
            "reward_config": {"type": r.choice(["simple_return", "fast_profit_reward", "log_return"])},
            "episode_config": {
                "length": length,
                "random_start": r.random() < 0.7,
                "desynchronize": length is not None and length % 2 == 1,
            },
            "fill": fill,
        }
    )
    return config, tuple(on)


def make_lane_parameters(
    r: random.Random, config: EnvConfig, market: MarketData, n_envs: int
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Draw parameters by lane."""
    drawn = {name for name, _, _ in config.randomization.drawn()}
    given: dict[str, Any] = {}
    if r.random() < 0.15 and "tradable" not in drawn:
        given["tradable"] = np.array([[r.random() < 0.7 for _ in market.symbols] for _ in range(n_envs)])
    if r.random() < 0.1 and "fee_rate" not in drawn:
        given["fee_rate"] = np.array([[r.uniform(0, 0.02) for _ in market.symbols] for _ in range(n_envs)])
    for name, high in (("fee_fixed", 5.0), ("fee_per_share", 0.05), ("fee_minimum", 20.0)):
        if r.random() < 0.06 and name not in drawn:
            shape = r.choice([(n_envs,), (n_envs, market.n_symbols)])
            given[name] = np.array([r.uniform(0, high) for _ in range(math.prod(shape))]).reshape(shape)
    if r.random() < 0.1 and "slippage_rate" not in drawn:
        given["slippage_rate"] = np.array([r.uniform(0, 0.01) for _ in range(n_envs)])
    if r.random() < 0.1 and "initial_cash" not in drawn:
        given["initial_cash"] = np.array([r.uniform(500, 20_000) for _ in range(n_envs)])
    if r.random() < 0.1 and "leverage" not in drawn and not config.margin_config.cash_account:
        given["leverage"] = np.array([r.uniform(1.0, config.margin_config.leverage) for _ in range(n_envs)])
    return given or None, tuple(f"by lane {name}" for name in given)


def make_reward(r: random.Random, config: EnvConfig) -> tuple[EnvConfig, tuple[str, ...]]:
    """Draw a reward that remembers, and penalties, for some."""
    kind, kwargs, on = config.reward_config.type, dict[str, float](), list[str]()
    if r.random() < 0.15:
        kind, kwargs["eta"] = "differential_sharpe", r.choice([0.01, 0.2, 1.0])
        on.append("reward differential_sharpe")
    for name in ("turnover_penalty", "drawdown_penalty"):
        if r.random() < 0.2:
            kwargs[name] = r.choice([0.01, 0.3, 5.0])
            on.append(name.replace("_", " "))
    reward = {"type": kind, "kwargs": kwargs, "reward_scaling": r.choice([1.0, 1.0, 1e4])}
    return config.updated(reward_config=reward), tuple(on)


def make_more_lane_parameters(
    r: random.Random, config: EnvConfig, market: MarketData, n_envs: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Draw borrow rates and episodes by lane."""
    given: dict[str, Any] = {}
    if r.random() < 0.1 and config.margin_config.allow_short and config.randomization.borrow_rate is None:
        given["borrow_rate"] = np.array([[r.uniform(0, 0.5) for _ in market.symbols] for _ in range(n_envs)])
    if r.random() < 0.1 and config.randomization.episode_length is None:
        lengths = [r.randrange(1, max(2, market.n_bars // 2)) for _ in range(n_envs)]
        given["episode_length"] = np.array(lengths)
        given["episode_start"] = np.array([r.randrange(1, market.n_bars - length) for length in lengths])
    return given, tuple(f"by lane {name}" for name in given)


def make_joint(
    r: random.Random, config: EnvConfig, actions: np.ndarray
) -> tuple[EnvConfig, np.ndarray, tuple[str, ...]]:
    """Pack the choices of all symbols into one number, for some."""
    if config.action_config.mode != "discrete" or r.random() < 0.7:
        return config, actions, ()
    joint = (actions * 3 ** np.arange(actions.shape[-1])).sum(axis=-1)
    return config.updated(action_config={"mode": "discrete", "joint": True}), joint, ("joint",)


def make_closing(
    r: random.Random, config: EnvConfig, n_envs: int, steps: int
) -> tuple[EnvConfig, np.ndarray, tuple[str, ...]]:
    """Draw where lanes ask for no position at all, in some worlds at every other step.

    There a smallest order tells a position that is closed from one of which 6e-8 is left: only the first is exempt.
    """
    rate = r.choice([0.0, 0.1, 0.5])
    closes = np.array([[r.random() < rate for _ in range(n_envs)] for _ in range(steps)])
    if rate == 0.0 or config.action_config.mode == "discrete":
        return config, closes, ()
    if rate == 0.5:
        execution = {"min_notional": r.uniform(1.0, 50.0), **config.execution_config.model_dump(exclude_unset=True)}
        config = config.updated(execution_config=execution)
    return config, closes, ("closing in float32",)


def make_actions(r: random.Random, config: EnvConfig, market: MarketData, n_envs: int, steps: int) -> np.ndarray:
    """Draw actions: whole, half, nothing, everything, dust, flips, and beyond the bounds."""
    n = market.n_symbols
    if config.action_config.mode == "discrete":
        return np.array([[[r.randrange(3) for _ in range(n)] for _ in range(n_envs)] for _ in range(steps)])

    def row() -> list[float]:
        temper = r.randrange(8)
        if temper == 0:
            return [1.0] * n
        if temper == 1:
            return [-1.0] * n
        if temper == 2:
            return [0.0] * n
        if temper == 3:
            return [r.choice([1e-7, 1e-13, 1e-20]) * r.choice([-1, 1])] * n
        if temper == 4:
            return [r.choice([-1.0, 1.0, 0.5, -0.5, 0.25]) for _ in range(n)]
        if temper == 5:
            return [3.0 * r.uniform(-1, 1) for _ in range(n)]
        return [r.uniform(-1, 1) for _ in range(n)]

    return np.array([[row() for _ in range(n_envs)] for _ in range(steps)], np.float32)
