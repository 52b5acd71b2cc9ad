"""The batch environment: lanes, clocks, autoreset, seeds, threads, buffers."""

from __future__ import annotations

import copy
import pickle
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import cycle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from batchenv import BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData, register_reward
from batchenv.episodes import EpisodeSchedule, draw
from batchenv.errors import ActionError, BatchenvError, ConfigError, EnvironmentStateError, MarketDataError
from batchenv.kernel import engine
from batchenv.kernel.rewards import tanh
from tests.markets import frame, market, ragged_market


def settings(**changes: object) -> EnvConfig:
    base = {"features": ["return_1"], "episode_config": {"length": 20, "random_start": True}}
    return EnvConfig.model_validate(base | changes)


def actions_for(env: BatchTradingEnv, steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (steps, env.num_envs, env.market.n_symbols)).astype(np.float32)


def roll(env: BatchTradingEnv, actions: np.ndarray) -> list[np.ndarray]:
    """Return observations, rewards, flags, cash and holdings of every step, stacked."""
    first, _ = env.reset(seed=7)
    rows = [[first, np.zeros(env.num_envs), np.zeros(env.num_envs, bool), env.cash.copy(), env.holdings.copy()]]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append([observation, reward, terminated | truncated, env.cash.copy(), env.holdings.copy()])
    return [np.stack(column) for column in zip(*rows, strict=True)]


def test_lane_k_is_the_same_for_any_number_of_lanes_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_WORTH", 0)
    monkeypatch.setattr(engine, "_LEAST_RANGE", 4)
    bars = ragged_market(n_bars=90)
    full = BatchTradingEnv(bars, settings(), n_envs=300)
    actions = actions_for(full, 50)
    expected = roll(full, actions)
    for n_envs, n_threads in ((1, 1), (7, 2), (300, 2), (299, 3)):
        env = BatchTradingEnv(bars, settings(), n_envs=n_envs, n_threads=n_threads)
        for got, want in zip(roll(env, actions[:, :n_envs]), expected, strict=True):
            np.testing.assert_array_equal(got, want[:, :n_envs])
        env.close()


class LatePool:
    """Threads that come late to a step, or at a later one, or never."""

    def __init__(self, delays: list[float]) -> None:
        self._delays = cycle(delays)

    def submit(self, function: Callable[..., None], limit: int, *arguments: Any) -> Future[None]:
        future, delay = Future[None](), next(self._delays)

        def run() -> None:
            time.sleep(delay)
            function(limit, *arguments)
            future.set_result(None)

        if delay < np.inf:
            threading.Thread(target=run).start()
        else:
            future.set_result(None)
        return future

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize("delays", [[0.0], [0.0, 1e-4, 3e-3], [np.inf]], ids=["at once", "some late", "never"])
def test_a_thread_that_comes_late_changes_nothing(delays: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_WORTH", 0)
    monkeypatch.setattr(engine, "_LEAST_RANGE", 4)
    alone = BatchTradingEnv(market(), settings(), n_envs=300)
    env = BatchTradingEnv(market(), settings(), n_envs=300, n_threads=3)
    env._engine._pool.shutdown()
    env._engine._pool = LatePool(delays)
    actions = actions_for(env, 60)
    for got, want in zip(roll(env, actions), roll(alone, actions), strict=True):
        np.testing.assert_array_equal(got, want)


def test_few_lanes_wake_no_threads() -> None:
    """A step of theirs takes less time than that."""
    few = BatchTradingEnv(market(), settings(), n_envs=256, n_threads=2)
    many = BatchTradingEnv(market(), settings(), n_envs=8192, n_threads=2)
    assert few._engine._pool is None and many._engine._pool is not None
    many.close()


def test_tanh_is_that_of_the_c_library() -> None:
    found = [tanh(x) for x in np.linspace(-25.0, 25.0, 10_001)] + [tanh(x) for x in np.geomspace(1e-12, 1.0, 1_000)]
    expected = np.tanh(np.concatenate([np.linspace(-25.0, 25.0, 10_001), np.geomspace(1e-12, 1.0, 1_000)]))
    np.testing.assert_allclose(found, expected, rtol=2e-15)
    assert tanh(0.0) == 0.0


def test_desynchronized_lanes_do_not_all_end_together() -> None:
    episodes = {"length": 20, "random_start": True, "desynchronize": True}
    env = BatchTradingEnv(market(), settings(episode_config=episodes), n_envs=400, seed=1)
    env.reset()
    hold = np.zeros((400, 4), np.float32)
    ended = np.stack([env.step(hold)[3] for _ in range(60)])
    assert (ended.sum(axis=0) >= 3).all()
    assert ended.sum(axis=1).max() < 400 * 0.12, "of 20 steps each should end about a twentieth of the lanes"
    for lane in range(400):
        first, *others = np.flatnonzero(ended[:, lane])
        assert first < 20
        assert set(np.diff([first, *others])) == {20}


def test_desynchronizing_cuts_nothing_but_drawn_episodes_with_a_length() -> None:
    schedules = [EpisodeSchedule.build(101, 5, length, start, True) for length, start in ((20, False), (None, True))]
    lanes, episodes = np.arange(50), np.zeros(50, np.int64)
    for schedule in schedules:
        whole = EpisodeSchedule.build(101, 5, schedule.length, schedule.random_start)
        np.testing.assert_array_equal(schedule.bars(3, lanes, episodes), whole.bars(3, lanes, episodes))


def test_autoreset_gives_the_first_observation_and_keeps_the_true_last_one() -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=5, seed=1)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.reset()
    hold = np.zeros((5, 4), np.float32)
    for _ in range(19):
        *_, truncated, infos = env.step(hold)
        assert not truncated.any()
        assert infos == {}
    starts = env.bar - 19
    observation, _, terminated, truncated, infos = env.step(hold)
    assert truncated.all()
    assert not terminated.any()
    assert infos["_final_obs"].all()
    np.testing.assert_array_equal(infos["final_info"]["bar"], starts + 20)
    for k in range(5):
        np.testing.assert_array_equal(infos["final_obs"][k][:4], env.task.features.values[starts[k] + 20])
        np.testing.assert_array_equal(observation[k][:4], env.task.features.values[env.bar[k]])
    assert (env.episode == 1).all()
    np.testing.assert_array_equal(infos["final_info"]["length"], 20)


def test_lanes_end_apart_when_their_clocks_differ() -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=4, seed=0)
    env.reset()
    hold = np.zeros((4, 4), np.float32)
    for _ in range(7):
        env.step(hold)
    env.reset(options={"reset_mask": np.array([True, False, False, True])})
    np.testing.assert_array_equal(env.episode, [1, 0, 0, 1])
    for _ in range(13):
        *_, truncated, infos = env.step(hold)
    np.testing.assert_array_equal(truncated, [False, True, True, False])
    np.testing.assert_array_equal(infos["_final_info"], [False, True, True, False])
    np.testing.assert_array_equal(infos["final_info"]["length"], [0, 20, 20, 0])


def test_episode_return_is_the_sum_of_rewards() -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=3, seed=0)
    env.reset()
    total = np.zeros(3)
    for action in actions_for(env, 20):
        _, reward, _, truncated, infos = env.step(action)
        total += reward
    assert truncated.all()
    np.testing.assert_allclose(infos["final_info"]["return"], total, rtol=1e-12)


def test_seeding_repeats_and_separates() -> None:
    env = BatchTradingEnv(market(n_bars=300), settings(), n_envs=50, seed=3)
    env.reset()
    first = env.bar.copy()
    env.reset()
    assert (env.bar != first).any(), "the next episode starts elsewhere"
    env.reset(seed=3)
    np.testing.assert_array_equal(env.bar, first)
    env.reset(seed=4)
    assert (env.bar != first).any()
    assert len(set(first.tolist())) > 20, "lanes start at different bars"


def test_start_bars_cover_their_range_evenly() -> None:
    schedule = EpisodeSchedule.build(n_bars=25, first_bar=4, length=10, random_start=True)
    assert (schedule.first, schedule.last) == (4, 14)
    lanes, episodes = np.divmod(np.arange(110_000, dtype=np.int64), 100)
    starts, ends = schedule.bars(12345, lanes, episodes)
    counts = np.bincount(starts, minlength=15)[4:]
    assert counts.sum() == 110_000
    chi2 = float(((counts - 10_000) ** 2 / 10_000).sum())
    assert chi2 < 29.6, "chi-square with 10 degrees of freedom, p = 0.001"
    np.testing.assert_array_equal(ends - starts, 10)


def test_draw_gives_the_same_numbers_for_integers_and_arrays() -> None:
    lanes = np.array([0, 1, 5_000_000_000], np.int64)
    together = draw(2**62 + 9, lanes, np.array([0, 7, 2], np.int64), 0)
    assert together.tolist() == [draw(2**62 + 9, k, e, 0) for k, e in ((0, 0), (1, 7), (5_000_000_000, 2))]


def test_without_a_length_an_episode_runs_to_the_end_of_the_data() -> None:
    env = FastTrainingEnv(market(n_bars=30), EnvConfig(features=("momentum_5",)))
    env.reset()
    assert (env.start, env.end) == (5, 29)
    steps = 0
    done = False
    while not done:
        *_, done, info = env.step(np.zeros(4, np.float32))
        steps += 1
    assert steps == 24 == info["length"]
    with pytest.raises(EnvironmentStateError, match="reset"):
        env.step(np.zeros(4, np.float32))


def test_an_episode_of_a_lane_is_played_alone() -> None:
    batch = BatchTradingEnv(market(n_bars=200), settings(), n_envs=9, seed=21)
    batch.reset()
    batch.reset()
    alone = FastTrainingEnv(market(n_bars=200), settings(), seed=21)
    alone.reset(options={"lane": 6, "episode": 1})
    assert alone.bar == batch.bar[6]
    alone.reset(options={"start": 33})
    assert (alone.start, alone.end) == (33, 53)


@pytest.mark.parametrize(
    "options", [{"lane": -1}, {"lanes": 1}, {"start": 3.5}, {"start": 10_000}, {"episode": True}], ids=str
)
def test_wrong_reset_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="options"):
        FastTrainingEnv(market(), settings()).reset(options=options)


def test_returned_arrays_are_the_callers_own() -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=2, seed=0)
    first, _ = env.reset()
    kept = first.copy()
    second, reward, *_ = env.step(actions_for(env, 1)[0])
    second[:] = np.nan
    reward[:] = np.nan
    third, *_ = env.step(actions_for(env, 1)[0])
    np.testing.assert_array_equal(first, kept)
    assert np.isfinite(third).all()
    with pytest.raises(ValueError, match="read-only"):
        env.holdings[:] = 1.0


def test_without_copies_a_result_is_valid_until_the_step_after_the_next() -> None:
    bars, rules = market(), settings()
    env = BatchTradingEnv(bars, rules, n_envs=3, seed=0, copy=False)
    safe = BatchTradingEnv(bars, rules, n_envs=3, seed=0)
    previous, _ = env.reset()
    previous_safe, _ = safe.reset()
    for action in actions_for(env, 45):
        result, result_safe = env.step(action), safe.step(action)
        np.testing.assert_array_equal(previous, previous_safe)
        for got, want in zip(result[:4], result_safe[:4], strict=True):
            np.testing.assert_array_equal(got, want)
        previous, previous_safe = result[0], result_safe[0]


@pytest.mark.parametrize("copy", [True, False])
def test_observations_go_where_they_are_wanted(copy: bool) -> None:
    bars, rules = market(), settings(episode_config={"length": 7, "random_start": True})
    env = BatchTradingEnv(bars, rules, n_envs=3, seed=0, copy=copy)
    safe = BatchTradingEnv(bars, rules, n_envs=3, seed=0)
    env.reset(), safe.reset()
    memory = np.full((30, *env.observation_space.shape), np.nan, np.float32)
    wanted = []
    for k, action in enumerate(actions_for(env, 30)):
        got, expected = env.step(action, out=memory[k] if k % 3 else None), safe.step(action)
        assert np.may_share_memory(got[0], memory) == (k % 3 > 0)
        wanted.append(expected[0] if k % 3 else np.full_like(expected[0], np.nan))
        for mine, theirs in zip(got[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        if "final_obs" in expected[4]:
            np.testing.assert_array_equal(np.stack(got[4]["final_obs"]), np.stack(expected[4]["final_obs"]))
    np.testing.assert_array_equal(memory, np.stack(wanted))  # and nowhere else


def test_a_reset_leaves_the_callers_memory_alone() -> None:
    env, safe = (BatchTradingEnv(market(), settings(), n_envs=3, seed=0) for _ in range(2))
    env.reset(), safe.reset()
    action = actions_for(env, 1)[0]
    memory = np.zeros(env.observation_space.shape, np.float32)
    env.step(action, out=memory)
    kept, expected = memory.copy(), safe.step(action)[0]
    for options in ({"reset_mask": np.array([False, True, False])}, None):
        got, want = env.reset(options=options)[0], safe.reset(options=options)[0]
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(memory, kept)
    np.testing.assert_array_equal(kept, expected)


def test_memory_that_observations_do_not_fit_is_refused() -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=3, seed=0)
    env.reset()
    n, size = env.observation_space.shape
    action, bar = actions_for(env, 1)[0], env.bar.copy()
    locked = np.zeros((n, size), np.float32)
    locked.flags.writeable = False
    for out, got in (
        (np.zeros((n, size)), f"float64 [{n}, {size}]"),
        (np.zeros((n, size + 1), np.float32), f"float32 [{n}, {size + 1}]"),
        (np.zeros((size, n), np.float32).T, f"float32 [{n}, {size}]"),
        (locked, f"float32 [{n}, {size}]"),
        ([[0.0] * size] * n, "list"),
    ):
        expected = f"out: got {got}, expected writable, C-contiguous float32 [{n}, {size}]"
        with pytest.raises(ConfigError, match=re.escape(expected)):
            env.step(action, out=out)
    indexed = BatchTradingEnv(market(), settings(observation_config={"mode": "indexed"}), n_envs=3, seed=0)
    indexed.reset()
    with pytest.raises(ConfigError, match="out: takes flat observations only"):
        indexed.step(action, out=locked)
    np.testing.assert_array_equal(env.bar, bar)


def test_a_registered_reward_serves_both_tiers_and_its_faults_are_named() -> None:
    from stateful import StatefulTradingEnv

    def loss_averse(step: object, aversion: float = 2.0) -> object:
        change = step.equity_after / step.equity_before - 1.0  # type: ignore[attr-defined]
        return np.where(change < 0, aversion * change, change)

    register_reward("test_loss_averse", loss_averse, replace=True)
    kwargs = {"aversion": 3.0, "turnover_penalty": 0.5}
    rules = settings(reward_config={"type": "test_loss_averse", "reward_scaling": 7.0, "kwargs": kwargs})
    env = BatchTradingEnv(market(), rules, n_envs=1, seed=0)
    exact = StatefulTradingEnv(market(), rules, seed=0)
    env.reset()
    exact.reset()
    for action in actions_for(env, 20):
        reward = env.step(action)[1][0]
        assert reward == pytest.approx(exact.step(action[0])[1], rel=1e-9)
    register_reward("test_loss_averse", lambda step, **_: step.equity_after[:0], replace=True)
    broken = BatchTradingEnv(market(), rules, n_envs=2, seed=0)
    broken.reset()
    with pytest.raises(ConfigError, match=r"test_loss_averse.*shape \[0\], expected \[2\]"):
        broken.step(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.full((3, 4), np.nan, np.float32), r"lane 0, symbol 'A'\].*nan.*11 more"),
        (np.array([[0, 0, 0, 0], [0, np.inf, 0, 0], [0, 0, 0, 0]], np.float32), r"lane 1, symbol 'B'\].*inf"),
        (np.zeros((3, 5), np.float32), r"shape \[3, 5\], expected \[3, 4\]"),
        (np.zeros(4, np.float32), r"shape \[4\], expected \[3, 4\]"),
        (np.full((3, 4), "buy"), "dtype"),
        ([[0.0], [0.0, 1.0], [0.0]], "rows differ in length"),
    ],
)
def test_a_bad_action_is_refused_before_anything_changes(action: object, message: str) -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=3, seed=0)
    env.reset()
    before = (env.cash.copy(), env.holdings.copy(), env.bar.copy())
    with pytest.raises(ActionError, match=message):
        env.step(action)
    for old, new in zip(before, (env.cash, env.holdings, env.bar), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_large_finite_action_is_clipped_not_refused() -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=1, seed=0)
    env.reset()
    env.step(np.full((1, 4), 3e38, np.float32))
    assert env.cash[0] >= 0.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"episode_config": {"length": 500}}, MarketDataError, "120 bars, expected at least 502"),
        ({"features": ["momentun_20"]}, BatchenvError, "momentun_20"),
        ({"reward_config": {"type": "sharpe_ratio"}}, ConfigError, "looks at the account's history"),
        ({"reward_config": {"type": "log_retrun"}}, ConfigError, "did you mean 'log_return'"),
        ({"reward_config": {"kwargs": {"turnover_penalti": 1}}}, ConfigError, "did you mean 'turnover_penalty'"),
        ({"reward_config": {"kwargs": {"turnover_penalty": "x"}}}, ConfigError, "turnover_penalty: got 'x'"),
        ({"action_config": {"mode": "trade", "joint": True}}, ConfigError, "joint"),
        ({"portfolio_config": {"initial_cash": 0}}, ConfigError, "portfolio_config.initial_cash"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_unusable_setup_is_refused_at_construction(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BatchTradingEnv(market(), settings(**changes), n_envs=2)


@pytest.mark.parametrize("n_envs", [0, -1, 2.0, True])
def test_a_wrong_number_of_lanes_is_refused(n_envs: object) -> None:
    with pytest.raises(ConfigError, match="n_envs"):
        BatchTradingEnv(market(), settings(), n_envs=n_envs)


def test_next_open_is_refused_for_closes_only() -> None:
    closes = frame().pivot(index="date", columns="symbol", values="close")
    with pytest.raises(ConfigError, match=r"next_open.*next_close"):
        BatchTradingEnv(MarketData.from_frame(closes), settings(), n_envs=2)
    env = BatchTradingEnv(closes, settings(fill="next_close"), n_envs=2)
    assert env.reset()[0].shape == (2, 4 + 5)


def test_step_before_reset_is_refused() -> None:
    with pytest.raises(EnvironmentStateError, match="reset"):
        BatchTradingEnv(market(), settings(), n_envs=1).step(np.zeros((1, 4), np.float32))


def test_an_environment_survives_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_WORTH", 0)
    env = BatchTradingEnv(market(), settings(), n_envs=200, seed=0, n_threads=2)
    env.reset()
    twin = pickle.loads(pickle.dumps(env))
    action = actions_for(env, 1)[0]
    for got, want in zip(twin.step(action)[:4], env.step(action)[:4], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("copies", [True, False])
def test_a_copy_of_an_environment_has_accounts_of_its_own(copies: bool) -> None:
    env = BatchTradingEnv(market(), settings(), n_envs=3, seed=0, copy=copies)
    env.reset()
    twin = copy.deepcopy(env)
    before = twin.cash.copy()
    actions = np.full((3, market().n_symbols), 0.5, np.float32)
    ours = [env.step(actions)[1].copy() for _ in range(4)]
    assert (twin.cash == before).all()
    assert (np.array([twin.step(actions)[1].copy() for _ in range(4)]) == np.array(ours)).all()


def test_compiling_is_announced_and_only_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    BatchTradingEnv(market(), settings()).reset()
    assert not caplog.records
    monkeypatch.setattr("batchenv.kernel.engine.is_ready", lambda _: False)
    BatchTradingEnv(market(), settings())
    assert "compiles its kernel, once" in caplog.text


@pytest.mark.parametrize("mode", ["trade", "weights", "shares", "discrete"])
@pytest.mark.parametrize("scaling", ["standard", "none"])
def test_fast_env_passes_both_checkers(mode: str, scaling: str) -> None:
    import stable_baselines3.common.env_checker as sb3_checker
    from gymnasium.utils import env_checker

    rules = settings(
        action_config={"mode": mode},
        feature_scaling="standard",
        observation_config={"unrealized_pnl": True, "time_left": True},
    )
    env = FastTrainingEnv(market(), rules, seed=0)
    env_checker.check_env(env, skip_render_check=True)
    sb3_checker.check_env(env)
    assert isinstance(env, gymnasium.Env)
