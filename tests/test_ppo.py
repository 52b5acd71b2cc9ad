"""FastPPO against stable-baselines3's PPO: the same weights, logs and files, from the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize

from batchenv import EnvConfig, MarketData, TradingVecEnv
from batchenv.ppo import FastPPO, PlainMlp
from batchenv.rollout import FastRolloutBuffer

LANES, STEPS = 6, 16
BASE: dict[str, Any] = {"n_steps": STEPS, "batch_size": 32, "n_epochs": 3, "device": "cpu", "seed": 3}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "box": ({}, {}),
    "multi-discrete": ({"action_config": {"mode": "discrete"}}, {"ent_coef": 0.01}),
    "discrete": ({"action_config": {"mode": "discrete", "joint": True}}, {"ent_coef": 0.01}),
    "entropy bonus": ({}, {"ent_coef": 0.05}),
    "gSDE": ({}, {"use_sde": True, "sde_sample_freq": 4}),
    "squashed gSDE": ({}, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "target_kl": ({}, {"target_kl": 1e-4, "learning_rate": 3e-3}),
    "clip_range_vf": ({}, {"clip_range_vf": 0.1}),
    "uneven batches": ({}, {"batch_size": 50}),
    "a batch of one left": ({}, {"batch_size": 19}),
    "raw advantages": ({}, {"normalize_advantage": False}),
    "schedules": ({}, {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.1 + 0.1 * left}),
    "relu": ({}, {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": {"pi": [32], "vf": [16, 8]}}}),
    "linear": ({}, {"policy_kwargs": {"net_arch": []}}),
    "sgd": ({}, {"policy_kwargs": {"optimizer_class": torch.optim.SGD}}),
    "bankrupt": ({"portfolio_config": {"bankruptcy_fraction": 0.9995}}, {}),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def venv(**changes: Any) -> TradingVecEnv:
    rules = {
        "features": ["return_1", "momentum_20"],
        "episode_config": {"length": 11, "random_start": True},
        "reward_config": {"reward_scaling": 1000.0},
    }
    config = EnvConfig.model_validate(rules | changes)
    return TradingVecEnv(MarketData.bundled(), config, n_envs=LANES, seed=0, copy=False)


def same(stock: PPO, fast: PPO) -> None:
    """Compare weights and what was logged."""
    mine, theirs = fast.policy.state_dict(), stock.policy.state_dict()
    assert list(mine) == list(theirs)
    for name, expected in theirs.items():
        torch.testing.assert_close(mine[name], expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    kept = [
        {k: v for k, v in model.logger.name_to_value.items() if not k.startswith("time/")} for model in (stock, fast)
    ]
    assert list(kept[0]) == list(kept[1])
    assert kept[0]
    for name, value in kept[0].items():
        assert kept[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert [(e["r"], e["l"]) for e in fast.ep_info_buffer] == [
        (pytest.approx(e["r"], rel=1e-4, abs=1e-4), e["l"]) for e in stock.ep_info_buffer
    ]
    assert list(fast.ep_success_buffer) == list(stock.ep_success_buffer)
    assert fast.num_timesteps == stock.num_timesteps
    assert fast._n_updates == stock._n_updates


def learn(model: PPO, updates: int = 3) -> PPO:
    """Learn, and leave the last update's log in the logger."""
    model.learn(updates * STEPS * LANES, log_interval=10**6)
    model.logger.record("rollout/ep_rew_mean", np.mean([e["r"] for e in model.ep_info_buffer] or [0.0]))
    model.logger.record("rollout/ep_len_mean", np.mean([e["l"] for e in model.ep_info_buffer] or [0.0]))
    return model


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "normalised"])
@pytest.mark.parametrize("case", CASES)
def test_it_learns_what_stock_ppo_learns(case: str, wrapped: bool) -> None:
    rules, parameters = CASES[case]
    models = []
    for algorithm in (PPO, FastPPO):
        env: VecEnv = venv(**rules)
        if wrapped:
            env = VecNormalize(env)
        models.append(learn(algorithm("MlpPolicy", env, **(BASE | parameters))))
    same(*models)
    assert len(models[1].ep_info_buffer) > 0
    if case == "target_kl":
        assert models[1]._n_updates < 9, "it never stopped early"


class Toy(gymnasium.Env[Any, int]):
    """Truncates or terminates at a time of its own, and reports successes."""

    def __init__(self, lane: int, kind: str) -> None:
        numbers = spaces.Box(-1, 1, (3,), np.float32)
        image = spaces.Box(0, 255, (4, 4), np.uint8)
        space = {"dict": spaces.Dict({"a": numbers, "b": spaces.Discrete(3)}), "discrete": spaces.Discrete(5)}
        self.observation_space = space.get(kind, image if kind == "matrix" else numbers)
        self.action_space = spaces.MultiBinary(2) if kind == "binary" else spaces.Discrete(3)
        self.lane = lane
        self.observation_space.seed(lane)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps >= 3 + self.lane
        truncated = over and self.lane % 2 == 0
        info = {"is_success": self.lane > 2} if over else {}
        return self.observation_space.sample(), float(np.sum(action)), over and not truncated, truncated, info


@pytest.mark.parametrize("kind", ["box", "binary", "discrete", "matrix", "dict"])
def test_it_learns_the_same_on_any_vec_env(kind: str) -> None:
    models = []
    for algorithm in (PPO, FastPPO):
        env = VecMonitor(DummyVecEnv([lambda k=k: Toy(k, kind) for k in range(LANES)]))
        models.append(learn(algorithm("MultiInputPolicy" if kind == "dict" else "MlpPolicy", env, **BASE)))
    same(*models)
    assert isinstance(models[1].rollout_buffer, DictRolloutBuffer if kind == "dict" else FastRolloutBuffer)
    assert True in models[1].ep_success_buffer


@pytest.mark.parametrize(("first", "second"), [(PPO, FastPPO), (FastPPO, PPO), (FastPPO, FastPPO)])
def test_files_are_interchangeable(first: type[PPO], second: type[PPO], tmp_path: Path) -> None:
    saved = learn(first("MlpPolicy", venv(), **BASE))
    saved.save(tmp_path / "model")
    loaded = second.load(tmp_path / "model", env=venv(), device="cpu")
    assert loaded.rollout_buffer_class is RolloutBuffer
    reference = PPO.load(tmp_path / "model", env=venv(), device="cpu")
    observation = venv().reset()
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], saved.predict(observation, deterministic=True)[0]
    )
    for model in (reference, loaded):
        model.set_random_seed(5)
        learn(model)
    same(reference, loaded)


def test_a_buffer_that_was_asked_for_is_used() -> None:
    class Mine(RolloutBuffer):
        pass

    stock = learn(PPO("MlpPolicy", venv(), **BASE))
    model = FastPPO("MlpPolicy", venv(), rollout_buffer_class=Mine, **BASE)
    assert type(model.rollout_buffer) is Mine
    same(stock, learn(model))


def test_a_callback_sees_what_it_sees_in_stock_ppo() -> None:
    class Looker(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[set[str]] = []

        def _on_step(self) -> bool:
            self.names.append(set(self.locals))
            return self.n_calls < 5

    lookers = []
    for algorithm in (PPO, FastPPO):
        lookers.append(Looker())
        algorithm("MlpPolicy", venv(), **BASE).learn(100, callback=lookers[-1])
    assert len(lookers[1].names) == 5, "training went on although the callback said stop"
    assert lookers[0].names[0] - {"self"} <= lookers[1].names[0], "before any lane ends, all of them"
    assert lookers[0].names[-1] - lookers[1].names[-1] <= {"idx", "done", "terminal_obs", "terminal_value"}


def test_other_policies_are_left_alone() -> None:
    class Own(PPO.policy_aliases["MlpPolicy"]):  # type: ignore[misc]
        pass

    assert PlainMlp.of(FastPPO("MlpPolicy", venv(), **BASE).policy) is not None
    assert PlainMlp.of(FastPPO(Own, venv(), **BASE).policy) is None
    assert PlainMlp.of(FastPPO("MlpPolicy", venv(), use_sde=True, **BASE).policy) is None
