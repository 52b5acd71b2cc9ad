"""Both tiers play the same episodes: equity within 1e-9 relative, done flags equal, on every fill and action mode."""

from __future__ import annotations

import numpy as np
import pytest

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData
from stateful import StatefulTradingEnv
from tests.markets import market as frame_market
from tests.markets import ragged_market

FILLS = ("next_open", "next_close", "close")
MODES = (
    {"mode": "trade"},
    {"mode": "weights"},
    {"mode": "shares", "max_shares": 40.0},
    {"mode": "discrete"},
    {"mode": "discrete", "joint": True},
)
REWARDS = ("fast_profit_reward", "simple_return", "log_return", "differential_sharpe")


def hostile(rng: np.random.Generator, env: BatchTradingEnv) -> np.ndarray:
    """Draw actions of all kinds: moderate, all-in, all-out, nothing, and outside the bounds."""
    space = env.single_action_space
    if space.dtype.kind == "i":
        return np.stack([space.sample() for _ in range(env.num_envs)])
    shape = (env.num_envs, env.market.n_symbols)
    kind = rng.integers(0, 5, size=(env.num_envs, 1))
    moderate = rng.uniform(-1, 1, shape)
    extreme = rng.choice([-1.0, 0.0, 1.0], shape)
    choices = [moderate, extreme, np.ones(shape), -np.ones(shape), 3.0 * moderate]
    return np.choose(kind, choices).astype(np.float32)


def settings(**changes: object) -> EnvConfig:
    base = {
        "features": ["return_1", "volatility_5"],
        "portfolio_config": {"initial_cash": 10_000.0, "trade_limit_percent": 0.4, "bankruptcy_fraction": 0.9},
        "cost_config": {"fee_rate": 0.002, "slippage_rate": 0.001},
        "episode_config": {"length": 30, "random_start": True},
        "observation_config": {"unrealized_pnl": True, "time_left": True},
        "reward_config": {
            "type": "fast_profit_reward",
            "reward_scaling": 100.0,
            "kwargs": {"turnover_penalty": 0.1, "drawdown_penalty": 0.2},
        },
    }
    return EnvConfig.model_validate(base | changes)


def play_both(market: MarketData, config: EnvConfig, n_envs: int, steps: int, seed: int) -> dict[str, float]:
    """Step the batch and one scalar environment per lane together; return the worst relative differences."""
    batch = BatchTradingEnv(market, config, n_envs=n_envs, seed=seed)
    batch.single_action_space.seed(seed)
    lanes = [StatefulTradingEnv(market, config, seed=seed, lane=k) for k in range(n_envs)]
    rng = np.random.default_rng(seed)
    observation, _ = batch.reset(seed=seed)
    expected = np.stack([env.reset(seed=seed)[0] for env in lanes])
    np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-6)
    worst = {"equity": 0.0, "cash": 0.0, "reward": 0.0, "ended": 0}
    for _ in range(steps):
        actions = hostile(rng, batch)
        observation, rewards, terminated, truncated, infos = batch.step(actions)
        for k, env in enumerate(lanes):
            obs, reward, term, trunc, info = env.step(actions[k])
            where = f"lane {k}, bar {env.bar}"
            assert (term, trunc) == (terminated[k], truncated[k]), where
            worst["reward"] = max(worst["reward"], abs(reward - rewards[k]) / max(1.0, abs(reward)))
            if term or trunc:
                worst["ended"] += 1
                np.testing.assert_allclose(infos["final_obs"][k], obs, rtol=0, atol=1e-6, err_msg=where)
                equity = infos["final_info"]["equity"][k]
                final = infos["final_info"]
                assert final["length"][k] == info["length"], where
                assert final["return"][k] == pytest.approx(info["return"], rel=1e-9, abs=1e-9), where
                obs, _ = env.reset()
                assert batch.equity[k] == env.equity, where
            else:
                equity = batch.equity[k]
                info_equity = info["equity"]
                np.testing.assert_allclose(batch.holdings[k], env.holdings, rtol=1e-9, atol=1e-9, err_msg=where)
                cash_difference = abs(batch.cash[k] - env.cash) / max(1.0, info_equity)
                worst["cash"] = max(worst["cash"], cash_difference)
            worst["equity"] = max(worst["equity"], abs(equity - info["equity"]) / max(1.0, abs(info["equity"])))
            np.testing.assert_allclose(observation[k], obs, rtol=0, atol=1e-6, err_msg=where)
    return worst


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("action", MODES, ids=["trade", "weights", "shares", "discrete", "joint"])
def test_every_fill_and_action_mode(fill: str, action: dict[str, object]) -> None:
    market = ragged_market(seed=1, n_bars=160)
    worst = play_both(market, settings(fill=fill, action_config=action), n_envs=6, steps=80, seed=3)
    assert worst["equity"] < 1e-9 and worst["cash"] < 1e-9 and worst["reward"] < 1e-9, worst
    assert worst["ended"] > 6, "episodes must end, or the flags are not compared"


@pytest.mark.parametrize("reward", REWARDS)
def test_every_training_reward(reward: str) -> None:
    kwargs = {"eta": 0.05} if reward == "differential_sharpe" else {}
    config = settings(reward_config={"type": reward, "reward_scaling": 10.0, "kwargs": kwargs})
    worst = play_both(ragged_market(seed=2, n_bars=160), config, n_envs=4, steps=60, seed=5)
    assert worst["reward"] < 1e-9, worst


def test_on_the_bundled_data() -> None:
    train, _ = MarketData.bundled().split("2010-01-01")
    config = settings(features=["momentum_20", "rsi_14"], action_config={"mode": "weights"})
    worst = play_both(train, config, n_envs=8, steps=100, seed=11)
    assert worst["equity"] < 1e-9 and worst["cash"] < 1e-9, worst


def test_a_fast_env_is_the_lane_of_a_batch_bit_for_bit() -> None:
    market = ragged_market(seed=4, n_bars=160)
    config = settings()
    batch = BatchTradingEnv(market, config, n_envs=3, seed=9)
    alone = FastTrainingEnv(market, config, seed=9, lane=2)
    observations, _ = batch.reset(seed=9)
    observation, _ = alone.reset(seed=9)
    np.testing.assert_array_equal(observations[2], observation)
    rng = np.random.default_rng(0)
    for _ in range(120):
        actions = hostile(rng, batch)
        observations, rewards, terminated, truncated, infos = batch.step(actions)
        observation, reward, term, trunc, _ = alone.step(actions[2])
        assert (reward, term, trunc) == (rewards[2], terminated[2], truncated[2])
        if term or trunc:
            np.testing.assert_array_equal(infos["final_obs"][2], observation)
            observation, _ = alone.reset()
        np.testing.assert_array_equal(observations[2], observation)


def test_plain_rules_with_parameters_by_lane() -> None:
    """The plain kernel too must look at each lane's own cash and costs, bankruptcy included."""
    from stateful.verify import compare, hostile_actions

    config = settings(
        portfolio_config={"initial_cash": 10_000.0, "trade_limit_percent": 1.0, "bankruptcy_fraction": 0.97}
    )
    own = {"initial_cash": np.array([100.0, 5e3, 1e6, 2e4]), "fee_rate": np.array([0.0, 0.001, 0.01, 0.02])}
    bars = frame_market(seed=6)
    assert BatchTradingEnv(bars, config, n_envs=4, lane_parameters=own)._engine.plain
    found = compare(bars, config, hostile_actions(1), n_envs=4, steps=120, seed=2, lane_parameters=own)
    assert found.terminated > 20


@pytest.mark.parametrize("scale", [1e-10, 1e-12, 1e-30])
@pytest.mark.parametrize("mode", ["trade", "weights", "shares"])
def test_plain_rules_with_orders_of_no_size(mode: str, scale: float) -> None:
    """Rule 2.3 holds for the plain kernel too: an order that is worth nothing opens no position to be seen."""
    from stateful.verify import compare

    rng, bars = np.random.default_rng(0), frame_market(seed=1)
    config = settings(action_config={"mode": mode}, portfolio_config={"trade_limit_percent": 0.1})
    assert BatchTradingEnv(bars, config, n_envs=1)._engine.plain

    def dust(step: int, env: BatchTradingEnv) -> np.ndarray:
        return (scale * rng.uniform(-1, 1, (env.num_envs, bars.n_symbols))).astype(np.float32)

    compare(bars, config, dust, n_envs=4, steps=60, seed=0)


@pytest.mark.parametrize("watched", [{"stop_loss": 0.02}, {"take_profit": 0.02}])
def test_a_short_that_was_sold_for_nothing_has_only_the_stop_that_is_set(watched: dict[str, float]) -> None:
    """Impact can take all of a sale's price (rule 3.3), so that the average entry price is 0."""
    from stateful.verify import compare

    config = settings(
        execution_config=watched,
        margin_config={"allow_short": True},
        cost_config={"fee_rate": 0.0, "slippage_rate": 0.99, "impact_coefficient": 1.0},
        observation_config={"unrealized_pnl": True},
        portfolio_config={"trade_limit_percent": 0.1},
        fill="close",
    )
    bars = frame_market(seed=3)
    env = StatefulTradingEnv(bars, config, seed=0)
    env.reset()
    env.step(-np.ones(bars.n_symbols, np.float32))
    assert ("stop_loss" in watched) == (env.holdings == 0.0).all()
    compare(
        bars, config, lambda _, env: -np.ones((env.num_envs, bars.n_symbols), np.float32), n_envs=2, steps=9, seed=0
    )
