"""What stood between a model and its environment in training stands there in a backtest, or the backtest refuses."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecExtractDictObs,
    VecFrameStack,
    VecNormalize,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from batchenv import Agent, BacktestConfig, EnvConfig, FastTrainingEnv, TradingVecEnv
from batchenv.errors import ConfigError, RunError
from batchenv.extractors import bound_market
from batchenv.made_for import MadeFor
from stateful import BackTesting, StatefulTradingEnv
from stateful.baselines import BuyAndHold
from stateful.command import prepare_config
from stateful.evaluation.stress import stress_test
from stateful.judge import make_judge
from tests.markets import frame
from tests.stateful.judged import (
    ALGORITHMS,
    JOINT,
    QUIET,
    TEST,
    TRAIN,
    Stack,
    by_hand,
    equity,
    exact,
    flags,
    judge,
    learn,
    rules,
    train,
)
from tests.vectors import monitored


def normalize(model: Any) -> Callable[[Any], Any]:
    """How a model's own `VecNormalize` shows an observation."""
    return model.get_vec_normalize_env().normalize_obs


def again(model: Any, folder: Path, **kwargs: Any) -> Any:
    """The same model, saved and loaded."""
    model.save(folder / "model.zip")
    return type(model).load(folder / "model.zip", device="cpu", **kwargs)


# --- VecNormalize ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_model_under_vec_normalize_sees_its_own_statistics_frozen(name: str) -> None:
    model, env = train(name, VecNormalize), exact(**(JOINT if name == "dqn" else {}))
    wanted = by_hand(model, env, normalize(model))
    before = model.get_vec_normalize_env().obs_rms.count
    assert equity(model, env) == wanted
    assert model.get_vec_normalize_env().obs_rms.count == before
    assert abs(wanted[-1] - by_hand(model, env)[-1]) > 1.0, "raw observations would have told another story"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_loaded_model_under_vec_normalize_is_refused_without_its_statistics(name: str, tmp_path: Path) -> None:
    model, env = train(name, lambda venv: monitored(VecNormalize(venv))), exact(**(JOINT if name == "dqn" else {}))
    wanted = by_hand(model, env, normalize(model))
    path = tmp_path / "vecnormalize.pkl"
    model.get_vec_normalize_env().save(path)
    loaded = again(model, tmp_path)
    with pytest.raises(RunError, match=r"VecNormalize normalised.*vec_normalize='vecnormalize\.pkl'"):
        BackTesting(loaded, env)
    for statistics in (path, str(path), model.get_vec_normalize_env(), model.get_env()):
        assert equity(loaded, env, vec_normalize=statistics) == wanted
    assert equity(loaded, env, {"vec_normalize": str(path)}) == wanted


def test_a_model_that_is_loaded_into_its_normalised_environment_uses_that(tmp_path: Path) -> None:
    model, env = train("ppo", VecNormalize), exact()
    model.get_vec_normalize_env().save(tmp_path / "vecnormalize.pkl")
    venv = VecNormalize.load(tmp_path / "vecnormalize.pkl", TradingVecEnv(TRAIN, rules(), n_envs=2, seed=1))
    loaded = again(model, tmp_path, env=venv)
    assert equity(loaded, env) == by_hand(model, env, normalize(model))
    with pytest.raises(RunError, match="own environment has a VecNormalize; expected none beside it"):
        BackTesting(loaded, env, vec_normalize=tmp_path / "vecnormalize.pkl")


def test_a_model_that_is_loaded_into_a_bare_environment_is_flagged(tmp_path: Path) -> None:
    """Its last observations are gone; that rewards or observations were normalised is all that it still tells."""
    model, env = train("ppo", VecNormalize), exact()
    loaded = again(model, tmp_path, env=TradingVecEnv(TRAIN, rules(), n_envs=2, seed=1))
    found = {flag.name: flag for flag in judge(loaded, env).flags}
    assert found["normalization_unknown"].severity == "warning"
    assert "vec_normalize" in found["normalization_unknown"].text
    told = judge(loaded, env, vec_normalize=model.get_env())
    assert told.equity.tolist() == by_hand(model, env, normalize(model))
    assert "normalization_unknown" not in flags(told)
    bare = again(train("ppo"), tmp_path, env=TradingVecEnv(TRAIN, rules(), n_envs=2, seed=1))
    assert "normalization_unknown" not in flags(judge(bare, env))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("loaded", [False, True], ids=["trained", "loaded"])
def test_rewards_alone_may_be_normalised(name: str, loaded: bool, tmp_path: Path) -> None:
    model = train(name, lambda venv: VecNormalize(venv, norm_obs=False))
    env = exact(**(JOINT if name == "dqn" else {}))
    wanted = by_hand(model, env)
    model = again(model, tmp_path) if loaded else model
    assert equity(model, env) == wanted
    assert not {"wrappers_unknown", "normalization_unknown"} & set(flags(judge(model, env)))


def test_statistics_for_a_model_that_saw_raw_observations_are_refused(tmp_path: Path) -> None:
    statistics = train("ppo", VecNormalize).get_env()
    for model in (train("ppo"), again(train("ppo"), tmp_path)):
        with pytest.raises(RunError, match=r"are not normalised.*expected no vec_normalize"):
            BackTesting(model, exact(), vec_normalize=statistics)
    fresh = VecNormalize(TradingVecEnv(TRAIN, rules(), n_envs=3, seed=0), training=False)  # leaves all as it is
    model = train("ppo")
    assert equity(model, exact(), vec_normalize=fresh) == pytest.approx(by_hand(model, exact()), rel=1e-4)


def test_statistics_of_another_training_are_flagged(tmp_path: Path) -> None:
    for wrap, depth in ((VecNormalize, None), (lambda venv: VecFrameStack(VecNormalize(venv), 2), 2)):
        model = train("ppo", wrap)
        loaded = again(model, tmp_path)
        shorter = {"action_config": {"mode": "weights"}, "episode_config": {"length": 3, "random_start": True}}
        other = train("ppo", wrap, **shorter).get_vec_normalize_env()
        found = {flag.name: flag for flag in judge(loaded, exact(), vec_normalize=other, frame_stack=depth).flags}
        assert found["other_statistics"].severity == "warning"
        own = judge(loaded, exact(), vec_normalize=model.get_vec_normalize_env(), frame_stack=depth)
        assert "other_statistics" not in flags(own)


def test_statistics_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    model = again(train("ppo", VecNormalize), tmp_path)
    with pytest.raises(RunError, match=r"vec_normalize: .*nowhere\.pkl: there is no file here"):
        BackTesting(model, exact(), vec_normalize=tmp_path / "nowhere.pkl")
    (tmp_path / "bad.pkl").write_bytes(b"no pickle")
    with pytest.raises(RunError, match=r"bad\.pkl: cannot be read: UnpicklingError"):
        BackTesting(model, exact(), vec_normalize=tmp_path / "bad.pkl")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"mean": 0.0}))
    with pytest.raises(RunError, match=r"other\.pkl: holds dict, expected what VecNormalize\.save wrote"):
        BackTesting(model, exact(), vec_normalize=tmp_path / "other.pkl")
    with pytest.raises(RunError, match="vec_normalize: got TradingVecEnv, expected a VecNormalize"):
        BackTesting(model, exact(), vec_normalize=TradingVecEnv(TRAIN, rules(), seed=0))
    other = VecNormalize(TradingVecEnv(TRAIN, rules(features=["return_1"]), seed=0))
    with pytest.raises(RunError, match=r"statistics are of observations of shape \[9\], the environment shows \[13\]"):
        BackTesting(model, exact(), vec_normalize=other)


def test_a_model_whose_environment_was_exchanged_is_judged_by_its_last_observation() -> None:
    model = train("ppo", VecNormalize)
    model.env = TradingVecEnv(TRAIN, rules(), n_envs=3, seed=0)
    with pytest.raises(RunError, match="VecNormalize normalised"):
        BackTesting(model, exact())


def test_a_policy_alone_tells_less_and_is_noted() -> None:
    model = train("ppo", VecNormalize)
    assert "wrappers_unknown" in flags(judge(model.policy, exact()))
    assert equity(model.policy, exact(), vec_normalize=model.get_env()) == by_hand(model, exact(), normalize(model))


# --- VecFrameStack ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ppo", "sac", "dqn"])
def test_a_model_under_vec_frame_stack_sees_stacks(name: str, tmp_path: Path) -> None:
    model = train(name, lambda venv: VecFrameStack(venv, 3))
    env = exact(**(JOINT if name == "dqn" else {}))
    wanted = by_hand(model, env, Stack(3))
    testing = BackTesting(model, env, QUIET, baselines=())
    assert testing.run().equity.tolist() == wanted
    assert testing.run().equity.tolist() == wanted, "the second run begins with an empty stack"
    loaded = again(model, tmp_path)
    with pytest.raises(RunError, match=r"\[39\].*\[13\].*VecFrameStack\(n_stack=3\)\? Then hand in frame_stack=3"):
        BackTesting(loaded, env)
    assert equity(loaded, env, frame_stack=3) == equity(loaded, env, {"frame_stack": 3}) == wanted
    with pytest.raises(RunError, match=r"\[39\].*\[26\]"):
        BackTesting(loaded, env, frame_stack=2)
    with pytest.raises(RunError, match="frame_stack: got 2, but the model's own environment stacks 3"):
        BackTesting(model, env, frame_stack=2)


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "3"])
def test_a_stack_that_is_none_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="frame_stack: got"):
        BackTesting(again(train("ppo"), tmp_path), exact(), frame_stack=wrong)


def test_normalised_frames_are_stacked_and_stacks_are_normalised(tmp_path: Path) -> None:
    frames = train("ppo", lambda venv: VecFrameStack(VecNormalize(venv), 3))
    stacks = train("ppo", lambda venv: VecNormalize(VecFrameStack(venv, 3)))
    stack = Stack(3)
    wanted = [
        by_hand(frames, exact(), lambda vector: stack(normalize(frames)(vector))),
        by_hand(stacks, exact(), Stack(3, normalize(stacks))),
    ]
    assert wanted[0][-1] != wanted[1][-1]
    for model, expected in zip((frames, stacks), wanted, strict=True):
        assert equity(model, exact()) == expected
        loaded = again(model, tmp_path)
        with pytest.raises(RunError, match="frame_stack=3"):
            BackTesting(loaded, exact())
        with pytest.raises(RunError, match="VecNormalize normalised"):
            BackTesting(loaded, exact(), frame_stack=3)
        assert equity(loaded, exact(), frame_stack=3, vec_normalize=model.get_env()) == expected


# --- wrappers of single environments ---------------------------------------------------------------------------------


class Doubled(gymnasium.ObservationWrapper):
    """Changes what is seen, and keeps the space."""

    def observation(self, observation: Any) -> Any:
        return 2.0 * observation


class Halved(gymnasium.RewardWrapper):
    def reward(self, reward: Any) -> Any:
        return 0.5 * float(reward)


class Counted(gymnasium.Wrapper):
    """Overrides what observations go through, as far as anybody can tell."""

    steps = 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.env.step(action)


class Honest(Counted):
    passes_through = True


class Drawn(gymnasium.Wrapper):
    """Overrides nothing that observations go through."""

    def render(self) -> Any:
        return None


class LoudMonitor(Monitor):
    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + 0.1, *rest


def dummy(wrap: Callable[[Any], Any], n: int = 2, **changes: Any) -> DummyVecEnv:
    config = EnvConfig.model_validate(rules(**changes))
    return DummyVecEnv([lambda k=k: wrap(FastTrainingEnv(TRAIN, config, seed=0, lane=k)) for k in range(n)])


HARMLESS: dict[str, Callable[[Any], Any]] = {
    "none": lambda env: env,
    "Monitor": Monitor,
    "TimeLimit": lambda env: wrappers.TimeLimit(env, 5),
    "OrderEnforcing": wrappers.OrderEnforcing,
    "PassiveEnvChecker": wrappers.PassiveEnvChecker,
    "NormalizeReward": wrappers.NormalizeReward,
    "TransformReward": lambda env: wrappers.TransformReward(env, lambda reward: 3.0 * reward),
    "ClipReward": lambda env: wrappers.ClipReward(env, -1.0, 1.0),
    "a RewardWrapper of one's own": Halved,
    "a wrapper that says so": Honest,
    "a wrapper that only draws": Drawn,
    "several": lambda env: Monitor(Halved(wrappers.TimeLimit(env, 6))),
}
CHANGING: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NormalizeObservation": (wrappers.NormalizeObservation, "NormalizeObservation"),
    "TransformObservation": (
        lambda env: wrappers.TransformObservation(env, lambda seen: seen + 1.0, env.observation_space),
        "TransformObservation",
    ),
    "DelayObservation": (lambda env: wrappers.DelayObservation(env, 1), "DelayObservation"),
    "TimeAwareObservation": (
        lambda env: wrappers.TimeAwareObservation(wrappers.TimeLimit(env, 8)),
        "TimeAwareObservation",
    ),
    "FrameStackObservation": (
        lambda env: wrappers.FlattenObservation(wrappers.FrameStackObservation(env, 2)),
        "FlattenObservation",
    ),
    "TransformAction": (
        lambda env: wrappers.TransformAction(env, lambda action: -action, spaces.Box(-1.0, 1.0, (4,), np.float32)),
        "TransformAction",
    ),
    "StickyAction": (lambda env: wrappers.StickyAction(env, 0.5), "StickyAction"),
    "RescaleAction": (lambda env: wrappers.RescaleAction(env, np.float32(-2), np.float32(2)), "RescaleAction"),
    "an ObservationWrapper": (Doubled, "Doubled"),
    "a wrapper of one's own": (Counted, "Counted"),
    "a Monitor of one's own": (LoudMonitor, "LoudMonitor"),
    "one of several": (lambda env: Monitor(Doubled(Monitor(env))), "Doubled"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_wrappers_that_pass_everything_through_are_left_out(name: str) -> None:
    model = learn("ppo", VecCheckNan(dummy(HARMLESS[name])), 32)
    results = judge(model, exact())
    assert results.equity.tolist() == by_hand(model, exact())
    assert not {"wrappers_unknown", "unknown_environment"} & set(flags(results))


@pytest.mark.parametrize("name", CHANGING)
def test_wrappers_that_change_observations_or_actions_are_refused_by_name(name: str) -> None:
    wrap, refused = CHANGING[name]
    model = learn("ppo", dummy(wrap), 32)
    with pytest.raises(RunError, match=f"^{refused} stood between"):
        BackTesting(model, exact())


LEAVES_NO_TRACE = ("StickyAction", "DelayObservation", "a wrapper of one's own")
"""What shows the environment's own observations at another time, or carries out other actions; a file does not tell."""
SEEN_IN_A_FILE = [name for name in CHANGING if name not in LEAVES_NO_TRACE]


@pytest.mark.parametrize("name", SEEN_IN_A_FILE)
def test_a_loaded_model_betrays_the_wrappers_that_it_was_trained_under(name: str, tmp_path: Path) -> None:
    """By a space that is not the environment's, or by a last observation that the environment cannot have shown."""
    loaded = again(learn("ppo", dummy(CHANGING[name][0]), 32), tmp_path)
    with pytest.raises(RunError, match="does not fit the environment"):
        BackTesting(loaded, exact())


def test_one_wrapped_environment_among_others_is_found() -> None:
    wraps = [Monitor, lambda env: Monitor(Doubled(env))]
    venv = DummyVecEnv([lambda wrap=wrap: wrap(FastTrainingEnv(TRAIN, rules(), seed=0)) for wrap in wraps])
    with pytest.raises(RunError, match=r"^Doubled stood between"):
        BackTesting(learn("ppo", venv, 32), exact())


class Shifted(VecEnvWrapper):
    """A wrapper of a vector of environments that nobody knows."""

    by: ClassVar[float] = 0.5

    def reset(self) -> Any:
        return self.venv.reset() + self.by

    def step_wait(self) -> Any:
        observation, *rest = self.venv.step_wait()
        return observation + self.by, *rest


class Logged(Shifted):
    by = 0.0
    passes_through = True


class OwnNormalize(VecNormalize):
    def step_wait(self) -> Any:
        observation, *rest = super().step_wait()
        return observation * 0.5, *rest


def test_wrappers_of_vectors_that_are_not_known_are_refused_by_name() -> None:
    for wrap in (Shifted, OwnNormalize):
        with pytest.raises(RunError, match=f"^{wrap.__name__} stood between"):
            BackTesting(train("ppo", lambda venv, wrap=wrap: monitored(wrap(venv))), exact())
    model = train("ppo", Logged)
    assert equity(model, exact()) == by_hand(model, exact())
    keyed = train("ppo", lambda venv: VecExtractDictObs(venv, "portfolio"), observation_config={"mode": "indexed"})
    with pytest.raises(RunError, match=r"^VecExtractDictObs stood between"):
        BackTesting(keyed, exact(observation_config={"mode": "indexed"}))


class OwnEnv(FastTrainingEnv):
    """A subclass that keeps observations as they are; who could know."""

    def step(self, action: Any) -> Any:
        return super().step(action)


def test_an_environment_of_ones_own_is_flagged() -> None:
    config = EnvConfig.model_validate(rules())
    model = learn("ppo", DummyVecEnv([lambda: OwnEnv(TRAIN, config, seed=0)]), 32)
    found = {flag.name: flag for flag in judge(model, exact()).flags}
    assert found["unknown_environment"].severity == "warning"
    assert "OwnEnv" in found["unknown_environment"].text


def make_env(wrap: Any) -> Callable[[], Any]:
    return lambda: wrap(FastTrainingEnv(TRAIN, rules(), seed=0))


def test_environments_in_other_processes_are_asked_for_their_wrappers() -> None:
    plain, doubled = (SubprocVecEnv([make_env(wrap)], start_method="forkserver") for wrap in (Monitor, Doubled))
    try:
        models = [learn("ppo", venv, 16) for venv in (plain, doubled)]
        assert equity(models[0], exact()) == by_hand(models[0], exact())
        with pytest.raises(RunError, match=r"^Doubled stood between"):
            BackTesting(models[1], exact())
    finally:
        plain.close()
        doubled.close()
    assert equity(models[0], exact()) == by_hand(models[0], exact())  # by its last observation
    with pytest.raises(RunError, match="cannot have come from an environment like this one"):
        BackTesting(models[1], exact())


# --- what is judged in -----------------------------------------------------------------------------------------------


def test_a_backtest_does_not_leave_out_what_its_own_environment_adds() -> None:
    class Mine(StatefulTradingEnv):
        def _observe(self) -> Any:
            return 2.0 * super()._observe()

    with pytest.raises(ConfigError, match="env: got Mine, a subclass of StatefulTradingEnv"):
        BackTesting(BuyAndHold(), Mine(TEST, rules(), seed=0))
    with pytest.raises(ConfigError, match=r"env: got Monitor, .* belongs into the agent's predict"):
        BackTesting(BuyAndHold(), Monitor(exact()))


# --- every place that lets an agent act ------------------------------------------------------------------------------


def test_validation_in_training_shows_what_the_training_shows() -> None:
    model = train("ppo", lambda venv: VecFrameStack(VecNormalize(venv), 2))
    env, config = exact(), EnvConfig.model_validate(rules())
    figures = make_judge(TEST, config, env.scaler, BacktestConfig())(model)
    stack = Stack(2)
    wanted = by_hand(model, env, lambda vector: stack(normalize(model)(vector)))
    assert figures["total_return"] == wanted[-1] / wanted[0] - 1.0
    with pytest.raises(RunError, match="Shifted"):
        make_judge(TEST, config, env.scaler, BacktestConfig())(train("ppo", Shifted))


@pytest.mark.parametrize("wrap", [VecNormalize, lambda venv: VecFrameStack(VecNormalize(venv), 2)])
def test_a_stress_test_shows_what_the_training_shows(wrap: Any) -> None:
    model = train("ppo", wrap)
    found = stress_test(BackTesting(model, exact(), QUIET), lanes=147, horizon=60)
    start, stack = int(found.base["start_bar"].iloc[0]), Stack(2)
    see = (
        (lambda vector: stack(normalize(model)(vector))) if model.observation_space.shape == (26,) else normalize(model)
    )
    lane = StatefulTradingEnv(
        TEST,
        EnvConfig.model_validate(rules(episode_config={"length": 60})),
        seed=0,
        lane_parameters={"episode_start": start},
    )
    observation, done = lane.reset()[0], False
    while not done:
        action, _ = model.predict(see(observation), deterministic=True)
        observation, _, _, done, _ = lane.step(action)
    # The network's float32 sums depend on the size of the batch.
    assert found.base["total_return"].iloc[0] == pytest.approx(lane.equity / 1e5 - 1.0, abs=1e-6)


def test_a_model_that_a_configuration_names_brings_its_statistics(tmp_path: Path) -> None:
    frame(0, 200).to_csv(tmp_path / "bars.csv", index=False)
    model = train("ppo", lambda venv: VecFrameStack(VecNormalize(venv), 2))
    model.save(tmp_path / "model.zip")
    model.get_vec_normalize_env().save(tmp_path / "statistics.pkl")
    backtest = {"model": str(tmp_path / "model.zip"), **QUIET}
    whole = {
        "data": {"source": str(tmp_path / "bars.csv"), "train_end": str(TEST.timestamps[0])[:10]},
        "env": rules(),
        "backtest": backtest,
    }

    def plan() -> Any:
        (tmp_path / "test.json").write_text(json.dumps(whole))
        return prepare_config(tmp_path / "test.json")

    with pytest.raises(RunError, match="hand in frame_stack=2"):
        plan()
    backtest["frame_stack"] = 2
    with pytest.raises(RunError, match=r"backtest\.vec_normalize"):
        plan()
    backtest["vec_normalize"] = str(tmp_path / "statistics.pkl")
    stack = Stack(2)
    wanted = by_hand(model, exact(), lambda vector: stack(normalize(model)(vector)))
    assert plan().testing.run().equity.tolist() == wanted


def test_a_run_s_own_agent_needs_no_statistics_of_another_model() -> None:
    """``backtest.vec_normalize`` belongs to ``backtest.model``: validation in training does without it."""
    config = BacktestConfig.model_validate({"vec_normalize": "nowhere.pkl", "frame_stack": 3})
    model = train("ppo")
    figures = make_judge(TEST, EnvConfig.model_validate(rules()), exact().scaler, config)(model)
    assert figures["total_return"] == by_hand(model, exact())[-1] / 1e5 - 1.0


def test_an_agent_and_its_copy_from_a_file_are_judged_alike(tmp_path: Path) -> None:
    config = {"hyperparameters": {"n_steps": 8, "batch_size": 16}, "total_timesteps": 48}
    agent = Agent(config, TradingVecEnv(TRAIN, rules(), n_envs=2, seed=0), seed=0).learn()
    agent.save(tmp_path / "model.zip")
    wanted = by_hand(agent.model, exact())
    for each in (agent, Agent.load(tmp_path / "model.zip", config)):
        results = judge(each, exact())
        assert results.equity.tolist() == wanted
        assert not {"wrappers_unknown", "normalization_unknown", "unknown_environment"} & set(flags(results))
    other = Agent.load(tmp_path / "model.zip", config, TradingVecEnv(TRAIN, rules(), n_envs=2, seed=0))
    assert "normalization_unknown" not in flags(judge(other, exact()))  # its configuration says: rewards alone


# --- the form of predict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, mode) for name in ("ppo", "a2c") for mode in ("trade", "weights", "discrete", "joint")),
        *((name, mode) for name in ("sac", "td3") for mode in ("trade", "shares")),
        ("dqn", "joint"),
    ],
)
@pytest.mark.parametrize("observed", ["flat", "indexed"])
def test_every_algorithm_acts_in_every_form(name: str, mode: str, observed: str) -> None:
    joint = mode == "joint"
    changes = {
        "action_config": {"mode": "discrete" if joint else mode, "joint": joint},
        "observation_config": {"mode": observed},
    }
    model, env = train(name, **changes), exact(**changes)
    with bound_market(model, env):
        wanted = by_hand(model, env)
    assert equity(model, env) == wanted


def test_a_recurrent_policy_is_told_when_an_episode_begins() -> None:
    class Recurrent:
        """Forgets what it remembered when it is told that an episode begins, as recurrent policies do."""

        def __init__(self) -> None:
            self.calls: list[tuple[Any, Any]] = []

        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[Any, Any]:
            self.calls.append((state, episode_start.tolist()))
            lanes = np.shape(observation)[:-1]
            return np.zeros((*lanes, 4), np.float32), len(self.calls)

    agent = Recurrent()
    testing = BackTesting(agent, exact(), QUIET, baselines=())
    for _ in range(2):
        agent.calls.clear()
        testing.run()
        assert agent.calls[:3] == [(None, [True]), (1, [False]), (2, [False])]
    agent.calls.clear()
    stress_test(testing, lanes=147, horizon=60)
    assert agent.calls[:2] == [(None, [True] * 147), (1, [False] * 147)]


def test_an_agent_that_is_no_model_is_asked_as_it_is() -> None:
    class Mine:
        """Does by itself what a wrapper did, with a model inside that is none of the backtest's business."""

        def __init__(self) -> None:
            self.model = train("ppo", VecNormalize)

        def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, Any]:
            return self.model.predict(normalize(self.model)(observation), deterministic=deterministic)

    mine = Mine()
    results = judge(mine, exact())
    assert results.equity.tolist() == by_hand(mine.model, exact(), normalize(mine.model))
    assert "wrappers_unknown" not in flags(results)


def test_what_a_space_remembers_is_no_part_of_its_type_or_value() -> None:
    env = exact()
    assert type(env.observation_space) is spaces.Box
    assert env.observation_space == env.task.layout.space
    assert MadeFor.of_space(spaces.Box(-1, 1, (3,))) is None
