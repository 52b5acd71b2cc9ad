"""Differential fuzz: hypothesis draws a world, and every lane of the batch must equal one stateful run.

A small budget, the same every time. ``make proof`` runs ten million lane-steps of the same worlds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchenv import EnvConfig
from stateful import StatefulTradingEnv
from stateful.verify import VerificationError, compare, hostile_actions
from tests.markets import market
from tests.proof.scenarios import scenario
from tests.stateful.worlds import hand_made

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=QUIET, database=None)
@given(st.randoms(use_true_random=False))
def test_both_tiers_agree_in_every_small_world(r: random.Random) -> None:
    world = scenario(r, n_bars=12, n_symbols=2, n_envs=2, steps=10)
    compare(
        world.market,
        world.config,
        world.action,
        n_envs=2,
        steps=10,
        seed=world.seed,
        lane_parameters=world.lane_parameters,
    )


@pytest.mark.parametrize("seed", range(60))
def test_both_tiers_agree_in_larger_worlds(seed: int) -> None:
    r = random.Random(seed)
    world = scenario(r, n_bars=60, n_symbols=r.randrange(1, 5), n_envs=4, steps=80)
    certificate = compare(
        world.market,
        world.config,
        world.action,
        n_envs=4,
        steps=80,
        seed=world.seed,
        lane_parameters=world.lane_parameters,
    )
    assert certificate.lane_steps == 320


def test_a_disagreement_is_told_with_both_accounts() -> None:
    """The comparison itself must be able to fail: two different rule sets are told apart, with where and what."""
    world = scenario(random.Random(4), n_bars=30, n_symbols=2, n_envs=2, steps=20)
    free = world.config.updated(cost_config={"fee_rate": 0.0, "slippage_rate": 0.0})
    costly = world.config.updated(cost_config={"fee_rate": 0.05, "slippage_rate": 0.0})

    import stateful.verify as verify

    original = verify.StatefulTradingEnv
    try:
        verify.StatefulTradingEnv = lambda market, _, **rest: original(market, costly, **rest)  # type: ignore
        with pytest.raises(VerificationError, match=r"lane \d, episode \d+ from bar \d+"):
            compare(world.market, free, world.action, n_envs=2, steps=20, seed=1)
    finally:
        verify.StatefulTradingEnv = original  # type: ignore


def _at(place: int, value: float) -> Callable[[list[Any]], None]:
    def change(step: list[Any]) -> None:
        step[0][place] += value

    return change


def _reward(step: list[Any]) -> None:
    step[1] += 2e-9


def _truncated(step: list[Any]) -> None:
    step[3] = not step[3]


PLANTED: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "a feature": (_at(0, 5e-6), "observation return_1"),
    "a weight": (_at(4, 5e-6), "observation weight"),
    "a cash fraction": (_at(8, 5e-6), "observation cash"),
    "an unrealised profit": (_at(9, 5e-6), "observation unrealized_pnl"),
    "time left": (_at(13, 5e-6), "observation time_left"),
    "no number": (_at(9, float("nan")), "observation unrealized_pnl.*stateful nan"),
    "an infinite number": (_at(4, float("inf")), "observation weight.*stateful inf"),
    "a reward": (_reward, "reward"),
    "a flag": (_truncated, "terminated, truncated"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_small_error_of_one_tier_is_noticed(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a step returns, an error little above the tolerance stops the comparison; and so does no number."""
    change, message = PLANTED[plant]

    class Wrong(StatefulTradingEnv):
        def step(self, action: Any) -> Any:
            step = list(super().step(action))
            change(step)
            return tuple(step)

    _let(Wrong, monkeypatch, message)


@pytest.mark.parametrize("name", ["cash", "equity", "holdings"])
def test_a_small_error_of_one_account_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = property(lambda self: getattr(StatefulTradingEnv, name).fget(self) * (1 + 1e-8 * (self.bar > self.start)))
    _let(type("Wrong", (StatefulTradingEnv,), {name: error}), monkeypatch, {"holdings": "shares"}.get(name, name))


def _let(tier: type[StatefulTradingEnv], monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Compare with a tier that is wrong: it must be noticed."""
    rules = {
        "features": ["return_1"],
        "observation_config": {"unrealized_pnl": True, "time_left": True},
        "portfolio_config": {"trade_limit_percent": 0.5},
        "reward_config": {"type": "simple_return"},
    }
    monkeypatch.setattr("stateful.verify.StatefulTradingEnv", tier)
    with pytest.raises(VerificationError, match=f"disagree on {message}"):
        compare(market(), EnvConfig.model_validate(rules), hostile_actions(1), n_envs=2, steps=60, seed=0)


@pytest.mark.parametrize("reward", ["simple_return", "fast_profit_reward", "log_return"])
def test_a_wrong_reward_of_an_account_that_ends_with_nothing_is_noticed(
    reward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the equity at 100 falls to 50: the account ends with 0, and its last reward is known for all that."""

    class Wrong(StatefulTradingEnv):
        def step(self, action: Any) -> Any:
            observation, value, terminated, *rest = super().step(action)
            return observation, 0.0 if terminated else value, terminated, *rest

    rules = {
        "fill": "close",
        "margin_config": {"leverage": 2.0},
        "reward_config": {"type": reward},
        "feature_scaling": "none",
    }
    rules |= {
        "cost_config": {"fee_rate": 0.0, "slippage_rate": 0.0},
        "action_config": {"mode": "weights", "max_weight": 2.0},
    }
    config, bars = EnvConfig.model_validate(rules), hand_made([[100.0], [100.0], [50.0], [50.0]])

    def play() -> None:
        compare(bars, config, lambda *_: np.ones((1, 1), np.float32), n_envs=1, steps=2, seed=0)

    play()
    monkeypatch.setattr("stateful.verify.StatefulTradingEnv", Wrong)
    with pytest.raises(VerificationError, match="disagree on reward"):
        play()


def test_scenarios_cover_every_rule() -> None:
    """The generator reaches every rule, mode and fault within the budget of this file."""
    from tests.proof.scenarios import FAULTS

    seen: set[str] = set()
    for seed in range(400):
        r = random.Random(seed)
        seen |= set(scenario(r, n_bars=12, n_symbols=2, n_envs=1, steps=1).covered)
    some = (
        "short",
        "lots",
        "funding column",
        "drawn leverage",
        "joint",
        "by lane borrow_rate",
        "by lane episode_start",
        "closing in float32",
    )
    rewards = ("reward differential_sharpe", "turnover penalty", "drawdown penalty")
    for name in (*(f"market: {fault}" for fault in FAULTS), *some, *rewards):
        assert name in seen
    assert len(seen) >= 55, sorted(seen)
