"""Indexed observations: the same numbers as flat ones, and extractors that are the same functions, computed once."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
import torch
from gymnasium import spaces
from gymnasium.utils import env_checker
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize
from torch import nn

from batchenv import (
    Agent,
    BatchTradingEnv,
    EnvConfig,
    FastPPO,
    FastTrainingEnv,
    TradingVecEnv,
    assert_causal,
    register_feature,
)
from batchenv.errors import CausalityError, ConfigError, EnvironmentStateError, RunError
from batchenv.extractors import (
    IndexedExtractor,
    MarketFeatures,
    bind_market,
    bound_market,
    distinct_bars,
    indexed_policy,
)
from batchenv.spaces import INDEX_LIMIT, ObservationLayout
from stateful import BackTesting, StatefulTradingEnv
from tests.markets import market, ragged_market
from tests.vectors import monitored

ENCODERS: dict[str, dict[str, Any]] = {
    "identity": {},
    "linear": {},
    "mlp": {"depth": 1},
    "conv1d": {"window": 6},
    "gru": {"window": 6},
    "attention": {"window": 6, "heads": 2},
}
WINDOWS = ("conv1d", "gru", "attention")


def settings(mode: str = "indexed", optional: bool = True, **changes: object) -> EnvConfig:
    base = {
        "features": ["return_1", "momentum_5"],
        "episode_config": {"length": 12, "random_start": True},
        "observation_config": {"mode": mode, "unrealized_pnl": optional, "time_left": optional},
    }
    return EnvConfig.model_validate(base | changes)


def venv(mode: str = "indexed", n_envs: int = 4, seed: int = 0, **changes: object) -> TradingVecEnv:
    return TradingVecEnv(market(seed), settings(mode, **changes), n_envs=n_envs, seed=0, copy=False)


def ppo(env: Any, encoder: str = "linear", **policy_kwargs: Any) -> PPO:
    policy, kwargs = indexed_policy(env, "MlpPolicy", {"encoder": encoder, **policy_kwargs})
    return PPO(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", n_steps=16, batch_size=32, n_epochs=2)


def extractor(encoder: str, n_bars: int = 60, width: int = 8, **changes: Any) -> IndexedExtractor:
    values = torch.randn(n_bars, 5, generator=torch.Generator().manual_seed(0))
    features = MarketFeatures(tuple("ABCDE"), values)
    space = spaces.Dict(
        {"bar": spaces.Box(0, n_bars - 1, (1,), np.int64), "portfolio": spaces.Box(-1, 1, (3,), np.float32)}
    )
    torch.manual_seed(1)
    size = {} if encoder == "identity" else {"width": width}
    return IndexedExtractor(space, features, encoder, {**ENCODERS[encoder], **size, **changes})


def observations(bars: Any) -> dict[str, torch.Tensor]:
    at = torch.as_tensor(bars, dtype=torch.float32)[:, None]
    return {"bar": at, "portfolio": torch.linspace(-1, 1, 3 * len(at)).reshape(-1, 3)}


# --- environments ---------------------------------------------------------------------------------------------


def assert_same(
    indexed: dict[str, np.ndarray], flat: np.ndarray, layout: ObservationLayout, values: np.ndarray
) -> None:
    """An indexed observation, of one lane or many, is the flat one taken apart; bit for bit."""
    n_market = len(layout.market_names)
    assert set(indexed) == {"bar", "portfolio"}
    assert (indexed["bar"].dtype, indexed["portfolio"].dtype) == (np.int64, np.float32)
    assert indexed["bar"].shape == (*flat.shape[:-1], 1)
    np.testing.assert_array_equal(values[indexed["bar"][..., 0]], flat[..., :n_market])
    np.testing.assert_array_equal(indexed["portfolio"], flat[..., n_market:])


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("reuse", [False, True], ids=["copies", "alternating"])
def test_the_lanes_of_a_batch_observe_the_parts_of_the_flat_observation(optional: bool, reuse: bool) -> None:
    bars = ragged_market()
    both = [
        BatchTradingEnv(bars, settings(mode, optional), n_envs=7, seed=3, copy=not reuse)
        for mode in ("indexed", "flat")
    ]
    layout, values = both[0].task.layout, both[0].task.features.values
    before, flat_before = (env.reset()[0] for env in both)
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(30):
        action = rng.uniform(-1, 1, (7, 4)).astype(np.float32)
        (got, *results, infos), (want, *expected, flat_infos) = (env.step(action) for env in both)
        assert_same(before, flat_before, layout, values)  # still valid after the next step
        assert_same(got, want, layout, values)
        assert both[0].observation_space.contains({key: part.copy() for key, part in got.items()})
        for mine, other in zip(results, expected, strict=True):
            np.testing.assert_array_equal(mine, other)
        for lane in np.flatnonzero(infos.get("_final_obs", ())):
            ended += 1
            assert_same(infos["final_obs"][lane], flat_infos["final_obs"][lane], layout, values)
            assert infos["final_obs"][lane]["bar"][0] == infos["final_info"]["bar"][lane]
        before, flat_before = got, want
    assert ended == 14


@pytest.mark.parametrize("kind", [FastTrainingEnv, StatefulTradingEnv])
def test_a_lane_alone_observes_the_parts_of_the_flat_observation(kind: Any) -> None:
    indexed, flat = (kind(ragged_market(), settings(mode), seed=5, lane=2) for mode in ("indexed", "flat"))
    layout, values = indexed.task.layout, indexed.task.features.values
    assert_same(indexed.reset()[0], flat.reset()[0], layout, values)
    rng = np.random.default_rng(0)
    done = False
    while not done:
        action = rng.uniform(-1, 1, 4).astype(np.float32)
        (got, _, _, done, info), (want, *_) = indexed.step(action), flat.step(action)
        assert_same(got, want, layout, values)
        assert got["bar"][0] == info["bar"]


def test_both_tiers_observe_the_same() -> None:
    fast, exact = (kind(market(), settings(), seed=5) for kind in (FastTrainingEnv, StatefulTradingEnv))
    rng = np.random.default_rng(0)
    ours, theirs = fast.reset()[0], exact.reset()[0]
    for _ in range(12):
        np.testing.assert_array_equal(ours["bar"], theirs["bar"])
        np.testing.assert_allclose(ours["portfolio"], theirs["portfolio"], rtol=1e-6, atol=1e-6)
        action = rng.uniform(-1, 1, 4).astype(np.float32)
        ours, theirs = fast.step(action)[0], exact.step(action)[0]


def test_the_vec_env_gives_the_terminal_observation_in_the_same_form() -> None:
    both = [venv("indexed", 3), venv("flat", 3)]
    layout, values = both[0].batch.task.layout, both[0].batch.task.features.values
    assert_same(both[0].reset(), both[1].reset(), layout, values)
    ended = 0
    for _ in range(25):
        (got, _, dones, infos), (want, *_, flat_infos) = (env.step(np.full((3, 4), 0.3, np.float32)) for env in both)
        assert_same(got, want, layout, values)
        for lane in np.flatnonzero(dones):
            ended += 1
            assert_same(infos[lane]["terminal_observation"], flat_infos[lane]["terminal_observation"], layout, values)
    assert ended == 6


@pytest.mark.parametrize("kind", [FastTrainingEnv, StatefulTradingEnv])
def test_indexed_environments_pass_both_checkers(kind: Any) -> None:
    env = kind(market(), settings(), seed=0)
    env_checker.check_env(env, skip_render_check=True)
    sb3_checker.check_env(env)


def test_more_bars_than_float32_counts_are_refused() -> None:
    rules = settings().observation_config
    assert ObservationLayout(("a",), ("A",), rules, 10.0, INDEX_LIMIT).space["bar"].high == INDEX_LIMIT - 1  # type: ignore[index]
    assert int(np.float32(INDEX_LIMIT - 1)) == INDEX_LIMIT - 1
    with pytest.raises(ConfigError, match=r"observation_config\.mode: 'indexed'.*16,777,217"):
        ObservationLayout(("a",), ("A",), rules, 10.0, INDEX_LIMIT + 1)


# --- the same function as the flat observation ------------------------------------------------------------------


def copy_weights(flat: PPO, indexed: PPO) -> None:
    """Give an indexed policy with encoder `linear` the weights of a flat one."""
    pairs = [
        (indexed.policy.pi_features_extractor, flat.policy.mlp_extractor.policy_net, "policy_net"),
        (indexed.policy.vf_features_extractor, flat.policy.mlp_extractor.value_net, "value_net"),
    ]
    for theirs, net, name in pairs:
        theirs.encoder.layer.load_state_dict(net[0].state_dict())
        getattr(indexed.policy.mlp_extractor, name)[0].load_state_dict(net[2].state_dict())
    indexed.policy.action_net.load_state_dict(flat.policy.action_net.state_dict())
    indexed.policy.value_net.load_state_dict(flat.policy.value_net.state_dict())


def flat_and_indexed() -> tuple[PPO, PPO, torch.Tensor, dict[str, torch.Tensor]]:
    """A flat and an indexed model of the same weights, and observations of both kinds."""
    both = [venv(mode, 64) for mode in ("flat", "indexed")]
    flat = PPO("MlpPolicy", both[0], seed=0, device="cpu")
    indexed = ppo(both[1])
    copy_weights(flat, indexed)
    for env in both:
        env.reset()
    for _ in range(5):
        action = np.random.default_rng(0).uniform(-1, 1, (64, 4)).astype(np.float32)
        vector, parts = (env.step(action)[0] for env in both)
    return flat, indexed, torch.as_tensor(vector), {key: torch.as_tensor(part) for key, part in parts.items()}


def test_linear_is_the_flat_policy_with_its_first_layer_taken_apart() -> None:
    flat, indexed, vector, parts = flat_and_indexed()
    count = [sum(p.numel() for p in model.policy.parameters()) for model in (flat, indexed)]
    assert count[0] == count[1]
    actions = torch.as_tensor(np.random.default_rng(1).normal(size=(64, 4)), dtype=torch.float32)
    for want, got in zip(
        flat.policy.evaluate_actions(vector, actions), indexed.policy.evaluate_actions(parts, actions), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(
            indexed.policy.predict_values(parts), flat.policy.predict_values(vector), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            indexed.policy._predict(parts, True), flat.policy._predict(vector, True), rtol=1e-5, atol=1e-6
        )


def test_linear_learns_as_the_flat_policy_does() -> None:
    flat, indexed, vector, parts = flat_and_indexed()
    actions = torch.as_tensor(np.random.default_rng(1).normal(size=(64, 4)), dtype=torch.float32)
    for _ in range(3):
        for model, seen in ((flat, vector), (indexed, parts)):
            values, log_prob, _ = model.policy.evaluate_actions(seen, actions)
            model.policy.optimizer.zero_grad()
            (values.square().mean() - log_prob.mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.policy.parameters(), 0.5)
            model.policy.optimizer.step()
    theirs = flat.policy.mlp_extractor.policy_net[0].weight
    torch.testing.assert_close(indexed.policy.pi_features_extractor.encoder.layer.weight, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            indexed.policy.predict_values(parts), flat.policy.predict_values(vector), rtol=1e-4, atol=1e-5
        )


def test_identity_is_the_flat_observation() -> None:
    both = [venv(mode) for mode in ("flat", "indexed")]
    flat = PPO("MlpPolicy", both[0], seed=0, device="cpu", n_steps=16, batch_size=32, n_epochs=2).learn(128)
    indexed = ppo(both[1], "identity").learn(128)
    for want, got in zip(flat.policy.parameters(), indexed.policy.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


# --- encoders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_is_remembered_is_what_would_be_computed(encoder: str) -> None:
    net = extractor(encoder)
    rng = np.random.default_rng(0)
    for n in (1, 5, 40, 200, 3):  # few and many distinct bars, seen before and not
        seen = observations(rng.integers(0, 60, n))
        computed = net(seen)
        assert computed.shape == (n, net.features_dim)
        with torch.no_grad():
            torch.testing.assert_close(net(seen), computed.detach(), rtol=1e-5, atol=1e-6)
        alone = torch.cat([net({key: part[k : k + 1] for key, part in seen.items()}) for k in range(n)])
        torch.testing.assert_close(computed, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "identity"])
def test_a_bar_is_encoded_once_until_a_weight_changes(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = extractor(encoder)
    asked: list[int] = []
    forward = net.encoder.forward

    def counted(matrix: torch.Tensor, bars: torch.Tensor | None) -> torch.Tensor:
        asked.append(len(matrix) if bars is None else len(bars))
        return forward(matrix, bars)

    monkeypatch.setattr(net.encoder, "forward", counted)
    with torch.no_grad():
        net(observations([3, 3, 9]))
        net(observations([9, 3, 11]))
        net(observations([11, 9]))
    assert asked == [2, 1]
    seen = observations([3, 9])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for change in ("optimizer", "polyak", "load"):
        with torch.no_grad():
            old = net(seen)
        if change == "optimizer":
            net(seen).square().sum().backward()
            optimizer.step()
        elif change == "polyak":  # as stable-baselines3 moves target networks; version counters do not see it
            for parameter in net.parameters():
                parameter.data.mul_(0.5)
        else:
            net.load_state_dict({name: value + 0.1 for name, value in net.state_dict().items()})
        with torch.no_grad():
            new = net(seen)
        assert (new != old).any(), change
        torch.testing.assert_close(new, net(seen).detach(), rtol=1e-5, atol=1e-6)


def test_memory_made_in_inference_mode_serves_outside() -> None:
    net = extractor("linear")
    with torch.inference_mode():
        net(observations([1]))
    with torch.no_grad():
        net(observations([1, 2]))
    net(observations([1, 2])).sum().backward()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_are_causal_and_look_back_over_their_window_only(encoder: str) -> None:
    net, bar = extractor(encoder), 30
    values = net.market.values
    assert values is not None
    window = 6 if encoder in WINDOWS else 1

    def changed(rows: slice) -> torch.Tensor:
        other = values.clone()
        other[rows] += 1.0
        net.use(MarketFeatures(net.market.columns, other))
        return net(observations([bar]))

    base = changed(slice(0, 0))
    torch.testing.assert_close(changed(slice(bar + 1, None)), base, rtol=0, atol=0)
    torch.testing.assert_close(changed(slice(None, bar - window + 1)), base, rtol=0, atol=0)
    assert (changed(slice(bar - window + 1, bar - window + 2)) != base).any(), "the oldest bar of the window counts"
    assert (changed(slice(bar, bar + 1)) != base).any()


@pytest.mark.parametrize("encoder", WINDOWS)
def test_a_window_before_the_market_repeats_the_first_bar(encoder: str) -> None:
    net = extractor(encoder, n_bars=20)
    early = net(observations([2]))
    values = net.market.values
    assert values is not None
    longer = torch.cat((values[:1].repeat(10, 1), values))
    net.use(MarketFeatures(net.market.columns, longer))
    torch.testing.assert_close(net(observations([12])), early, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n_bars", "n"), [(50, 400), (50, 10), (50, 2), (5000, 20), (50, 0)])
def test_distinct_bars(n_bars: int, n: int) -> None:
    bars = torch.as_tensor(np.random.default_rng(0).integers(0, n_bars, n))
    distinct, where = distinct_bars(bars, n_bars)
    if distinct is None:
        distinct = torch.arange(n_bars)
    else:
        assert distinct.tolist() == sorted(set(bars.tolist()))
    assert distinct[where].tolist() == bars.tolist()


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "identity"])
def test_gradients_are_those_of_encoding_every_lane(encoder: str) -> None:
    net, seen = extractor(encoder), observations(np.random.default_rng(0).integers(0, 60, 90))
    net(seen).square().sum().backward()
    together = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    for k in range(90):
        net({key: part[k : k + 1] for key, part in seen.items()}).square().sum().backward()
    alone = [p.grad for p in net.parameters() if p.grad is not None]
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


# --- learning, saving, other markets ----------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ENCODERS)
def test_ppo_learns(encoder: str) -> None:
    env = VecNormalize(venv(), norm_obs=False)
    model = ppo(env, encoder, encoder_kwargs=ENCODERS[encoder])
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(192)
    for k, (old, new) in enumerate(zip(before, model.policy.parameters(), strict=True)):
        assert (old != new).any(), f"parameter {k} was not learned"


@pytest.mark.parametrize("algorithm", [A2C, SAC, TD3, DQN])
@pytest.mark.parametrize("encoder", ["linear", "gru"])
def test_other_algorithms_learn(algorithm: type[BaseAlgorithm], encoder: str) -> None:
    rules = {"action_config": {"mode": "discrete", "joint": True}} if algorithm is DQN else {}
    env = venv(**rules)
    wanted = {"encoder": encoder, "encoder_kwargs": {} if encoder == "linear" else {"window": 4}}
    policy, kwargs = indexed_policy(env, "MlpPolicy", wanted, algorithm.__name__.lower())
    off_policy = {"learning_starts": 32, "batch_size": 32, "buffer_size": 2_000, "train_freq": 4}
    parameters: dict[str, Any] = {"n_steps": 16} if algorithm is A2C else off_policy
    model = algorithm(policy, env, policy_kwargs=kwargs, seed=0, device="cpu", **parameters)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(192)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    model.predict(env.reset())


def test_a_saved_model_holds_no_market_and_acts_once_it_has_one(tmp_path: Path) -> None:
    env = venv()
    model = ppo(env).learn(64)
    seen = {key: part.copy() for key, part in env.reset().items()}
    want, _ = model.predict(seen, deterministic=True)
    model.save(tmp_path / "model.zip")
    assert not any("_matrix" in name for name in model.policy.state_dict())
    assert model.policy_kwargs["features_extractor_kwargs"]["market"].values is not None
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    assert loaded.policy_kwargs["features_extractor_kwargs"]["market"].values is None
    with pytest.raises(EnvironmentStateError, match="bind_market"):
        loaded.predict(seen)
    bind_market(loaded, env)
    np.testing.assert_array_equal(loaded.predict(seen, deterministic=True)[0], want)
    learner = PPO.load(tmp_path / "model.zip", env=env, device="cpu")
    bind_market(learner, env)
    learner.learn(64)
    again = PPO.load(tmp_path / "model.zip", env=env, device="cpu", policy_kwargs=indexed_policy(env)[1])
    np.testing.assert_array_equal(again.predict(seen, deterministic=True)[0], want)


def test_a_model_acts_on_another_market_and_comes_back() -> None:
    env = venv()
    model = ppo(env)
    other = StatefulTradingEnv(market(9, n_bars=70), settings(), scaler=env.batch.scaler, seed=0)
    flat_env = venv("flat")
    flat = PPO("MlpPolicy", flat_env, seed=0, device="cpu")
    copy_weights(flat, model)
    twin = StatefulTradingEnv(market(9, n_bars=70), settings("flat"), scaler=env.batch.scaler, seed=0)
    seen = env.reset()
    before, _ = model.predict(seen, deterministic=True)
    with bound_market(model, other):
        observation, vector = other.reset()[0], twin.reset()[0]
        done = False
        while not done:
            action, _ = model.predict(observation, deterministic=True)
            np.testing.assert_allclose(action, flat.predict(vector, deterministic=True)[0], atol=1e-6)
            observation, _, _, done, _ = other.step(action)
            vector = twin.step(action)[0]
    np.testing.assert_array_equal(model.predict(seen, deterministic=True)[0], before)
    bind_market(model, other)
    model.set_env(TradingVecEnv(market(9, n_bars=70), settings(), n_envs=4, scaler=env.batch.scaler, seed=0))
    model.learn(64)


def test_a_model_without_an_extractor_of_ours_is_left_alone() -> None:
    env = venv("flat")
    model = PPO("MlpPolicy", env, device="cpu", n_steps=16, batch_size=32)
    with bound_market(model, env):
        bind_market(model, env)
    assert indexed_policy(env, "MlpPolicy", {"net_arch": [8]}) == ("MlpPolicy", {"net_arch": [8]})


def test_models_are_copied_whole() -> None:
    env = venv()
    model = ppo(env)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model.policy)))
    seen = env.reset()
    np.testing.assert_array_equal(twin.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])


# --- what is refused --------------------------------------------------------------------------------------------


def test_a_bar_that_the_market_does_not_have_is_named() -> None:
    net = extractor("mlp", n_bars=20)
    with pytest.raises(EnvironmentStateError, match=r"bar 20 .* has 20.*bind_market"):
        net(observations([3, 20]))
    with pytest.raises(EnvironmentStateError, match=r"bar -1 .* has 20.*bind_market"):
        net(observations([3, -1]))


def test_a_market_of_other_columns_is_refused() -> None:
    model = ppo(venv())
    with pytest.raises(ConfigError, match=r"4 columns, expected the same 8"):
        bind_market(model, venv(features=["return_1"]))
    with pytest.raises(ConfigError, match=r"column 4 is 'momentum_6\[A\]', expected 'momentum_5\[A\]'"):
        bind_market(model, venv(features=["return_1", "momentum_6"]))
    with pytest.raises(ConfigError, match="expected an environment"):
        bind_market(model, 3)


@pytest.mark.parametrize(
    "values", [torch.zeros(5, 3), torch.zeros(5), torch.zeros(0, 2), torch.zeros(5, 2, dtype=torch.float64)]
)
def test_a_matrix_of_the_wrong_form_is_refused(values: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"expected torch\.float32 of shape \[bars, 2\]"):
        MarketFeatures(("a", "b"), values)


def test_a_matrix_of_other_bars_than_the_observations_is_refused() -> None:
    net = extractor("linear", n_bars=20)
    with pytest.raises(ConfigError, match=r"got 30 bars, expected the 20"):
        IndexedExtractor(net._observation_space, MarketFeatures(net.market.columns, torch.zeros(30, 5)))


@pytest.mark.parametrize(
    ("encoder", "kwargs", "message"),
    [
        ("liner", {}, "did you mean 'linear'"),
        ("conv1d", {"window": 0}, "window: got 0"),
        ("gru", {"window": -3}, "window: got -3"),
        ("attention", {"window": 2.0}, "window: got 2.0"),
        ("attention", {"heads": 3}, "multiple of heads"),
        ("conv1d", {"kernel": 0}, "kernel: got 0"),
        ("mlp", {"depth": 0}, "depth: got 0"),
        ("mlp", {"width": 0}, "width: got 0"),
        ("mlp", {"window": 5}, "unknown setting 'window'"),
        ("identity", {"width": 5}, "expected none"),
        ("linear", {"activation": "Tan"}, "activation: got 'Tan'"),
    ],
)
def test_a_wrong_encoder_is_named(encoder: str, kwargs: dict[str, Any], message: str) -> None:
    net = extractor("linear")
    with pytest.raises(ConfigError, match=message):
        IndexedExtractor(net._observation_space, net.market, encoder, kwargs)


def test_wrong_policies_are_named() -> None:
    env = venv()
    with pytest.raises(ConfigError, match=r"net_arch: got \[\]"):
        indexed_policy(env, policy_kwargs={"net_arch": []})
    with pytest.raises(ConfigError, match="one width in all"):
        indexed_policy(env, policy_kwargs={"net_arch": {"pi": [8], "vf": [9]}})
    with pytest.raises(ConfigError, match="got 32, expected 64"):
        indexed_policy(env, policy_kwargs={"encoder_kwargs": {"width": 32}})
    with pytest.raises(ConfigError, match=r"the observation is flat"):
        indexed_policy(venv("flat"), policy_kwargs={"encoder": "gru"})
    with pytest.raises(ConfigError, match="no features"):
        ppo(venv(features=[]))
    with pytest.raises(ConfigError, match="'indexed'"):
        IndexedExtractor(venv("flat").observation_space, MarketFeatures.of(env))


def test_policies_keep_what_they_were_given() -> None:
    env = venv()
    _, kwargs = indexed_policy(env, policy_kwargs={"net_arch": {"pi": [8, 4], "vf": [8]}, "activation_fn": nn.ReLU})
    assert kwargs["net_arch"] == {"pi": [4], "vf": []}
    assert kwargs["features_extractor_kwargs"]["encoder_kwargs"] == {"width": 8, "activation": nn.ReLU}
    own = {"features_extractor_class": nn.Identity}
    assert indexed_policy(env, policy_kwargs=own) == ("MultiInputPolicy", own)


# --- what changes the number of a bar -------------------------------------------------------------------------


def test_vec_normalize_of_bar_numbers_is_refused_where_the_network_looks_them_up() -> None:
    """It would look up bars 0 and 1, whatever bar the account is at."""
    scaled = VecNormalize(venv())
    for make in (lambda: indexed_policy(scaled), lambda: Agent({}, monitored(scaled))):
        with pytest.raises(ConfigError, match=r"norm_obs_keys=\['portfolio'\]"):
            make()
    policy, kwargs = indexed_policy(venv())
    for algorithm in (PPO, FastPPO):
        model = algorithm(policy, VecNormalize(venv()), policy_kwargs=kwargs, n_steps=16, batch_size=32, device="cpu")
        with pytest.raises(EnvironmentStateError, match=r"is no number of a bar.*norm_obs_keys=\['portfolio'\]"):
            model.learn(64)
    policy, kwargs = indexed_policy(venv(), algorithm="sac")
    model = SAC(policy, VecNormalize(venv()), policy_kwargs=kwargs, learning_starts=8, batch_size=8, device="cpu")
    with pytest.raises(EnvironmentStateError, match=r"norm_obs_keys=\['portfolio'\]"):
        model.learn(64)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    ("bars", "named"), [([3.0, 0.5], "bar 0.5"), ([float("nan"), 1.0], "bar nan"), ([2.0, -1.0], "bar -1 ")]
)
def test_a_number_that_is_none_of_a_bar_is_named(encoder: str, bars: list[float], named: str) -> None:
    net = extractor(encoder)
    with pytest.raises(EnvironmentStateError, match=named):
        net(observations(bars))
    with torch.no_grad(), pytest.raises(EnvironmentStateError, match=named):
        net(observations(bars))
    seen = observations([5, 7])
    whole = {**seen, "bar": seen["bar"].long()}
    torch.testing.assert_close(net(whole), net(seen), rtol=0, atol=0)


def test_stacks_of_bar_numbers_are_refused() -> None:
    stacked = VecFrameStack(venv(), 3)
    with pytest.raises(ConfigError, match=r"VecFrameStack stacks the numbers of bars.*'gru'"):
        indexed_policy(stacked)
    with pytest.raises(ConfigError, match="VecFrameStack stacks the numbers of bars"):
        PPO("MultiInputPolicy", stacked, policy_kwargs=indexed_policy(venv())[1], device="cpu")


def judged(model: Any, env: StatefulTradingEnv, **settings: Any) -> list[float]:
    quiet = {"vectorbt": False, "uncertainty": {"resamples": 0}}
    return BackTesting(model, env, quiet, baselines=(), **settings).run().equity.tolist()


def by_hand(model: Any, env: StatefulTradingEnv, see: Any) -> list[float]:
    """Equity of an account that a model leads, which sees ``see(observation)``, bound to the market by hand."""
    rules = env.config.updated(episode_config={"length": None, "random_start": False})
    env = StatefulTradingEnv(env.market, rules, scaler=env.scaler, seed=0)
    observation, done = env.reset()[0], False
    equity = [env.equity]
    with bound_market(model, env):
        while not done:
            observation, _, _, done, _ = env.step(model.predict(see(observation), deterministic=True)[0])
            equity.append(env.equity)
    return equity


def loud(model: PPO) -> PPO:
    with torch.no_grad():
        model.policy.action_net.weight.mul_(100.0)
    return model


def test_a_backtest_looks_bars_up_in_the_market_that_is_tested() -> None:
    """Of a model of one's own, too: the training's market has bars of the same numbers."""
    train, test = market(0).split(market(0).timestamps[80])
    env = TradingVecEnv(train, settings(), n_envs=4, seed=0, copy=False)
    model = loud(ppo(env).learn(64))
    exact = StatefulTradingEnv(test, settings(), seed=0)
    wanted = by_hand(model, exact, lambda seen: seen)
    assert judged(model, exact) == judged(model.policy, exact) == wanted
    model.learn(64)  # goes on in the market that it was trained on
    assert model.observation_space["bar"].high == train.n_bars - 1


def test_portfolios_alone_may_be_normalised(tmp_path: Path) -> None:
    train, test = market(0).split(market(0).timestamps[80])
    inner = TradingVecEnv(train, settings(), n_envs=4, seed=0, copy=False)
    scaled = VecNormalize(inner, norm_obs_keys=["portfolio"])
    model = loud(ppo(scaled).learn(64))
    exact = StatefulTradingEnv(test, settings(), seed=0)
    wanted = by_hand(model, exact, scaled.normalize_obs)
    assert wanted[-1] != by_hand(model, exact, lambda seen: seen)[-1]
    assert judged(model, exact) == wanted
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    with pytest.raises(RunError, match="VecNormalize normalised"):
        judged(loaded, exact)
    assert judged(loaded, exact, vec_normalize=scaled) == wanted
    everything = VecNormalize(TradingVecEnv(train, settings(), n_envs=4, seed=0))
    with pytest.raises(RunError, match=r"norm_obs_keys=\['portfolio'\]"):
        judged(loaded, exact, vec_normalize=everything)
    with pytest.raises(RunError, match="stacks the numbers of bars"):
        judged(loaded, exact, vec_normalize=scaled, frame_stack=2)


def test_a_network_that_takes_the_number_of_a_bar_for_a_feature_is_refused() -> None:
    env = venv()
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, device="cpu")
    exact = StatefulTradingEnv(market(), settings(), seed=0)
    for agent in (model, model.policy):
        with pytest.raises(RunError, match="takes the number of the bar for a number like any other"):
            BackTesting(agent, exact)


def test_assert_causal_sees_the_features_behind_an_index() -> None:
    register_feature("index_leak", lambda bars: np.roll(bars.mark, -1, axis=0), replace=True)
    config = settings(features=["index_leak"], feature_scaling="none")
    with pytest.raises(CausalityError, match="features"):
        assert_causal(lambda bars: FastTrainingEnv(bars, config, seed=0), market(0))


def test_an_agent_is_judged_on_other_bars_than_it_was_trained_on() -> None:
    train, test = market(0).split(market(0).timestamps[60])
    env = TradingVecEnv(train, settings(), n_envs=4, seed=0, copy=False)
    settings_of_agent = {"hyperparameters": {"n_steps": 8, "batch_size": 32}, "total_timesteps": 64}
    agent = Agent(settings_of_agent, env, seed=0).learn()
    exact = StatefulTradingEnv(test, settings(), scaler=env.batch.scaler, seed=0)
    results = BackTesting(agent, exact, {"vectorbt": False}).run()
    with agent.acting_in(exact):
        observation, _ = exact.reset()
        first, _ = agent.predict(observation)
    with pytest.raises(EnvironmentStateError, match="bar"):
        agent.predict({**observation, "bar": np.array([train.n_bars])})
    assert results.history["equity"].iloc[0] == exact.equity
    assert first.shape == (test.n_symbols,)
    agent.learn(64)  # goes on in the market it was trained on


@pytest.mark.parametrize("mode", ["flat", "indexed"])
def test_an_agent_is_loaded_into_another_number_of_lanes(mode: str, tmp_path: Path) -> None:
    config = {"hyperparameters": {"n_steps": 8, "batch_size": 32}, "total_timesteps": 32}
    Agent(config, venv(mode), seed=0).learn().save(tmp_path / "model.zip")
    agent = Agent.load(tmp_path / "model.zip", config, venv(mode, n_envs=6))
    assert agent.learn(48).model.n_envs == 6
