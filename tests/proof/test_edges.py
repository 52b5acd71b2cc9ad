"""Worlds in which comparisons are ties: round prices that hardly move, round costs, actions a few float32 steps apart.

What is a tie in exact arithmetic must not be decided by the last bit of a float: both tiers must decide as the exact
account does. Random worlds hardly ever come to a tie, and these do at every other step.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData
from stateful import StatefulTradingEnv
from stateful.verify import compare
from tests.proof.exact import ExactAccount

ROUND = [0, 1, -1, 0.5, -0.5, 0.25, -0.25, 0.75, -0.75, 0.1, -0.1, 0.2, 0.3, -0.3, 1 / 3, -1 / 3, 0.125, 0.01, -0.01]
PRICES = [10.0, 100.0, 1.0, 0.1, 3.0, 64.0, 0.7, 1e-3, 12345.0]
MOVES = [2.0, 0.5, 1.25, 0.8, 1.1, 1 / 1.1, 4.0, 0.25]


def draw_market(r: random.Random) -> MarketData:
    """Draw prices that stay for some bars and then move by a round factor."""
    rows = []
    for s in range(r.choice([1, 1, 2, 3])):
        close = r.choice(PRICES)
        for date in pd.bdate_range("2021-01-01", periods=40):
            first = close
            close *= r.choice(MOVES) if r.random() < 0.15 else 1.0
            high, low = max(first, close) * r.choice([1, 1, 1.05, 1.1]), min(first, close) * r.choice([1, 1, 0.95, 0.9])
            rows.append((date, f"S{s}", first, high, low, close, float(r.choice([0, 64, 100, 1000, 1e6, 1e6, 1e6]))))
    return MarketData.from_frame(
        pd.DataFrame(rows, columns=["date", "symbol", "open", "high", "low", "close", "volume"])
    )


def draw_rules(r: random.Random) -> EnvConfig:
    """Draw rules of round numbers."""

    def some(**choices: tuple[float, list[float]]) -> dict[str, Any]:
        return {name: r.choice(values) for name, (chance, values) in choices.items() if r.random() < chance}

    margin = some(allow_short=(0.5, [True]), leverage=(0.5, [1.5, 2.0, 4.0]))
    leverage = margin.get("leverage", 1.0)
    margin |= some(net_limit=(0.3, [0.25, 0.5, 1.0])) | some(maintenance_margin=(0.4 * bool(margin), [0.1, 0.2, 0.25]))
    costs = {"fee_rate": r.choice([0.0, 0.0, 0.01, 0.001]), "slippage_rate": r.choice([0.0, 0.0, 0.01, 0.001])}
    costs |= some(
        fee_minimum=(0.5, [1.0, 8.0, 0.1]), fee_fixed=(0.3, [1.0, 0.1, 5.0]), fee_per_share=(0.2, [0.01, 0.1])
    )
    return EnvConfig.model_validate(
        {
            "fill": r.choice(["close", "next_open", "next_close"]),
            "portfolio_config": {
                "initial_cash": r.choice([1e3, 1e4, 16e3, 1e6]),
                "trade_limit_percent": r.choice([0.1, 0.25, 0.5, 1.0]),
                "bankruptcy_fraction": r.choice([0, 0, 0.25, 0.5]),
            },
            "cost_config": costs,
            "execution_config": some(
                lot_size=(0.4, [1.0, 0.1, 0.01, 10.0, 0.25]),
                min_notional=(0.4, [1.0, 10.0, 64.0, 100.0]),
                participation_limit=(0.2, [0.01, 0.1, 0.25, 0.5]),
                stop_loss=(0.3, [0.05, 0.1, 0.2, 0.5]),
                take_profit=(0.3, [0.05, 0.1, 0.25, 1.0]),
            ),
            "margin_config": margin,
            "action_config": {
                "mode": r.choice(["trade", "weights", "weights", "shares", "shares"]),
                "max_shares": r.choice([64.0, 100.0, 1e3, 1e6]),
                "max_weight": r.choice([1.0, 1.0, leverage]),
            },
            "observation_config": {"unrealized_pnl": True},
            "episode_config": {"length": 30, "random_start": True},
            "reward_config": {"type": r.choice(["differential_sharpe", "simple_return"])},
        }
    )


def draw_actions(r: random.Random, config: EnvConfig) -> Callable[..., np.ndarray]:
    """Return what draws actions: round ones, the last again or its opposite, and what is held, some steps beside."""
    last: dict[tuple[int, int], np.float32] = {}
    rules = config.action_config

    def number(key: tuple[int, int], kind: float, held: float, weight: float) -> np.float32:
        if kind < 0.4 and key in last:
            return last[key] if kind < 0.25 else -last[key]
        if kind < 0.6 and rules.mode == "shares":
            return np.float32(-held / rules.max_shares)
        if kind < 0.6 and rules.mode == "weights":
            return np.float32(weight / rules.max_weight)
        return np.float32(r.choice(ROUND))

    def act(held: np.ndarray, weights: np.ndarray) -> np.ndarray:
        actions = np.zeros(held.shape, np.float32)
        for k, row in enumerate(actions):
            kind = r.random()
            for s in range(len(row)):
                x = number((k, s), kind, held[k, s], weights[k, s])
                for _ in range(r.choice([0, 0, 0, 1, 2, 2, 3, 4])):
                    x = np.nextafter(x, np.float32(r.choice([-2, 2])))
                row[s] = last[k, s] = x
        return actions

    return act


@pytest.mark.parametrize("seed", range(60))
def test_both_tiers_agree_where_there_are_ties(seed: int) -> None:
    play_both(seed)


def test_the_reward_of_an_account_that_has_lost_nearly_all_is_known_to_fewer_digits() -> None:
    """1e9 in the beginning and a few hundred at the end, which carry the rounding of 1e9; rewards divide by them."""
    play_both(256, initial_cash=1e9)


def play_both(seed: int, **changes: float) -> None:
    """Compare the tiers in a world, with other settings of the account."""
    r = random.Random(seed)
    market, config = draw_market(r), draw_rules(r)
    account = config.portfolio_config.model_dump(exclude_unset=True)
    config = config.updated(portfolio_config=account | changes)
    act = draw_actions(r, config)

    def actions(_: int, env: BatchTradingEnv) -> np.ndarray:
        return act(env.holdings, env.holdings * market.mark[env.bar] / env.equity[:, None])

    compare(market, config, actions, n_envs=8, steps=60, seed=seed)


@pytest.mark.parametrize("tier", [StatefulTradingEnv, FastTrainingEnv])
def test_ties_are_decided_as_in_exact_arithmetic(tier: Any) -> None:
    steps = 0
    for seed in range(250):
        r = random.Random(seed)
        market, config = draw_market(r), draw_rules(r).updated(episode_config={})
        act, env, exact = draw_actions(r, config), tier(market, config, seed=0), ExactAccount(market, config)
        env.reset()
        money, ended = float(exact.cash), False
        for _ in range(14):
            held = env.holdings[None]
            action = act(held, held * market.mark[env.bar] / env.equity)[0]
            exact.step(action)
            _, _, terminated, ended, _ = env.step(action)
            positions = sum(abs(h) * mark for h, mark in zip(exact.shares, exact.mark[exact.t], strict=True))
            money = max(money, float(abs(exact.cash) + positions))
            where = f"seed {seed}, bar {exact.t}"
            assert abs(env.cash - float(exact.cash)) <= 1e-11 * money, where
            assert abs(env.equity - float(exact.equity)) <= 1e-11 * money, where
            assert [h == 0 for h in env.holdings] == [h == 0 for h in exact.shares], where
            assert terminated == exact.terminated, where
            steps += 1
            if terminated or ended:
                break
    assert steps > 3_000
