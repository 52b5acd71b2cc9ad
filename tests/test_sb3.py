"""TradingVecEnv against stable-baselines3: the contract of a VecEnv, and every algorithm learning on it."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from batchenv import EnvConfig, FastTrainingEnv, TradingVecEnv
from batchenv.errors import ActionError, ConfigError
from tests.markets import market

ON_POLICY = {"n_steps": 16}
OFF_POLICY = {"learning_starts": 32, "batch_size": 32, "buffer_size": 2_000, "train_freq": 4}
ALGORITHMS = {
    "ppo": (PPO, {**ON_POLICY, "batch_size": 64, "n_epochs": 2}),
    "a2c": (A2C, ON_POLICY),
    "sac": (SAC, OFF_POLICY),
    "td3": (TD3, OFF_POLICY),
    "dqn": (DQN, OFF_POLICY),
}


def settings(**changes: object) -> EnvConfig:
    base = {
        "features": ["return_1", "momentum_5"],
        "episode_config": {"length": 12, "random_start": True},
        "reward_config": {"reward_scaling": 10.0},
    }
    return EnvConfig.model_validate(base | changes)


def venv(n_envs: int = 4, copy: bool = True, **changes: object) -> TradingVecEnv:
    return TradingVecEnv(market(), settings(**changes), n_envs=n_envs, seed=0, copy=copy)


def test_it_behaves_as_a_dummy_vec_env_of_the_same_lanes() -> None:
    ours = venv(3)
    rules, bars = settings(), market()
    theirs = DummyVecEnv([lambda k=k: Monitor(FastTrainingEnv(bars, rules, seed=0, lane=k)) for k in range(3)])
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == [{}, {}, {}]
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(40):
        actions = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
        observation, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        np.testing.assert_array_equal(observation, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2])
        assert (rewards.dtype, dones.dtype, observation.dtype) == (np.float32, np.bool_, np.float32)
        for mine, other, done in zip(infos, expected[3], dones, strict=True):
            assert mine["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert ("terminal_observation" in mine) == done
            if done:
                ended += 1
                np.testing.assert_array_equal(mine["terminal_observation"], other["terminal_observation"])
                assert mine["episode"]["l"] == other["episode"]["l"]
                assert mine["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-5)
                assert mine["equity"] == other["equity"]
    assert ended == 9


def test_bankruptcy_is_not_a_time_limit() -> None:
    rules = {
        "portfolio_config": {"bankruptcy_fraction": 0.99},
        "cost_config": {"fee_rate": 0.2, "slippage_rate": 0.0},
        "action_config": {"mode": "weights"},
    }
    env = venv(2, **rules)
    env.reset()
    _, _, dones, infos = env.step(np.ones((2, 4), np.float32))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False, False]


def test_seeds_are_used_once() -> None:
    env = venv(20)
    env.seed(5)
    env.reset()
    bars = env.get_attr("bar")
    env.reset()
    assert env.get_attr("bar") != bars
    env.seed(5)
    env.reset()
    assert env.get_attr("bar") == bars
    assert env._seeds == [None] * 20


def test_attributes() -> None:
    env = venv(3)
    env.reset()
    assert env.get_attr("equity") == [100_000.0] * 3
    assert env.get_attr("equity", [1]) == [100_000.0]
    assert [row.shape for row in env.get_attr("holdings", indices=[0, 2])] == [(4,), (4,)]
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("num_envs", 0) == [3]
    assert env.has_attr("market")
    assert not env.has_attr("no_such_thing")
    with pytest.raises(AttributeError):
        env.get_attr("no_such_thing")
    env.set_attr("note", "mine")
    assert env.get_attr("note") == ["mine"] * 3
    with pytest.raises(AttributeError, match="cash"):
        env.set_attr("cash", 1.0)
    with pytest.raises(AttributeError, match="shared"):
        env.set_attr("note", "x", indices=[0])
    assert env.env_method("close", indices=[0]) == [None]
    assert env.env_is_wrapped(Monitor) == [False] * 3
    with pytest.raises(AttributeError):
        env.env_method("no_such_method")


def test_misuse_is_named() -> None:
    env = venv(2)
    env.reset()
    with pytest.raises(ActionError, match="step_async"):
        env.step_wait()
    env.set_options({"start": 3})
    with pytest.raises(ConfigError, match="start"):
        env.reset()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "normalised and monitored"])
def test_every_algorithm_learns(name: str, wrapped: bool) -> None:
    algorithm, parameters = ALGORITHMS[name]
    rules = {"action_config": {"mode": "discrete", "joint": True}} if name == "dqn" else {}
    env = venv(4, copy=False, **rules)
    used = VecMonitor(VecNormalize(env)) if wrapped else env
    model = algorithm("MlpPolicy", used, seed=0, device="cpu", **parameters)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(192)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True)), "nothing was learned"
    assert len(model.ep_info_buffer) >= 12, "episode statistics come from the environment"
    action, _ = model.predict(used.reset())
    used.step(action)
    env.close()


def test_learning_is_the_same_with_and_without_copies() -> None:
    """The rollout buffer keeps references to what a step returned: reusing buffers too early changes training."""
    weights = []
    for copy in (True, False):
        model = PPO("MlpPolicy", venv(4, copy=copy), seed=1, device="cpu", n_steps=16, batch_size=32, n_epochs=2)
        model.learn(128)
        weights.append([p.detach().numpy().copy() for p in model.policy.parameters()])
    for kept, reused in zip(*weights, strict=True):
        np.testing.assert_array_equal(kept, reused)


def test_evaluate_policy_counts_the_same_episodes() -> None:
    env = VecMonitor(venv(3))
    model = A2C("MlpPolicy", env, seed=0, device="cpu", n_steps=8)
    rewards, lengths = evaluate_policy(model, env, n_eval_episodes=6, return_episode_rewards=True)
    assert lengths == [12] * 6
    assert len(rewards) == 6
