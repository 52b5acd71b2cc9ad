"""Small models of stable-baselines3 for tests that judge them, and a loop that lets them act without `BackTesting`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from batchenv import MarketData, TradingVecEnv, indexed_policy
from stateful import BackTesting, BacktestResults, StatefulTradingEnv
from tests.markets import market

ON_POLICY = {"n_steps": 8}
OFF_POLICY = {"learning_starts": 8, "batch_size": 16, "buffer_size": 500, "train_freq": 4}
ALGORITHMS: dict[str, tuple[type[BaseAlgorithm], dict[str, Any]]] = {
    "ppo": (PPO, {**ON_POLICY, "batch_size": 8, "n_epochs": 1}),
    "a2c": (A2C, ON_POLICY),
    "sac": (SAC, OFF_POLICY),
    "td3": (TD3, OFF_POLICY),
    "dqn": (DQN, OFF_POLICY),
}
JOINT = {"action_config": {"mode": "discrete", "joint": True}}
WHOLE = market(0, 200)
TRAIN, TEST = WHOLE.split(WHOLE.timestamps[120])
QUIET = {"vectorbt": False, "uncertainty": {"resamples": 0}}


def rules(**changes: Any) -> dict[str, Any]:
    """Rules of a small environment, in which actions decide a good deal."""
    return {
        "features": ["return_1", "momentum_5"],
        "portfolio_config": {"trade_limit_percent": 0.5},
        "episode_config": {"length": 12, "random_start": True},
        **changes,
    }


def train(
    name: str = "ppo", wrap: Callable[[Any], Any] = lambda env: env, bars: MarketData = TRAIN, **changes: Any
) -> BaseAlgorithm:
    """Train a model for a few steps in a wrapped `TradingVecEnv` of three lanes."""
    changes = {**(JOINT if name == "dqn" else {}), **changes}
    return learn(name, wrap(TradingVecEnv(bars, rules(**changes), n_envs=3, seed=0)))


def learn(name: str, env: Any, steps: int = 60) -> BaseAlgorithm:
    """Train a model for a few steps, and let it want more than it has learned to."""
    algorithm, parameters = ALGORITHMS[name]
    policy, kwargs = indexed_policy(env, "MlpPolicy", {"net_arch": [8]}, name)
    model = algorithm(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **parameters)
    model.learn(steps)
    if hasattr(model.policy, "action_net"):  # it begins with weights near 0
        with torch.no_grad():
            model.policy.action_net.weight.mul_(100.0)
    return model


def exact(bars: MarketData = TEST, *, scaler: Any = None, features: Any = None, **changes: Any) -> StatefulTradingEnv:
    """The environment that a model is judged in."""
    return StatefulTradingEnv(bars, rules(**changes), features, scaler=scaler, seed=0)


def whole(env: StatefulTradingEnv) -> StatefulTradingEnv:
    """The same environment over all bars, as a backtest plays it."""
    plain = env.config.updated(episode_config={"length": None, "random_start": False})
    return StatefulTradingEnv(env.market, plain, env.features, scaler=env.scaler, seed=0)


def by_hand(model: Any, env: StatefulTradingEnv, see: Callable[[Any], Any] = lambda vector: vector) -> list[float]:
    """Equity at every bar of an account that a model leads, which sees ``see(observation)`` of one lane."""
    env = whole(env)
    observation, _ = env.reset()
    equity, done = [env.equity], False
    while not done:
        action, _ = model.predict(see(observation), deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        equity.append(env.equity)
        done = terminated or truncated
    return equity


class Stack:
    """The last ``n`` vectors end to end, the latest last, zeros before the first: what `VecFrameStack` shows."""

    def __init__(self, n: int, then: Callable[[Any], Any] = lambda vector: vector) -> None:
        self.n, self.then, self.seen = n, then, []

    def __call__(self, vector: Any) -> Any:
        self.seen.append(np.array(vector))
        rows = [np.zeros_like(vector)] * self.n + self.seen
        return self.then(np.concatenate(rows[-self.n :]))


def judge(model: Any, env: StatefulTradingEnv, config: Any = None, **settings: Any) -> BacktestResults:
    """Backtest without baselines."""
    return BackTesting(model, env, {**QUIET, **(config or {})}, baselines=(), **settings).run()


def equity(model: Any, env: StatefulTradingEnv, config: Any = None, **settings: Any) -> list[float]:
    """Equity at every bar of a backtest."""
    return judge(model, env, config, **settings).equity.tolist()


def flags(results: BacktestResults) -> dict[str, str]:
    """Text of each flag by name."""
    return {flag.name: flag.text for flag in results.flags}
