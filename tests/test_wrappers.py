"""gymnasium's own wrappers around all three environments: each works, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import gymnasium.wrappers as scalar
import gymnasium.wrappers.vector as vector
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv
from stateful import StatefulTradingEnv, TradingEnv
from tests.markets import market

RULES = {"features": ["return_1"], "episode_config": {"length": 20, "random_start": True}}
ZERO, ONE = np.float32(0.0), np.float32(1.0)
SCALAR = [FastTrainingEnv, StatefulTradingEnv, TradingEnv]


def play(env: Any, steps: int = 65) -> tuple[float, list[dict[str, Any]]]:
    """Play random actions; return the sum of all rewards and the last info of each episode."""
    env.reset(seed=1)
    env.action_space.seed(0)
    total, ends = 0.0, []
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total += float(reward)
        if terminated or truncated:
            ends.append(info)
            env.reset()
    return total, ends


@pytest.mark.parametrize("make", SCALAR)
def test_record_episode_statistics_finds_its_key_free(make: type[Any]) -> None:
    """Its statistics are ours, of which the last info tells under names of its own."""
    env = scalar.RecordEpisodeStatistics(make(market(), RULES, seed=0))
    _, ends = play(env)
    assert len(ends) == 3 == env.episode_count
    for info in ends:
        assert (info["return"], info["length"]) == (info["episode"]["r"], info["episode"]["l"]) and info["length"] == 20
    assert list(env.return_queue) == [info["return"] for info in ends]


def test_the_vector_record_episode_statistics_finds_its_key_free() -> None:
    env = vector.RecordEpisodeStatistics(BatchTradingEnv(market(), RULES, n_envs=4, seed=0))
    env.reset()
    env.action_space.seed(0)
    for _ in range(7):
        *_, infos = env.step(env.action_space.sample())
        assert infos == {}
    env.reset(options={"reset_mask": np.array([True, False, False, True])})
    for _ in range(13):
        *_, infos = env.step(env.action_space.sample())
    final = infos["final_info"]
    np.testing.assert_array_equal(infos["_episode"], [False, True, True, False])
    np.testing.assert_array_equal(infos["episode"]["l"], final["length"])
    np.testing.assert_allclose(infos["episode"]["r"], final["return"], rtol=1e-12)
    assert final["length"].tolist() == [0, 20, 20, 0] and final["episode_number"].tolist() == [0, 0, 0, 0]
    assert set(infos) == {f"{mask}{key}" for mask in ("", "_") for key in ("final_obs", "final_info", "episode")}


@pytest.mark.parametrize("make", SCALAR)
def test_gymnasiums_vector_env_of_ours_gives_the_infos_of_the_batch(make: type[Any]) -> None:
    """`SyncVectorEnv` gathers last infos: the batch gives its own under the same names."""
    lanes = [lambda k=k: make(market(), RULES, seed=0, lane=k) for k in range(3)]
    theirs = SyncVectorEnv(lanes, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = BatchTradingEnv(market(), RULES, n_envs=3, seed=0)
    theirs.reset(), ours.reset()
    ours.action_space.seed(0)
    for _ in range(20):
        actions = ours.action_space.sample()
        *_, expected = theirs.step(actions)
        *_, infos = ours.step(actions)
    for name in ("equity", "bar", "return", "length"):
        np.testing.assert_allclose(infos["final_info"][name], expected["final_info"][name], rtol=1e-9)
        np.testing.assert_array_equal(infos["final_info"][f"_{name}"], expected["final_info"][f"_{name}"])
    np.testing.assert_allclose(np.stack(infos["final_obs"]), np.stack(expected["final_obs"]), atol=1e-6)


def test_masks_and_arrays_of_infos_are_the_callers_own() -> None:
    env = BatchTradingEnv(market(), RULES, n_envs=3, seed=0, copy=False)
    env.reset()
    for _ in range(20):
        *_, infos = env.step(np.zeros((3, 4), np.float32))
    arrays = [*(v for v in infos.values() if isinstance(v, np.ndarray)), *infos["final_info"].values()]
    arrays += list(infos["final_obs"])
    for k, one in enumerate(arrays):
        assert not any(np.shares_memory(one, other) for other in arrays[k + 1 :] if other.dtype == one.dtype != object)
        assert one.dtype == object or (one.flags.writeable and not env._engine.owns(np.ascontiguousarray(one)))
    before = env.cash.copy(), env.bar.copy(), env.episode.copy()
    for array in arrays:
        if array.dtype != object:
            array[...] = 1
    for old, new in zip(before, (env.cash, env.bar, env.episode), strict=True):
        np.testing.assert_array_equal(old, new)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "TimeLimit": lambda env: scalar.TimeLimit(env, 7),
    "NormalizeReward": scalar.NormalizeReward,
    "NormalizeObservation": scalar.NormalizeObservation,
    "PassiveEnvChecker": scalar.PassiveEnvChecker,
    "OrderEnforcing": scalar.OrderEnforcing,
    "Autoreset": scalar.Autoreset,
    "ClipAction": scalar.ClipAction,
    "RescaleAction": lambda env: scalar.RescaleAction(env, ZERO, ONE),
    "StickyAction": lambda env: scalar.StickyAction(env, 0.2),
    "FrameStackObservation": lambda env: scalar.FrameStackObservation(env, 3),
    "FlattenObservation": scalar.FlattenObservation,
    "DelayObservation": lambda env: scalar.DelayObservation(env, 2),
    "RescaleObservation": lambda env: scalar.RescaleObservation(env, ZERO, ONE),
    "MaxAndSkipObservation": lambda env: scalar.MaxAndSkipObservation(env, 2),
    "TimeAwareObservation": lambda env: scalar.TimeAwareObservation(scalar.TimeLimit(env, 7)),
    "ClipReward": lambda env: scalar.ClipReward(env, -1.0, 1.0),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("make", SCALAR)
def test_scalar_wrappers_work(make: type[Any], name: str) -> None:
    """With statistics and the passive checker around them; warnings are errors here."""
    env = WRAPPERS[name](scalar.PassiveEnvChecker(make(market(), RULES, seed=0)))
    _, ends = play(scalar.RecordEpisodeStatistics(env))
    assert ends and all("episode" in info for info in ends)


@pytest.mark.parametrize("mode", ["trade", "weights", "shares", "discrete", "joint"])
@pytest.mark.parametrize("observation", ["flat", "indexed"])
@pytest.mark.parametrize("make", SCALAR)
def test_every_scalar_environment_passes_gymnasiums_checker(make: type[Any], mode: str, observation: str) -> None:
    action = {"mode": "discrete", "joint": True} if mode == "joint" else {"mode": mode}
    rules = {"action_config": action, "observation_config": {"mode": observation, "time_left": True}}
    check_env(make(market(), EnvConfig.model_validate(RULES | rules), seed=0), skip_render_check=True)


VECTOR: dict[str, Callable[[VectorEnv], Any]] = {
    "NormalizeReward": vector.NormalizeReward,
    "ClipAction": vector.ClipAction,
    "RescaleAction": lambda env: vector.RescaleAction(env, ZERO, ONE),
    "ClipReward": lambda env: vector.ClipReward(env, -1.0, 1.0),
    "TransformReward": lambda env: vector.TransformReward(env, lambda reward: 2.0 * reward),
}


@pytest.mark.parametrize("name", VECTOR)
@pytest.mark.parametrize("copy", [True, False])
def test_vector_wrappers_work(name: str, copy: bool) -> None:
    batch = BatchTradingEnv(market(), RULES, n_envs=4, seed=0, copy=copy)
    env = vector.RecordEpisodeStatistics(VECTOR[name](batch))
    env.reset(seed=1)
    env.action_space.seed(0)
    for _ in range(20):
        *_, infos = env.step(env.action_space.sample())
    np.testing.assert_array_equal(infos["episode"]["l"], infos["final_info"]["length"])


def test_infos_can_be_taken_apart_by_lane() -> None:
    env = vector.DictInfoToList(BatchTradingEnv(market(), RULES, n_envs=4, seed=0))
    env.reset()
    for _ in range(20):
        *_, infos = env.step(np.zeros((4, 4), np.float32))
    for info in infos:
        assert set(info) == {"final_obs", "final_info"}
        assert set(info["final_info"]) == {"equity", "bar", "return", "length", "episode_number"}
        assert info["final_info"]["length"] == 20


@pytest.mark.parametrize("name", ["NormalizeObservation", "FlattenObservation"])
def test_vector_wrappers_of_observations_refuse_lanes_that_are_reset_within_a_step(name: str) -> None:
    """gymnasium says so itself, with an error that differs by version: they know nothing of final observations."""
    with pytest.raises((ValueError, AssertionError)):
        getattr(vector, name)(BatchTradingEnv(market(), RULES, n_envs=2, seed=0))


def test_gymnasium_makes_the_environments_that_are_registered_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the guide shows; in a registry that lives as long as this test."""
    monkeypatch.setattr("gymnasium.envs.registration.registry", {})
    gymnasium.register(
        "Trading-v0",
        entry_point="batchenv:FastTrainingEnv",
        vector_entry_point=lambda num_envs, **rest: BatchTradingEnv(n_envs=num_envs, **rest),
        kwargs={"market": market(), "config": RULES},
    )
    alone = gymnasium.make("Trading-v0", max_episode_steps=5, seed=0)
    assert [len(play(alone)[1]), type(alone.unwrapped)] == [13, FastTrainingEnv]
    many = gymnasium.make_vec("Trading-v0", num_envs=3, seed=0)
    assert type(many) is BatchTradingEnv and many.reset()[0].shape == (3, 9)
    single = gymnasium.make_vec("Trading-v0", num_envs=3, vectorization_mode="sync")
    assert single.reset()[0].shape == (3, 9)
