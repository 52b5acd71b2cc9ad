"""TradingVecEnv against stable-baselines3: the contract of a VecEnv, and every algorithm learning on it."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecNormalize,
)

from batchenv import EnvConfig, FastTrainingEnv, TradingVecEnv
from batchenv.errors import ActionError, ConfigError
from batchenv.rollout import RewardScaler
from tests.markets import market
from tests.vectors import monitored

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
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(TimeLimit, [0, 2]) == [False] * 2
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
    used = monitored(VecNormalize(env)) if wrapped else env
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
    for copies in (True, False):
        model = PPO("MlpPolicy", venv(4, copy=copies), seed=1, device="cpu", n_steps=16, batch_size=32, n_epochs=2)
        model.learn(128)
        weights.append([p.detach().numpy().copy() for p in model.policy.parameters()])
    for kept, reused in zip(*weights, strict=True):
        np.testing.assert_array_equal(kept, reused)


def test_evaluate_policy_counts_the_same_episodes() -> None:
    """As many, as long and with the same returns as of lanes that each have a `Monitor`."""
    rules, bars = settings(), market()
    ours = venv(3)
    theirs = DummyVecEnv([lambda k=k: Monitor(FastTrainingEnv(bars, rules, seed=0, lane=k)) for k in range(3)])
    model = A2C("MlpPolicy", ours, seed=0, device="cpu", n_steps=8)
    found, expected = (
        evaluate_policy(model, env, n_eval_episodes=6, return_episode_rewards=True) for env in (ours, theirs)
    )
    assert found[1] == expected[1] == [12] * 6
    assert found[0] == pytest.approx(expected[0], abs=1e-6) and len(set(found[0])) == 6


def test_nothing_warns_that_there_is_no_monitor(tmp_path: Path) -> None:
    """`evaluate_policy` and `EvalCallback` see the environment's own statistics; warnings are errors here."""
    model = PPO("MlpPolicy", venv(4), seed=0, device="cpu", n_steps=16, batch_size=32, n_epochs=1)
    callback = EvalCallback(venv(2), n_eval_episodes=4, eval_freq=16, log_path=str(tmp_path), verbose=0)
    model.learn(192, callback=callback)
    assert np.load(tmp_path / "evaluations.npz")["ep_lengths"].tolist() == [[12] * 4] * 3
    assert evaluate_policy(model, venv(2), n_eval_episodes=2)[0] != 0.0


@pytest.mark.parametrize("scale", [VecNormalize, lambda env: RewardScaler(env, 0.99)], ids=["VecNormalize", "ours"])
def test_evaluate_policy_reports_rewards_as_the_environment_gave_them(scale: Callable[[VecEnv], VecEnv]) -> None:
    """Also where a wrapper scales what the algorithm sees."""
    scaled = scale(venv(3))
    model = A2C("MlpPolicy", scaled, seed=0, device="cpu", n_steps=8)
    scaled.training = False  # type: ignore[attr-defined]
    kept: list[float] = []

    def keep(local: dict[str, Any], _: Any) -> None:
        kept.append(float(scaled.get_original_reward()[local["i"]]))  # type: ignore[attr-defined]

    rewards, lengths = evaluate_policy(model, scaled, n_eval_episodes=3, return_episode_rewards=True, callback=keep)
    assert lengths == [12] * 3
    lanes = np.array(kept).reshape(12, 3)
    assert sorted(rewards) == pytest.approx(sorted(lanes.sum(axis=0)), abs=1e-5)


def test_statistics_of_a_vec_monitor_take_the_place_of_ours_with_a_warning(tmp_path: Path) -> None:
    plain, watched = venv(3), monitored(venv(3), filename=str(tmp_path / "monitor.csv"))
    plain.reset(), watched.reset()
    rng = np.random.default_rng(0)
    for _ in range(25):
        actions = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
        *_, dones, infos = plain.step(actions)
        *_, theirs = watched.step(actions)
        for k in np.flatnonzero(dones):
            assert theirs[k]["episode"]["l"] == infos[k]["episode"]["l"]
            assert theirs[k]["episode"]["r"] == pytest.approx(infos[k]["episode"]["r"], abs=1e-4)
    watched.close()
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) == 2 + 6


WRITES: dict[str, Callable[[Any], Any]] = {
    "set": lambda info: info.__setitem__("mine", 1),
    "delete": lambda info: info.__delitem__("TimeLimit.truncated"),
    "update": lambda info: info.update(mine=1),
    "setdefault": lambda info: info.setdefault("mine", 1),
    "pop": lambda info: info.pop("TimeLimit.truncated"),
    "popitem": lambda info: info.popitem(),
    "clear": lambda info: info.clear(),
    "or": lambda info: operator.ior(info, {"mine": 1}),
}


@pytest.mark.parametrize("write", WRITES)
def test_an_info_that_lanes_share_refuses_to_be_written_to(write: str) -> None:
    env = venv(3)
    env.reset()
    *_, infos = env.step(np.zeros((3, 4), np.float32))
    with pytest.raises(TypeError, match=r"all lanes .* share this dict.*infos\[k\] = \{\*\*infos\[k\], ...\}"):
        WRITES[write](infos[1])
    assert infos == [{"TimeLimit.truncated": False}] * 3
    assert json.dumps(infos[0]) == '{"TimeLimit.truncated": false}'
    assert infos[0].get("terminal_observation") is None and list(infos[0].items()) == [("TimeLimit.truncated", False)]


def test_a_lane_gets_an_info_of_its_own_as_the_message_says() -> None:
    env = venv(3)
    env.reset()
    *_, infos = env.step(np.zeros((3, 4), np.float32))
    infos[1] = {**infos[1], "mine": 1}
    for copied in (infos[0].copy(), copy.copy(infos[0]), copy.deepcopy(infos[0]), pickle.loads(pickle.dumps(infos[0]))):
        assert type(copied) is dict
        copied["mine"] = 2
    assert type(copy.deepcopy(infos)[0]) is dict and type(infos[0] | {"mine": 3}) is dict
    assert infos == [{"TimeLimit.truncated": False}, {"TimeLimit.truncated": False, "mine": 1}, infos[0]]
    assert env.step(np.zeros((3, 4), np.float32))[3] == [{"TimeLimit.truncated": False}] * 3
    env.reset_infos[0]["mine"] = 1
    assert env.reset_infos == [{"mine": 1}, {}, {}]


@pytest.mark.parametrize("name", ["sac", "td3", "dqn"])
@pytest.mark.parametrize("optimize", [False, True], ids=["", "memory optimised"])
def test_replay_buffers_take_the_infos(name: str, optimize: bool) -> None:
    """What ended by the clock is told from what ended by bankruptcy, in every lane."""
    algorithm, parameters = ALGORITHMS[name]
    rules = {"action_config": {"mode": "discrete", "joint": True}} if name == "dqn" else {}
    env = VecCheckNan(VecNormalize(VecFrameStack(venv(4, **rules), 2)), raise_exception=True)
    settings = {"optimize_memory_usage": optimize, "replay_buffer_kwargs": {"handle_timeout_termination": not optimize}}
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **parameters, **settings)
    model.learn(192)
    buffer = model.replay_buffer
    assert buffer is not None
    ends = buffer.dones[: buffer.pos].sum()
    assert ends == 4 * (buffer.pos // 12) > 0
    if not optimize:
        assert buffer.timeouts[: buffer.pos].sum() == ends


def test_a_seed_of_any_integer_type_serves_as_many_lanes_as_there_are() -> None:
    """stable-baselines3 adds the lane's number to it, which does not fit into 8 bits."""
    env = venv(300)
    expected = None
    for seed in (5, np.int8(5), np.uint64(5), np.int16(5)):
        env.seed(seed)
        env.reset()
        bars = env.get_attr("bar")
        expected = bars if expected is None else expected
        assert bars == expected
    for seed in (-1, 2**63, 10**5000, 1.0, True, "1", np.timedelta64(5), np.array([1, 2])):
        with pytest.raises(ConfigError, match="seed: got"):
            env.seed(seed)
    assert type(TradingVecEnv(market(), settings(), n_envs=np.int8(100)).num_envs) is int
