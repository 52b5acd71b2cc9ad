"""A model remembers what it was made for: symbols, features and scaling, in order; a backtest shows it that."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from batchenv import Agent, BatchTradingEnv, EnvConfig, FastTrainingEnv, MarketData, TradingVecEnv
from batchenv.errors import RunError
from batchenv.features import FeatureScaler
from batchenv.made_for import MadeFor
from stateful import BackTesting, StatefulTradingEnv
from stateful.evaluation.stress import stress_test
from tests.stateful.judged import (
    ALGORITHMS,
    JOINT,
    QUIET,
    TEST,
    TRAIN,
    WHOLE,
    by_hand,
    equity,
    exact,
    flags,
    judge,
    rules,
    train,
)
from tests.stateful.policies import ConstantAgent
from tests.vectors import monitored

BACKWARDS = ("D", "C", "B", "A")


def scaler_of(model: Any) -> FeatureScaler:
    found = MadeFor.of(model)
    assert found is not None
    return found.scaler


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_both_spaces_of_every_environment_remember_what_it_is_made_for() -> None:
    config = EnvConfig.model_validate(rules())
    venv, batch = TradingVecEnv(TRAIN, config, n_envs=2, seed=0), BatchTradingEnv(TRAIN, config, n_envs=2, seed=0)
    fast, scalar = FastTrainingEnv(TRAIN, config, seed=0), StatefulTradingEnv(TRAIN, config, seed=0)
    owners = [
        *(space for env in (venv, batch, fast, scalar) for space in (env.observation_space, env.action_space)),
        batch.single_observation_space,
        batch.single_action_space,
    ]
    facts = {json.dumps(MadeFor.of_space(space).as_dict()) for space in owners}  # type: ignore[union-attr]
    assert len(facts) == 1
    found = MadeFor.of(venv)
    assert found is not None
    assert (found.symbols, found.features, found.fill) == (
        ("A", "B", "C", "D"),
        ("return_1", "momentum_5"),
        "next_open",
    )
    assert found.scaler == fast.scaler
    assert found.scaler.fitted_on == (str(TRAIN.timestamps[0]), str(TRAIN.timestamps[-1])) == found.bars
    assert found.action["trade_limit_percent"] == 0.5
    assert found.observation == {"mode": "flat", "unrealized_pnl": False, "time_left": False, "episode_length": 12}
    assert type(venv.observation_space) is spaces.Box
    assert venv.observation_space == scalar.task.layout.space


@pytest.mark.parametrize("mode", ["trade", "discrete", "joint", "indexed"])
def test_what_a_space_remembers_survives_copies_and_files(mode: str) -> None:
    changes = {"joint": JOINT, "discrete": {"action_config": {"mode": "discrete"}}}.get(mode, {})
    env = exact(**changes, observation_config={"mode": "indexed" if mode == "indexed" else "flat"})
    for space in (env.observation_space, env.action_space):
        wanted = MadeFor.of_space(space)
        assert wanted is not None
        for twin in (
            copy.copy(space),
            copy.deepcopy(space),
            pickle.loads(pickle.dumps(space)),
            cloudpickle.loads(cloudpickle.dumps(space)),
        ):
            assert twin == space
            assert MadeFor.of_space(twin) == wanted
            assert scaler_of_space(twin).fitted_on == wanted.scaler.fitted_on
    assert MadeFor.from_dict(json.loads(json.dumps(wanted.as_dict(), allow_nan=False))) == wanted


def scaler_of_space(space: Any) -> FeatureScaler:
    found = MadeFor.of_space(space)
    assert found is not None
    return found.scaler


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_saved_model_of_every_algorithm_remembers(name: str, tmp_path: Path) -> None:
    for wrap in (lambda env: env, VecNormalize, lambda env: monitored(VecFrameStack(env, 2))):
        model = train(name, wrap)
        model.save(tmp_path / "model.zip")
        loaded = type(model).load(tmp_path / "model.zip", device="cpu")
        assert MadeFor.of(loaded) == MadeFor.of(model) == MadeFor.of(exact(TRAIN, **(JOINT if name == "dqn" else {})))


def test_single_environments_in_a_vector_remember() -> None:
    venv = DummyVecEnv([lambda: Monitor(FastTrainingEnv(TRAIN, rules(), seed=0))])
    assert MadeFor.of(venv) == MadeFor.of(exact(TRAIN))
    assert MadeFor.of(object()) is None
    assert MadeFor.of(ConstantAgent([0.0])) is None


def test_facts_of_another_version_are_refused() -> None:
    model = train()
    facts = MadeFor.of(model).as_dict()  # type: ignore[union-attr]
    for wrong, message in (({**facts, "format": 99}, "format 99, expected 1"), ({"format": 1}, "cannot be read")):
        model.observation_space.made_for = model.action_space.made_for = wrong
        with pytest.raises(RunError, match=message):
            BackTesting(model, exact())


def test_a_model_of_an_earlier_version_is_noted() -> None:
    model = train()
    for space in (model.observation_space, model.action_space):
        del space.made_for
    model.env = None
    for agent in (model, model.policy):
        results = judge(agent, exact())
        assert results.equity.tolist() == by_hand(model, exact())
        assert "training_not_remembered" in flags(results)
    assert "training_not_remembered" not in flags(judge(train(), exact()))


# --- symbols and features in another order ---------------------------------------------------------------------------


def reordered(symbols: Any = BACKWARDS, features: Any = ("momentum_5", "return_1"), **changes: Any) -> Any:
    return exact(TEST.select(symbols), features=features, **changes)


@pytest.mark.parametrize("observed", ["flat", "indexed"])
@pytest.mark.parametrize("mode", ["trade", "weights", "joint"])
def test_another_order_is_put_right_and_noted(mode: str, observed: str) -> None:
    changes = {
        "observation_config": {"mode": observed, "unrealized_pnl": True},
        **(JOINT if mode == "joint" else {"action_config": {"mode": mode}}),
    }
    model = train("ppo", **changes)
    right = judge(model, exact(**changes))
    assert "put_in_order" not in flags(right)
    for env in (reordered(**changes), reordered(TEST.symbols, **changes), reordered(BACKWARDS, None, **changes)):
        results = judge(model, env)
        assert results.equity.tolist() == right.equity.tolist()
        assert results.market.symbols == TEST.symbols
        note = {flag.name: flag for flag in results.flags}["put_in_order"]
        assert note.severity == "note"
    text = flags(judge(model, reordered(**changes)))["put_in_order"]
    assert "the symbols A, B, C, D (here D, C, B, A)" in text
    assert "the features return_1, momentum_5 (here momentum_5, return_1)" in text


def test_a_wide_frame_keeps_its_columns_and_a_long_one_is_sorted() -> None:
    """The same closes, by two ways in: the model learned from the first and is judged on the second."""
    closes = pd.DataFrame(WHOLE.close, index=pd.DatetimeIndex(WHOLE.timestamps, name="date"), columns=list("ZYXW"))
    long = closes.reset_index().melt("date", var_name="symbol", value_name="close").sort_values(["symbol", "date"])
    wide, stacked = MarketData.from_frame(closes), MarketData.from_frame(long)
    assert (wide.symbols, stacked.symbols) == (("Z", "Y", "X", "W"), ("W", "X", "Y", "Z"))
    (learned, right), (_, other) = (bars.split(WHOLE.timestamps[120]) for bars in (wide, stacked))
    model = train("ppo", bars=learned, fill="next_close")
    assert equity(model, exact(other, fill="next_close")) == equity(model, exact(right, fill="next_close"))


def test_what_differs_by_symbol_follows_its_symbol() -> None:
    fees = {"cost_config": {"fee_rate": {"A": 0.0, "B": 0.01, "*": 0.03}}}
    model = train("ppo")
    right = equity(model, exact(**fees))
    assert equity(model, reordered(**fees)) == right
    assert right != equity(model, exact())
    own = {"slippage_rate": np.array([[0.0, 0.01, 0.02, 0.03]]), "tradable": np.array([[True, False, True, True]])}
    backwards = {name: values[:, ::-1] for name, values in own.items()}
    envs = [
        StatefulTradingEnv(bars, rules(), seed=0, lane_parameters=given)
        for bars, given in ((TEST, own), (TEST.select(BACKWARDS), backwards))
    ]
    results = [judge(model, env) for env in envs]
    assert results[0].equity.tolist() == results[1].equity.tolist()
    assert "B" not in set(results[1].fills["symbol"])


def test_a_baseline_of_ones_own_finds_the_symbols_where_they_were_handed_in() -> None:
    class FirstSymbol:
        name, label = "first", "the first symbol"

        def orders(self, env: Any) -> Any:
            return np.eye(4)[0] * (env.bar == env.start)

    found = BackTesting(train("ppo"), reordered(), QUIET, baselines=[FirstSymbol()]).run()
    held = found.baselines["first"]
    assert held["shares[D]"].iloc[-1] == 1.0
    assert (held[["shares[A]", "shares[B]", "shares[C]"]] == 0.0).all().all()
    assert len(held) == len(found.history)
    assert held.index.equals(found.history.index)


def test_drawn_symbols_are_not_drawn_in_another_order() -> None:
    some = {"randomization": {"tradable": [2, 3]}}
    model = train("ppo", **some)
    assert BackTesting(model, exact(TRAIN, **some), QUIET, episode=(0, 1), baselines=()).run().metrics["bars"] == 12
    with pytest.raises(RunError, match=r"drawn by their places.*market\.select\(\['A', 'B', 'C', 'D'\]\)"):
        BackTesting(model, exact(TRAIN.select(BACKWARDS), **some), QUIET, episode=(0, 1))


def test_a_stress_test_plays_in_the_training_s_order() -> None:
    model = train("ppo")
    found = [
        stress_test(BackTesting(model, env, QUIET), lanes=147, horizon=60).lanes["total_return"]
        for env in (exact(), reordered())
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_other_symbols_and_features_are_refused_by_name() -> None:
    model = train("ppo", bars=TRAIN.select(["A", "B", "C"]))
    with pytest.raises(RunError, match=r"trained on the symbols A, B, C, and the environment has D too many"):
        BackTesting(model, exact())
    with pytest.raises(RunError, match=r"lacks C; expected the same symbols, in any order \(market\.select"):
        BackTesting(model, exact(TEST.select(["B", "A"])))
    with pytest.raises(RunError, match="lacks A, B and has D too many"):
        BackTesting(model, exact(TEST.select(["D", "C"])))
    with pytest.raises(RunError, match="the features return_1, momentum_5, and the environment lacks return_1 and has"):
        BackTesting(train("ppo"), exact(features=["return_2", "momentum_5"]))


# --- what observations and actions mean ------------------------------------------------------------------------------


def test_another_meaning_of_the_same_numbers_is_refused() -> None:
    """The spaces are equal: only what was remembered tells them apart."""
    for learned, tested, message in (
        ({"action_config": {"mode": "weights"}}, {}, "action_config.mode was 'weights' in training, and is 'trade'"),
        ({}, {"action_config": {"mode": "shares"}}, "action_config.mode was 'trade' in training, and is 'shares'"),
    ):
        with pytest.raises(RunError, match=message):
            BackTesting(train("ppo", **learned), exact(**tested))
    one, test = TRAIN.select(["A"]), TEST.select(["A"])
    model = train("ppo", bars=one, observation_config={"unrealized_pnl": True})
    with pytest.raises(RunError, match=r"observation_config\.unrealized_pnl was True in training, and is False"):
        BackTesting(model, exact(test, observation_config={"time_left": True}))
    with pytest.raises(RunError, match=r"observation_config\.mode was 'flat' in training, and is 'indexed'"):
        BackTesting(train("ppo"), exact(observation_config={"mode": "indexed"}))


def test_other_limits_and_fills_are_flagged() -> None:
    model = train("ppo")
    assert not {"other_limits", "other_fills", "other_episodes"} & set(flags(judge(model, exact())))
    found = judge(model, exact(portfolio_config={"trade_limit_percent": 0.1}, fill="next_close"))
    named = {flag.name: flag for flag in found.flags}
    assert named["other_limits"].severity == "warning"
    assert "trade_limit_percent was 0.5 and is 0.1" in named["other_limits"].text
    assert named["other_fills"].severity == "note"
    assert "'next_open', and is tested with 'next_close'" in named["other_fills"].text
    changed = judge(model, exact(), {"portfolio_config": {"trade_limit_percent": 0.2}})
    assert "trade_limit_percent was 0.5 and is 0.2" in flags(changed)["other_limits"]
    weights = train("ppo", action_config={"mode": "weights"})
    assert "other_limits" not in flags(judge(weights, exact(action_config={"mode": "weights"})))
    short = {"action_config": {"mode": "weights", "max_weight": 2.0}, "margin_config": {"allow_short": True}}
    text = flags(judge(weights, exact(**short)))["other_limits"]
    assert "max_weight was 1.0 and is 2.0, allow_short was False and is True" in text
    shares = {"action_config": {"mode": "shares", "max_shares": 10.0}}
    text = flags(judge(train("ppo", **shares), exact(action_config={"mode": "shares"})))["other_limits"]
    assert "max_shares was 10.0 and is 100.0" in text


def test_a_policy_that_sees_the_time_left_knows_episodes_of_its_length() -> None:
    seen = {"observation_config": {"time_left": True}}
    text = flags(judge(train("ppo", **seen), exact(**seen)))["other_episodes"]
    assert "an episode was 12 bars in training and is all bars to the end here" in text
    assert "other_episodes" not in flags(judge(train("ppo"), exact()))


# --- scaling ---------------------------------------------------------------------------------------------------------


def own_file(bars: MarketData = TEST) -> MarketData:
    """The same bars without their past, as they come from a file of their own."""
    return replace(bars, history=None, fit_bars=-1)


def test_the_training_s_scaling_is_used_where_none_was_handed_in() -> None:
    model = train("ppo")
    alone = own_file()
    right = equity(model, exact(alone, scaler=scaler_of(model)))
    results = judge(model, exact(alone))
    assert results.equity.tolist() == right == by_hand(model, exact(alone, scaler=scaler_of(model)))
    assert results.scaler == scaler_of(model)
    assert by_hand(model, exact(alone))[-1] != right[-1], "scaling fitted on the tested bars tells another story"
    found = {flag.name: flag for flag in results.flags}
    assert found["scaled_as_in_training"].severity == "note"
    assert "return_1 has mean" in found["scaled_as_in_training"].text
    assert "scaled_by_tested_bars" not in found
    ordinary = judge(model, exact())  # the later part of a split fits what the training fitted
    assert "scaled_as_in_training" not in flags(ordinary)


def test_another_scaling_that_was_handed_in_is_refused_with_feature_and_numbers() -> None:
    model = train("ppo")
    known = scaler_of(model)
    wild = replace(known, std=(known.std[0], 0.02))
    with pytest.raises(RunError, match=rf"momentum_5 has std 0\.02 here, and had {known.std[1]:.6g} in training"):
        BackTesting(model, exact(scaler=wild))
    with pytest.raises(RunError, match=r"return_1 has mean 1 here"):
        BackTesting(model, exact(scaler=replace(known, mean=(1.0, 0.0))))
    with pytest.raises(RunError, match="values are cut at 3 here, and were at 10 in training"):
        BackTesting(model, exact(scaler=replace(known, clip=3.0)))
    rounded = replace(known, std=(known.std[0] * (1 + 1e-9), known.std[1]))
    assert equity(model, exact(scaler=rounded)) == equity(model, exact())
    turned = FeatureScaler(known.names[::-1], known.mean[::-1], known.std[::-1])
    assert equity(model, exact(features=known.names[::-1], scaler=turned)) == equity(model, exact())


def test_raw_features_are_a_scaling_like_any_other() -> None:
    model = train("ppo", feature_scaling="none")
    assert equity(model, exact()) == equity(model, exact(feature_scaling="none"))
    assert "scaled_as_in_training" in flags(judge(model, exact()))
    with pytest.raises(RunError, match="in training"):
        BackTesting(model, exact(scaler=scaler_of(train("ppo"))))


def test_scaling_fitted_on_tested_bars_is_severe_for_any_agent() -> None:
    agent, alone = ConstantAgent(np.full(4, 0.1)), own_file()
    for trained_on in (None, TRAIN):
        found = {flag.name: flag for flag in judge(agent, exact(alone), trained_on=trained_on).flags}
        assert found["scaled_by_tested_bars"].severity == "severe"
    handed_in = exact(alone, scaler=exact(alone).scaler)  # wherever it came from
    assert "scaled_by_tested_bars" in flags(judge(agent, handed_in))
    fitted_on_all = replace(scaler_of(train("ppo")), fitted_on=(str(TRAIN.timestamps[0]), str(TEST.timestamps[9])))
    assert "scaled_by_tested_bars" in flags(judge(agent, exact(alone, scaler=fitted_on_all)))
    right = judge(agent, exact(alone, scaler=exact(TRAIN).scaler))
    about = {flag.name: flag.severity for flag in right.flags if flag.name.startswith(("scaled", "seen"))}
    assert about == {"seen_in_training_unknown": "note"}, "with the training's scaling there is nothing to warn of"
    assert "scaled_by_tested_bars" not in flags(judge(agent, exact(alone, feature_scaling="none")))
    assert "scaled_by_tested_bars" not in flags(judge(agent, exact(alone, features=[])))


def test_a_scaler_remembers_its_bars_in_a_file() -> None:
    scaler = exact().scaler
    assert FeatureScaler.from_dict(json.loads(json.dumps(scaler.to_dict()))).fitted_on == scaler.fitted_on
    assert replace(scaler, fitted_on=None) == scaler


# --- bars seen in training -------------------------------------------------------------------------------------------


def test_a_model_remembers_the_bars_that_it_was_trained_on(tmp_path: Path) -> None:
    model = train("ppo")
    model.save(tmp_path / "model.zip")
    for each in (model, type(model).load(tmp_path / "model.zip", device="cpu")):
        for said in (None, ("1990-01-01", "1990-12-31")):  # nobody can talk a model out of what it saw
            found = {flag.name: flag for flag in judge(each, exact(WHOLE), trained_on=said).flags}
            assert found["seen_in_training"].severity == "severe"
            assert f"115 of its {200 - 5} bars" in found["seen_in_training"].text
        held_out = judge(each, exact())
        assert "seen_in_training" not in flags(held_out)
        assert "none of which are tested" in flags(held_out)["seen_in_training_unknown"]
        assert "seen_in_training_unknown" not in flags(judge(each, exact(), trained_on=TRAIN))


def test_a_model_that_went_on_learning_elsewhere_is_shown_what_it_saw_last() -> None:
    model = train("ppo")
    middle, later = TEST.split(TEST.timestamps[40])
    model.set_env(TradingVecEnv(middle.select(BACKWARDS), rules(), n_envs=3, seed=0))
    assert equity(model, exact(later)) == equity(train("ppo"), exact(later))  # it has not learned there
    model.learn(24)
    results = judge(model, exact(later))
    assert "differ in symbols. The" in flags(results)["learned_in_two_environments"]
    assert results.market.symbols == BACKWARDS
    assert results.remembered == (TRAIN.timestamps[0], middle.timestamps[-1])
    model.set_env(TradingVecEnv(own_file(middle), rules(), n_envs=3, seed=0))
    model.learn(24)
    results = judge(model, exact(later))
    assert "differ in scaling. The" in flags(results)["learned_in_two_environments"]
    assert results.scaler == exact(own_file(middle)).scaler


def test_an_agent_is_not_loaded_into_an_environment_that_shows_it_something_else(tmp_path: Path) -> None:
    config = {"hyperparameters": {"n_steps": 8, "batch_size": 16}, "total_timesteps": 16}
    agent = Agent(config, TradingVecEnv(TRAIN, rules(), n_envs=2, seed=0), seed=0).learn()
    agent.save(tmp_path / "model.zip")

    def load(bars: MarketData, **kwargs: Any) -> Agent:
        return Agent.load(tmp_path / "model.zip", config, TradingVecEnv(bars, rules(), n_envs=2, seed=0, **kwargs))

    load(TRAIN).learn(16)
    with pytest.raises(RunError, match=r"symbols A, B, C, D \(here D, C, B, A\); expected the training's order"):
        load(TRAIN.select(BACKWARDS))
    with pytest.raises(RunError, match=r"return_1 has mean .* scaler=MadeFor\.of"):
        load(own_file())
    load(own_file(), scaler=scaler_of(agent)).learn(16)
