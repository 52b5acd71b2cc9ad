"""FastPPO against stable-baselines3's PPO: the same weights, logs and files, from the same seed."""

from __future__ import annotations

import copy
import subprocess
import sys
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
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize
from threadpoolctl import threadpool_info

from batchenv import EnvConfig, IndexedExtractor, MarketData, TradingVecEnv, indexed_policy, networks, small_batches
from batchenv.extractors import MarketFeatures
from batchenv.mlp import PlainMlp
from batchenv.ppo import FastPPO
from batchenv.rollout import FastDictRolloutBuffer, FastRolloutBuffer, RewardScaler
from batchenv.small_batches import SmallBatches

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
    "elu": ({}, {"policy_kwargs": {"activation_fn": torch.nn.ELU}}),
    "weight decay": ({}, {"policy_kwargs": {"optimizer_class": torch.optim.AdamW, "log_std_init": -1.0}}),
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
@pytest.mark.parametrize("way", ["bare", "normalised", "in torch"])
@pytest.mark.parametrize("case", CASES)
def test_it_learns_what_stock_ppo_learns(case: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, parameters = CASES[case]
    models = []
    if way == "in torch":  # as large minibatches are
        monkeypatch.setattr(small_batches, "_MOST", 0)
    for algorithm in (PPO, FastPPO):
        env: VecEnv = venv(**rules)
        if way == "normalised":
            env = VecNormalize(env)
        models.append(learn(algorithm("MlpPolicy", env, **(BASE | parameters))))
    same(*models)
    assert len(models[1].ep_info_buffer) > 0
    if case == "target_kl":
        assert models[1]._n_updates < 9, "it never stopped early"


def test_it_learns_the_same_behind_a_wrapper_that_widens_observations() -> None:
    same(*(learn(algorithm("MlpPolicy", VecFrameStack(venv(), 2), **BASE)) for algorithm in (PPO, FastPPO)))


class Watching(BaseCallback):
    """Notes whether the observations of each step were made in the buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.placed: list[bool] = []

    def _on_step(self) -> bool:
        buffer = self.locals["rollout_buffer"]
        self.placed.append(np.may_share_memory(self.locals["new_obs"], buffer.observations))
        return True


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: RewardScaler(env, 0.99)], ids=["bare", "scaled"])
def test_observations_are_made_where_the_buffer_wants_them(wrap: Any) -> None:
    watching = Watching()
    FastPPO("MlpPolicy", wrap(venv()), **BASE).learn(2 * LANES * STEPS, callback=watching)
    assert watching.placed == ([True] * (STEPS - 1) + [False]) * 2  # the last begin the next rollout


def test_rewards_are_scaled_as_stable_baselines3_scales_them() -> None:
    models = []
    for wrap in (lambda env: VecNormalize(env, norm_obs=False, gamma=0.9), lambda env: RewardScaler(env, 0.9)):
        models.append(learn(FastPPO("MlpPolicy", wrap(venv()), **(BASE | {"gamma": 0.9}))))
    stock, ours = (model.rollout_buffer for model in models)
    assert (stock.episode_starts[1:] > 0).any()
    for name in ("observations", "actions", "rewards", "returns", "episode_starts"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(stock, name))


class Toy(gymnasium.Env[Any, int]):
    """Truncates or terminates at a time of its own, and reports successes."""

    def __init__(self, lane: int, kind: str) -> None:
        numbers = spaces.Box(-1, 1, (3,), np.float32)
        image = spaces.Box(0, 255, (4, 4), np.uint8)
        space = {"dict": spaces.Dict({"a": numbers, "b": spaces.Discrete(3)}), "discrete": spaces.Discrete(5)}
        action = {"binary": spaces.MultiBinary(2), "uneven choices": spaces.MultiDiscrete([2, 3])}
        self.observation_space = space.get(kind, image if kind == "matrix" else numbers)
        self.action_space = action.get(kind, spaces.Discrete(3))
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


@pytest.mark.parametrize("kind", ["box", "binary", "discrete", "matrix", "dict", "uneven choices"])
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


def test_nothing_that_is_saved_tells_it_from_stock() -> None:
    stock, fast = (algorithm("MlpPolicy", venv(), **BASE) for algorithm in (PPO, FastPPO))
    assert fast.policy_kwargs == stock.policy_kwargs
    mine, theirs = (model.policy._get_constructor_parameters() for model in (fast, stock))
    assert mine.pop("lr_schedule") is not None
    assert theirs.pop("lr_schedule") is not None
    assert mine == theirs
    assert vars(fast).keys() == vars(stock).keys()
    assert fast.policy.optimizer.defaults == stock.policy.optimizer.defaults


def test_learning_does_not_wait_for_the_compiler_of_torch() -> None:
    code = (
        "import sys; from batchenv import FastPPO, MarketData, TradingVecEnv\n"
        "env = TradingVecEnv(MarketData.bundled(), {}, n_envs=2, seed=0)\n"
        "FastPPO('MlpPolicy', env, n_steps=4, batch_size=8, n_epochs=1, device='cpu').learn(8)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == "False", "importing it takes a second"


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


def test_a_callback_that_meddles_is_obeyed() -> None:
    class Meddler(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls % STEPS == 3:
                with torch.no_grad():
                    for weight in self.model.policy.parameters():
                        weight.mul_(1.01)
            return True

        def _on_rollout_end(self) -> None:
            self.model.clip_range = lambda _: 0.05
            self.model.lr_schedule = lambda _: 1e-3
            self.model.ent_coef = 0.02

    same(*(algorithm("MlpPolicy", venv(), **BASE).learn(3 * STEPS * LANES, Meddler()) for algorithm in (PPO, FastPPO)))


def test_gradients_are_there_to_be_looked_at() -> None:
    models = [learn(algorithm("MlpPolicy", venv(), **BASE)) for algorithm in (PPO, FastPPO)]
    for theirs, mine in zip(*(model.policy.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_the_state_of_the_optimizer_is_saved_and_loaded(tmp_path: Path) -> None:
    fast, stock = (learn(algorithm("MlpPolicy", venv(), **BASE)) for algorithm in (FastPPO, PPO))
    fast.save(tmp_path / "fast")
    loaded = PPO.load(tmp_path / "fast", device="cpu").policy.optimizer.state_dict()["state"]
    expected = stock.policy.optimizer.state_dict()["state"]
    assert list(loaded) == list(expected)
    for number, state in expected.items():
        for name, value in state.items():
            torch.testing.assert_close(loaded[number][name], value, rtol=1e-3, atol=1e-7)


def test_the_buffer_gives_the_samples_of_stock() -> None:
    box, choice = spaces.Box(-1, 1, (2, 3), np.float32), spaces.MultiDiscrete([3, 3])
    buffers = [kind(STEPS, box, choice, "cpu", n_envs=LANES) for kind in (RolloutBuffer, FastRolloutBuffer)]
    rng = np.random.default_rng(0)
    for _ in range(2):
        for buffer in buffers:
            buffer.reset()
        for _ in range(STEPS):
            numbers = torch.from_numpy(rng.random((2, LANES, 1), np.float32))
            step = (rng.random((LANES, 2, 3)), rng.integers(0, 3, (LANES, 2)), rng.random(LANES), np.zeros(LANES))
            for buffer in buffers:
                buffer.add(*step, numbers[0], numbers[1, :, 0])
        drawn: list[list[Any]] = []
        for buffer in buffers:
            buffer.compute_returns_and_advantage(torch.ones(LANES), np.zeros(LANES))
            set_random_seed(0)
            drawn.append([[part.clone() for part in batch] for batch in buffer.get(25)])
        assert [len(batch[0]) for batch in drawn[1]] == [25, 25, 25, 21]
        for mine, theirs in zip(drawn[1], drawn[0], strict=True):
            for got, expected in zip(mine, theirs, strict=True):
                assert got.dtype == expected.dtype
                assert torch.equal(got, expected)


# --- SmallBatches -----------------------------------------------------------------------------------------------


def epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the size of its minibatches with every epoch that is compiled."""
    seen: list[int] = []
    compiled = SmallBatches.epoch

    def epoch(self: SmallBatches, *arguments: Any) -> Any:
        seen.append(self._size)
        return compiled(self, *arguments)

    monkeypatch.setattr(SmallBatches, "epoch", epoch)
    return seen


def test_small_minibatches_are_learned_from_in_one_call_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = epochs(monkeypatch)
    learn(FastPPO("MlpPolicy", venv(), **BASE))
    assert len(seen) >= 3 and set(seen) == {32}
    seen.clear()
    learn(FastPPO("MlpPolicy", venv(), **(BASE | {"batch_size": 600, "n_steps": 200})))
    assert seen == []


OURS_OR_TORCHS: dict[str, dict[str, Any]] = {
    "weight decay": {"optimizer_kwargs": {"weight_decay": 0.1, "eps": 1e-5}},
    "amsgrad": {"optimizer_kwargs": {"amsgrad": True, "eps": 1e-5}},
    "another optimizer": {"optimizer_class": torch.optim.AdamW},
    "gSDE": {"use_sde": True},
    "ELU": {"activation_fn": torch.nn.ELU},
}


@pytest.mark.parametrize("case", OURS_OR_TORCHS)
def test_what_the_compiled_update_does_not_know_is_left_to_torch(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = epochs(monkeypatch)
    parameters = dict(OURS_OR_TORCHS[case])
    use_sde = parameters.pop("use_sde", False)
    models = [
        learn(algorithm("MlpPolicy", venv(), use_sde=use_sde, policy_kwargs=dict(parameters), **BASE))
        for algorithm in (PPO, FastPPO)
    ]
    same(*models)
    assert seen == []


def test_who_looks_on_or_meddles_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(FastPPO):
        def _loss(self, *arguments: Any) -> Any:
            losses.append(1)
            return super()._loss(*arguments)

    seen, losses, steps = epochs(monkeypatch), list[int](), list[int]()
    learn(Own("MlpPolicy", venv(), **BASE))
    assert losses and not seen
    model = FastPPO("MlpPolicy", venv(), **BASE)
    model.policy.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    learn(model)
    assert steps and not seen
    model = FastPPO("MlpPolicy", venv(), rollout_buffer_class=OwnBuffer, **BASE)
    learn(model)
    assert not seen


class OwnBuffer(RolloutBuffer):
    pass


def test_the_threads_of_others_are_as_they_were() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    learn(FastPPO("MlpPolicy", venv(), **BASE))  # has loaded all there is
    before = threads()
    learn(FastPPO("MlpPolicy", venv(), **BASE))
    assert threads() == before


def test_its_tanh_is_right_to_some_units_in_the_last_place() -> None:
    x = np.concatenate([np.linspace(-12, 12, 20_001), np.logspace(-30, 0, 100)]).astype(np.float32)
    got = np.array([small_batches.tanh(number) for number in x])
    np.testing.assert_allclose(got, np.tanh(x.astype(np.float64)), rtol=5e-7)


# --- PlainMlp -------------------------------------------------------------------------------------------------

NETWORKS: dict[str, dict[str, Any]] = {
    "tanh": {},
    "relu": {"activation_fn": torch.nn.ReLU},
    "uneven": {"net_arch": {"pi": [5], "vf": [7, 6, 4]}},
    "indexed": {"n_bars": 20},
    "indexed, many bars": {"n_bars": 300, "net_arch": []},
    "indexed, very many bars": {"n_bars": 3000, "activation_fn": torch.nn.ReLU},
}
ACTIONS = {
    "box": spaces.Box(-1, 1, (4,)),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([3, 3]),
}
ROWS = 50


def plain_policy(
    actions: spaces.Space[Any] = ACTIONS["box"], *, n_bars: int | None = None, **parameters: Any
) -> ActorCriticPolicy:
    """Return a policy with weights that are far from symmetric; on indexed observations where it is told the bars."""
    torch.manual_seed(1)
    if n_bars is None:
        policy = ActorCriticPolicy(spaces.Box(-1, 1, (9,)), actions, lambda _: 1e-3, **parameters)
    else:
        bars, portfolio = spaces.Box(0, n_bars - 1, (1,), np.int64), spaces.Box(-1, 1, (3,))
        settings = {"width": 8, "activation": parameters.get("activation_fn", torch.nn.Tanh)}
        policy = MultiInputActorCriticPolicy(
            spaces.Dict({"bar": bars, "portfolio": portfolio}),
            actions,
            lambda _: 1e-3,
            features_extractor_class=IndexedExtractor,
            features_extractor_kwargs={
                "market": MarketFeatures(tuple("ABCDEF"), torch.randn(n_bars, 6)),
                "encoder_kwargs": settings,
            },
            **{"share_features_extractor": False, **parameters},
        )
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(0.0, 0.5)
    return policy


def samples(policy: ActorCriticPolicy, rows: int) -> tuple[Any, torch.Tensor]:
    """Return observations and actions."""
    policy.observation_space.seed(rows)
    policy.action_space.seed(rows)
    drawn = [policy.observation_space.sample() for _ in range(rows)]
    if isinstance(drawn[0], dict):
        obs: Any = {key: torch.as_tensor(np.stack([one[key] for one in drawn])) for key in drawn[0]}
    else:
        obs = torch.as_tensor(np.stack(drawn))
    actions = torch.as_tensor(np.array([policy.action_space.sample() for _ in range(rows)]))
    return obs, actions if actions.ndim == 1 else actions.reshape(rows, -1)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("kind", ACTIONS)
def test_its_gradients_are_those_of_autograd(kind: str, networks: str) -> None:
    policy = plain_policy(ACTIONS[kind], **NETWORKS[networks])
    exact = copy.deepcopy(policy).double()
    plain = PlainMlp.of(policy)
    assert plain is not None
    for rows in (ROWS, 1, ROWS + 1, ROWS):  # arrays are kept by the number of rows
        obs, actions = samples(policy, rows)
        values, log_prob, entropy = plain.evaluate(obs, actions)
        doubled = {key: part.double() for key, part in obs.items()} if isinstance(obs, dict) else obs.double()
        actor = exact.mlp_extractor.forward_actor(exact.pi_features_extractor(doubled))
        critic = exact.mlp_extractor.forward_critic(exact.vf_features_extractor(doubled))
        distribution = exact._get_action_dist_from_latent(actor)
        expected = exact.value_net(critic).flatten(), distribution.log_prob(actions), distribution.entropy()
        for mine, theirs in zip((values, log_prob, entropy.expand(rows)), expected, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
        weights = torch.randn(3, rows, generator=torch.Generator().manual_seed(rows))
        exact.zero_grad()
        sum(weight.double() @ part for weight, part in zip(weights, expected, strict=True)).backward()
        plain.backward(weights[0], weights[1], weights[2] if entropy.ndim else weights[2].sum())
        for mine, theirs in zip(policy.parameters(), exact.parameters(), strict=True):
            limit = 1e-5 * theirs.grad.abs().max().item()
            torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=0, atol=limit)
        norm = torch.nn.utils.clip_grad_norm_(exact.parameters(), 0.25)
        plain.clip_gradients(0.25)
        assert norm > 0.25
        for mine, theirs in zip(policy.parameters(), exact.parameters(), strict=True):
            torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("kind", ACTIONS)
def test_it_acts_as_the_policy_does(kind: str, networks: str) -> None:
    policy = plain_policy(ACTIONS[kind], **NETWORKS[networks])
    plain = PlainMlp.of(policy)
    assert plain is not None
    for rows in (ROWS, 1):
        obs, _ = samples(policy, rows)
        torch.manual_seed(5)
        expected = policy(obs)
        torch.manual_seed(5)
        for mine, theirs in zip(plain.act(obs), expected, strict=True):
            assert mine.shape == theirs.shape
            torch.testing.assert_close(mine, theirs.detach())


@pytest.mark.parametrize("encoder", ["linear", "mlp"])
def test_it_learns_the_same_on_indexed_observations(encoder: str) -> None:
    models = []
    for algorithm in (PPO, FastPPO):
        env = venv(observation_config={"mode": "indexed"})
        policy, kwargs = indexed_policy(env, policy_kwargs={"encoder": encoder})
        models.append(learn(algorithm(policy, env, policy_kwargs=kwargs, **BASE)))
    same(*models)
    assert (PlainMlp.of(models[1].policy) is not None) == (encoder == "linear")
    assert type(models[1].rollout_buffer) is FastDictRolloutBuffer


@pytest.mark.parametrize("clip_range_vf", [None, 0.3])
@pytest.mark.parametrize("has_entropy", [False, True])
def test_the_gradients_of_the_loss_are_those_of_autograd(has_entropy: bool, clip_range_vf: float | None) -> None:
    model = FastPPO("MlpPolicy", venv(), ent_coef=0.1, vf_coef=0.7, **BASE)
    rng = torch.Generator().manual_seed(0)
    values, log_prob, entropy, old_values, old, advantages, returns = torch.randn(7, ROWS, generator=rng).double()
    old = log_prob + 0.3 * old
    judged = [part.requires_grad_() for part in (values, log_prob, entropy)]
    ratio = (log_prob - old).exp()
    assert 0 < (ratio > 1.2).sum() < ROWS / 2
    assert 0 < (ratio < 0.8).sum() < ROWS / 2
    scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    predicted = values if clip_range_vf is None else old_values + (values - old_values).clamp(-0.3, 0.3)
    parts = (
        -torch.minimum(scaled * ratio, scaled * ratio.clamp(0.8, 1.2)).mean(),
        ((returns - predicted) ** 2).mean(),
        -entropy.mean() if has_entropy else log_prob.mean(),
    )
    expected = torch.autograd.grad(parts[0] + 0.7 * parts[1] + 0.1 * parts[2], judged, allow_unused=True)
    batch = RolloutBufferSamples(None, None, old_values, old, advantages, returns)  # type: ignore[arg-type]
    figures, gradients = model._loss(batch, (values, log_prob, entropy if has_entropy else None), 0.2, clip_range_vf)
    for mine, theirs in zip(gradients[: 2 + has_entropy], expected, strict=False):
        torch.testing.assert_close(mine, theirs)
    clipped = ((ratio > 1.2) | (ratio < 0.8)).double().mean()
    divergence = (ratio - 1 - ratio.log()).mean()
    expected_figures = (-parts[0], parts[1], clipped, divergence, parts[2])
    torch.testing.assert_close(figures, torch.stack(expected_figures).detach())


def test_other_policies_are_left_alone() -> None:
    class Own(ActorCriticPolicy):
        pass

    space = spaces.Box(-1, 1, (9,))
    assert PlainMlp.of(plain_policy()) is not None
    assert PlainMlp.of(Own(space, ACTIONS["box"], lambda _: 1e-3)) is None
    assert PlainMlp.of(plain_policy(use_sde=True)) is None
    assert PlainMlp.of(plain_policy(net_arch=[])) is None
    assert PlainMlp.of(plain_policy(n_bars=20, share_features_extractor=True)) is None
    assert PlainMlp.of(plain_policy(activation_fn=torch.nn.ELU)) is None
    assert PlainMlp.of(plain_policy().double()) is None
    assert PlainMlp.of(plain_policy(spaces.MultiDiscrete([2, 3]))) is None


def test_what_is_frozen_stays_so() -> None:
    models = []
    for algorithm in (PPO, FastPPO):
        models.append(algorithm("MlpPolicy", venv(), **BASE))
        frozen = models[-1].policy.mlp_extractor.policy_net[0].weight.requires_grad_(False)
        before = frozen.clone()
        learn(models[-1])
        assert torch.equal(frozen, before)
    same(*models)


@pytest.mark.parametrize("listen", ["module", "gradient"])
def test_someone_who_listens_is_heard(listen: str) -> None:
    policy = plain_policy()
    heard: list[Any] = []
    if listen == "module":
        policy.value_net.register_forward_hook(lambda *_: heard.append(1))
    else:
        policy.value_net.weight.register_hook(lambda _: heard.append(1))
    assert PlainMlp.of(policy) is None


@pytest.mark.parametrize("layout", ["dense", "transposed", "columns"])
@pytest.mark.parametrize("shape", [(512, 271, 128), (128, 512, 271), (64, 2048, 64), (8, 16, 4)])
def test_a_product_is_the_same_by_either_library(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], layout: str
) -> None:
    """Whichever library multiplies, and however the numbers lie in memory."""
    if networks._onednn is None or not torch._C._has_mkldnn:
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(0)
    n, m, k = shape
    a, b, bias = torch.randn(n, m), torch.randn(m, k), torch.randn(k)
    if layout == "transposed":
        a, b = a.t().contiguous().t(), b.t().contiguous().t()
    elif layout == "columns":
        a, b = torch.randn(n, 2 * m)[:, m:], torch.randn(m, 2 * k)[:, :k]
    exact = (a.double() @ b.double()).float()
    for own in (False, True):
        monkeypatch.setattr(networks, "_ONEDNN", own)
        out = torch.empty(n, 2 * k)[:, k:]
        assert networks.product(a, b, out) is out
        torch.testing.assert_close(out, exact, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(
            networks.product(a, b, bias=bias, scale=2.0), 2 * (exact + bias), rtol=1e-4, atol=1e-3
        )
