"""Agent: a stable-baselines3 model built from an `AgentConfig`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from batchenv.config import AgentConfig
from batchenv.errors import ConfigError, RunError, did_you_mean
from batchenv.extractors import bind_market, bound_market, indexed_policy
from batchenv.made_for import MadeFor
from batchenv.ppo import FastPPO
from batchenv.rollout import RewardScaler

_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": FastPPO, "a2c": A2C, "sac": SAC, "td3": TD3, "dqn": DQN}
_ACTION_SPACES: dict[str, tuple[type[spaces.Space[Any]], ...]] = {
    "ppo": (spaces.Box, spaces.Discrete, spaces.MultiDiscrete),
    "a2c": (spaces.Box, spaces.Discrete, spaces.MultiDiscrete),
    "sac": (spaces.Box,),
    "td3": (spaces.Box,),
    "dqn": (spaces.Discrete,),
}
_RESERVED = ("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")
_DEFAULT_GAMMA = 0.99


class Agent:
    """A learning agent.

    Attributes:
        config: Its configuration.
        model: The stable-baselines3 model; everything that stable-baselines3 offers works on it.
    """

    def __init__(
        self,
        config: AgentConfig | Mapping[str, Any] | str | Path,
        env: Any,
        *,
        seed: int | None = None,
        tensorboard_log: str | Path | None = None,
    ) -> None:
        """Build an untrained model.

        Args:
            config: `AgentConfig`, a mapping, or the path of a JSON file.
            env: A `VecEnv` such as `TradingVecEnv`, or a `gymnasium.Env`.
            seed: Seed of the weights, the exploration and the environment.
            tensorboard_log: Folder of the TensorBoard logs.

        Raises:
            ConfigError: The configuration is not valid, or the algorithm cannot use the environment.
        """
        self.config = _as_agent_config(config)
        torch.set_num_threads(self.config.n_threads)  # already the first weights are sums, whose order threads change
        _check_action_space(self.config.algorithm, env.action_space)
        algorithm = _ALGORITHMS[self.config.algorithm]
        parameters = _hyperparameters(self.config.algorithm, algorithm, self.config.hyperparameters)
        policy, policy_kwargs = indexed_policy(
            env, self.config.policy, parameters.get("policy_kwargs"), self.config.algorithm
        )
        if policy_kwargs:
            parameters["policy_kwargs"] = policy_kwargs
        if self.config.normalize_reward and isinstance(env, VecEnv):
            gamma = parameters.get("gamma", _DEFAULT_GAMMA)
            env = RewardScaler(env, gamma)
        try:
            self.model = algorithm(
                policy,
                env,
                seed=seed,
                device=self.config.device,
                tensorboard_log=None if tensorboard_log is None else str(tensorboard_log),
                **parameters,
            )
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ConfigError(f"agent: {self.config.algorithm.upper()} refused its configuration: {error}") from error

    @classmethod
    def load(cls, path: str | Path, config: AgentConfig | Mapping[str, Any] | str | Path, env: Any = None) -> Agent:
        """Load a model that `save` or stable-baselines3 wrote.

        Args:
            path: The zip file.
            config: Its configuration; the algorithm must be the one that was trained.
            env: An environment, for learning on; prediction needs none.

        Raises:
            RunError: The file is missing, damaged, of another algorithm, or does not fit ``env``.
        """
        agent = cls.__new__(cls)
        agent.config = _as_agent_config(config)
        algorithm = _ALGORITHMS[agent.config.algorithm]
        if not Path(path).is_file():
            raise RunError(f"{path}: there is no model file here")
        try:
            agent.model = algorithm.load(str(path), env=env, device=agent.config.device)
        except (BadZipFile, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError) as error:
            raise RunError(f"{path}: not a usable {agent.config.algorithm.upper()} model: {error}") from error
        if env is not None:
            _check_made_for(agent, env)
            bind_market(agent.model, env)
        return agent

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The observation space the model was built for."""
        return self.model.observation_space

    @property
    def action_space(self) -> spaces.Space[Any]:
        """The action space the model was built for."""
        return self.model.action_space

    def learn(
        self,
        total_timesteps: int | None = None,
        callback: list[BaseCallback] | BaseCallback | None = None,
        **kwargs: Any,
    ) -> Agent:
        """Train.

        Args:
            total_timesteps: Lane-steps; None takes the configuration's.
            callback: stable-baselines3 callbacks.
            **kwargs: Passed to the model's ``learn``.

        Returns:
            The agent itself.
        """
        torch.set_num_threads(self.config.n_threads)
        self.model.learn(total_timesteps or self.config.total_timesteps, callback=callback, **kwargs)
        return self

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, *, deterministic: bool = True
    ) -> tuple[npt.NDArray[Any], Any]:
        """Return the action for an observation, as the model's ``predict`` does, without exploration by default.

        Args:
            observation: float32 ``[size]`` or ``[n, size]``, or a dict of such.
            state: State of a recurrent policy; others ignore it.
            episode_start: Whether an episode begins, bool ``[n]``, for a recurrent policy; others ignore it.
            deterministic: Whether to act without exploration.

        Returns:
            Action or actions, and the next state.
        """
        action, state = self.model.predict(
            observation, state=state, episode_start=episode_start, deterministic=deterministic
        )
        return action, state

    def acting_in(self, env: Any) -> AbstractContextManager[None]:
        """Return a context in which `predict` looks indexed observations up in the market of ``env``.

        An indexed observation names a bar and not its market, so an agent that acts on other bars than those it was
        trained on must be told. `BackTesting` does that. Agents of flat observations need nothing and are left alone.

        Args:
            env: An environment of this package.

        Raises:
            ConfigError: On entering: the market's features or symbols are not those that the model was trained on.
        """
        return bound_market(self.model, env)

    def save(self, path: str | Path) -> None:
        """Write the model to a zip file, as stable-baselines3 does."""
        self.model.save(str(path))


def _as_agent_config(config: AgentConfig | Mapping[str, Any] | str | Path) -> AgentConfig:
    if isinstance(config, AgentConfig):
        return config
    if isinstance(config, Mapping):
        return AgentConfig.model_validate(dict(config))
    return AgentConfig.from_json(config)


def _check_made_for(agent: Agent, env: Any) -> None:
    """Check that a loaded agent sees the same in an environment as in the one that it was trained in.

    Raises:
        RunError: It does not; says what differs.
    """
    made_for, here = MadeFor.of(agent), MadeFor.of(env)
    if made_for is None or here is None:
        return
    conflict, order, scaling = made_for.conflict(here), made_for.reordered(here), None
    if conflict is None:
        scaling = made_for.rescaled(here.scaler)
    if order is not None:
        order = f"it was trained on the {order}; expected the training's order"
    if scaling is not None:
        scaling = f"{scaling}; expected the training's scaling, scaler=MadeFor.of(agent).scaler"
    found = conflict or order or scaling
    if found is not None:
        raise RunError(f"the agent does not fit the environment: {found}")


def _check_action_space(algorithm: str, space: spaces.Space[Any]) -> None:
    allowed = _ACTION_SPACES[algorithm]
    if isinstance(space, allowed):
        return
    hint = {
        "dqn": "action_config.mode 'discrete' with joint = true",
        "sac": "action_config.mode 'trade', 'weights' or 'shares'",
        "td3": "action_config.mode 'trade', 'weights' or 'shares'",
    }[algorithm]
    raise ConfigError(
        f"agent.algorithm: {algorithm!r} cannot act in a {type(space).__name__} action space; expected {hint}"
    )


def _hyperparameters(name: str, algorithm: type[BaseAlgorithm], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check names against the algorithm's own signature, and turn an activation's name into its class."""
    known = [key for key in inspect.signature(algorithm.__init__).parameters if key not in _RESERVED]
    for key in given:
        if key not in known:
            raise ConfigError(
                f"agent.hyperparameters.{key}: {name!r} does not know it{did_you_mean(key, known)}; "
                f"expected one of {', '.join(known)}"
            )
    parameters = dict(given)
    policy = parameters.get("policy_kwargs")
    if isinstance(policy, Mapping) and isinstance(policy.get("activation_fn"), str):
        activation = getattr(torch.nn, policy["activation_fn"], None)
        if activation is None:
            raise ConfigError(
                f"agent.hyperparameters.policy_kwargs.activation_fn: got {policy['activation_fn']!r}, "
                "expected the name of a torch.nn class such as 'Tanh' or 'ReLU'"
            )
        parameters["policy_kwargs"] = {**policy, "activation_fn": activation}
    return parameters
