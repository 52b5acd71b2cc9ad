"""Letting an agent act in an environment as it acted in training, or refusing: the one door for all that judges agents.

Between the environment and the network there may have been wrappers, a scaling and an order of symbols. `Training` says
what is known of them, `stateful.fitting` puts the environment right, and an `Actor` applies what wrappers did before it
asks the agent. None of it is needed for an agent that is just an object with `predict`: it is asked as it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium import spaces

from batchenv.config import AgentConfig
from batchenv.errors import RunError
from batchenv.made_for import MadeFor
from stateful.env import StatefulTradingEnv
from stateful.evaluation.flags import Flag

if TYPE_CHECKING:
    from batchenv.spaces import ObservationLayout
    from batchenv.wrappers import Chain, Preprocessing

Act = Callable[[Any], Any]
"""Returns the actions of all lanes, given their observations; called once for every bar."""
HAND_IN = (
    "hand in the file that VecNormalize.save wrote: BackTesting(..., vec_normalize='vecnormalize.pkl'), or "
    "backtest.vec_normalize in a configuration"
)


class Predictor(Protocol):
    """What can be backtested: a stable-baselines3 model, an `Agent`, or any object with this method."""

    def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, Any]:
        """Return an action and, for recurrent policies, a state (else None)."""


@dataclass(frozen=True)
class Training:
    """What an agent tells of its training.

    Attributes:
        learner: The stable-baselines3 model, where the agent is one or an `Agent`.
        made_for: What the agent was made for, as far as it remembers.
        chain: The wrappers of the environment that the model holds; None where it holds none.
        flags: What could not be looked into.
    """

    learner: Any
    made_for: MadeFor | None
    chain: Chain | None
    flags: tuple[Flag, ...]

    @classmethod
    def of(cls, agent: Any) -> Training:
        """Look at an agent.

        Raises:
            RunError: It cannot predict, a wrapper of its environment is not known, or another version wrote what it
                remembers.
        """
        if not callable(getattr(agent, "predict", None)):
            raise RunError(
                f"agent: got {type(agent).__name__}, expected an object with predict(observation, deterministic=)"
            )
        learner, made_for = _learner(agent), MadeFor.of(agent)
        if learner is None:
            flags = (_UNSEEN if made_for is not None else _FORGOTTEN,) if _is_policy(agent) else ()
            return cls(None, made_for, None, flags)
        chain = None
        if learner.env is not None:
            from batchenv.wrappers import Chain

            chain = Chain.of(learner.env)
        found = [_what_is_unseen(agent, learner, chain)]
        latest = chain.made_for if chain is not None and learner._last_obs is not None else None
        if latest is not None and made_for is not None:
            found.append(_other_environment(made_for, latest))
            latest = replace(latest, bars=_hull(made_for.bars, latest.bars))
        made_for = latest or made_for
        if made_for is None:
            found.append(_FORGOTTEN)
        return cls(learner, made_for, chain, tuple(flag for flag in found if flag is not None))


_FORGOTTEN = Flag(
    "training_not_remembered",
    "note",
    "Not checked: whether symbols, features and their scaling are those of the training, in its order. The model does "
    "not remember what it was made for: an earlier version of batchenv, or another environment, trained it.",
)
_UNSEEN = Flag(
    "wrappers_unknown",
    "note",
    "Not checked: whether VecNormalize, VecFrameStack or another wrapper stood between the agent and its environment "
    "in training. The agent holds neither that environment nor the last observations it saw there.",
)


def _learner(agent: Any) -> Any:
    """Return the stable-baselines3 model that an agent is, or has in it if it is an `Agent`; None for others."""
    module = sys.modules.get("stable_baselines3.common.base_class")
    if module is None:
        return None
    model = agent.model if isinstance(getattr(agent, "config", None), AgentConfig) else agent
    return model if isinstance(model, module.BaseAlgorithm) else None


def _is_policy(agent: Any) -> bool:
    module = sys.modules.get("stable_baselines3.common.policies")
    return module is not None and isinstance(agent, module.BaseModel)


def _what_is_unseen(agent: Any, learner: Any, chain: Chain | None) -> Flag | None:
    """Return what cannot be known of the wrappers in training; None where they, or the last observation, tell."""
    if chain is not None and chain.unseen is not None:
        return Flag(
            "unknown_environment",
            "warning",
            f"Trained in an environment that the backtest does not know: {chain.unseen} may do with observations and "
            "actions what this environment does not.",
        )
    if learner._last_obs is not None or not learner.num_timesteps:
        return None
    if chain is None or not chain.seen:
        return _UNSEEN
    on_policy = sys.modules["stable_baselines3.common.on_policy_algorithm"].OnPolicyAlgorithm
    under_vec_normalize = isinstance(learner, on_policy) and learner._last_original_obs is not None
    rewards_only = getattr(getattr(agent, "config", None), "normalize_reward", False) is True
    if not under_vec_normalize or chain.has_vec_normalize or rewards_only:
        return None
    return Flag(
        "normalization_unknown",
        "warning",
        "Perhaps judged on other observations than it learned from: the model was trained under VecNormalize, and the "
        "environment that it was loaded with has none. If observations were normalised, and not rewards alone, "
        f"{HAND_IN}.",
    )


def _other_environment(first: MadeFor, last: MadeFor) -> Flag | None:
    """Flag a model that went on learning in an environment that shows or means something else."""
    before, after = first.as_dict(), last.as_dict()
    changed = [key for key in ("symbols", "features", "observation", "action") if before[key] != after[key]]
    if set(first.features) == set(last.features) and first.rescaled(last.scaler) is not None:
        changed.append("scaling")
    if not changed:
        return None
    return Flag(
        "learned_in_two_environments",
        "warning",
        f"Learned in two environments that differ in {', '.join(changed)}. The backtest shows the agent what it saw "
        "last.",
    )


def _hull(a: tuple[str, str], b: tuple[str, str]) -> tuple[str, str]:
    return min(a[0], b[0], key=np.datetime64), max(a[1], b[1], key=np.datetime64)


# --- the door -------------------------------------------------------------------------------------------------


class Actor:
    """An agent together with what its observations go through before it sees them.

    Attributes:
        agent: The agent.
        preprocessing: What wrappers did in training; None where they did nothing.
        flags: What may be otherwise than in training.
    """

    def __init__(
        self, agent: Predictor, preprocessing: Preprocessing | None, deterministic: bool, flags: tuple[Flag, ...]
    ) -> None:
        """Take what `of` found."""
        self.agent = agent
        self.preprocessing = preprocessing
        self.flags = flags
        self._deterministic = deterministic
        self._learner = _learner(agent)
        try:
            parameters = inspect.signature(agent.predict).parameters
        except (TypeError, ValueError):
            parameters = {}  # type: ignore[assignment]
        self._told_of_starts = "episode_start" in parameters

    @classmethod
    def of(
        cls,
        agent: Predictor,
        training: Training,
        env: StatefulTradingEnv,
        *,
        deterministic: bool = True,
        vec_normalize: Any = None,
        frame_stack: int | None = None,
    ) -> Actor:
        """Check that an agent can act in an environment that was fitted to it, and prepare it.

        Args:
            agent: The agent.
            training: What is known of its training.
            env: The environment, as `stateful.fitting` put it right.
            deterministic: Whether it acts without exploration.
            vec_normalize: Statistics of `VecNormalize`, where the model was loaded without its environment: the path
                of the file, or the wrapper.
            frame_stack: Likewise ``n_stack`` of `VecFrameStack`.

        Raises:
            RunError: The agent would see something else than in training; says what, and what to do.
        """
        preprocessing = None
        if training.chain is not None or vec_normalize is not None or frame_stack is not None:
            from batchenv.wrappers import Preprocessing

            own = Preprocessing() if training.chain is None else training.chain.preprocessing
            preprocessing = own.handed_in(vec_normalize, frame_stack, env.observation_space) or None
        seen = env.observation_space if preprocessing is None else preprocessing.space(env.observation_space)
        _check_spaces(agent, seen, env)
        _check_remembered(agent, preprocessing)
        _check_looks_up(training.learner or agent, env)
        flag = None
        if training.learner is not None and training.learner._last_obs is not None:
            flag = _check_last_observation(training, preprocessing, env, handed_in=vec_normalize is not None)
        answered = () if vec_normalize is None and frame_stack is None else ("normalization_unknown", _UNSEEN.name)
        flags = [each for each in (*training.flags, flag) if each is not None and each.name not in answered]
        return cls(agent, preprocessing, deterministic, tuple(flags))

    @contextmanager
    def acting_in(self, env: Any) -> Iterator[Act]:
        """Begin episodes in an environment, for the body of a ``with``.

        Args:
            env: A `StatefulTradingEnv`, or a `BatchTradingEnv`, whose lanes all begin now.

        Yields:
            A function that is called once for every bar with the observations, and returns the actions.
        """
        n_lanes = getattr(env, "num_envs", None)
        space = env.observation_space if n_lanes is None else env.single_observation_space
        transform = None if self.preprocessing is None else self.preprocessing.start(space, n_lanes or 1)
        lanes, memory = n_lanes or 1, self._first_memory(n_lanes or 1)

        def act(observation: Any) -> Any:
            nonlocal memory
            if transform is not None:
                observation = transform(observation if n_lanes else _each(observation, lambda part: part[None]))
                observation = observation if n_lanes else _each(observation, lambda part: part[0])
            action, state = self.agent.predict(observation, deterministic=self._deterministic, **memory)
            memory = self._next_memory(state, lanes)
            return action

        with self._bound(env):
            yield act

    def _first_memory(self, lanes: int) -> dict[str, Any]:
        return {"episode_start": np.ones(lanes, bool)} if self._told_of_starts else {}

    def _next_memory(self, state: Any, lanes: int) -> dict[str, Any]:
        """Return what goes back to a recurrent policy, in the form that stable-baselines3 has for it.

        Lanes of a batch that begin anew are not counted by anybody, so no state is forgotten.
        """
        going = {"episode_start": np.zeros(lanes, bool)}
        return {**going, "state": state} if state is not None else going if self._told_of_starts else {}

    def _bound(self, env: Any) -> AbstractContextManager[None]:
        """Return a context in which the agent looks indexed observations up in the market of ``env``."""
        acting_in: Callable[[Any], AbstractContextManager[None]] | None = getattr(self.agent, "acting_in", None)
        if acting_in is not None:
            return acting_in(env)
        if self._learner is None and not _is_policy(self.agent):
            return nullcontext()
        from batchenv.extractors import bound_market

        return bound_market(self._learner or self.agent, env)  # type: ignore[arg-type]


def _each(observation: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a function to every array of an observation."""
    if isinstance(observation, Mapping):
        return {key: change(part) for key, part in observation.items()}
    return change(observation)


# --- what is refused --------------------------------------------------------------------------------------------


def _check_spaces(agent: Any, seen: spaces.Space[Any], env: StatefulTradingEnv) -> None:
    """Check the shapes of observations and actions, as far as an agent says what it was made for.

    Raises:
        RunError: They differ; says how.
    """
    pairs = (("observation_space", seen), ("action_space", env.action_space))
    differences = [text for kind, space in pairs if (text := _difference(kind, getattr(agent, kind, None), space))]
    if not differences:
        return
    n_features, n_symbols = len(env.features), len(env.market.symbols)
    raise RunError(
        "the agent does not fit the environment: "
        + "; ".join(differences)
        + f". The environment has {n_features} features of {n_symbols} symbols and actions of mode "
        f"{env.config.action_config.mode!r}; expected those that the agent was trained on"
        + _stack_guess(getattr(agent, "observation_space", None), seen)
    )


def _stack_guess(agents: Any, seen: spaces.Space[Any]) -> str:
    sizes = [space.shape for space in (agents, seen) if isinstance(space, spaces.Box)]
    if len(sizes) == 2 and len(sizes[0]) == len(sizes[1]) == 1:
        depth, rest = divmod(sizes[0][0], sizes[1][0])
        if depth > 1 and not rest:
            return f". VecFrameStack(n_stack={depth})? Then hand in frame_stack={depth}"
    return ""


def _difference(kind: str, agents: Any, envs: spaces.Space[Any]) -> str | None:
    """Return how two spaces differ, or None where they agree or the agent does not tell."""
    if agents is None:
        return None
    if isinstance(agents, spaces.Dict) and isinstance(envs, spaces.Dict) and set(agents) == set(envs):
        found = (_difference(f"{kind}[{key!r}]", agents[key], envs[key]) for key in envs)
        return next((text for text in found if text), None)
    if type(agents) is not type(envs) or agents.shape != envs.shape:
        return f"{kind}: the agent was made for {_describe(agents)}, the environment has {_describe(envs)}"
    if kind == "action_space" and agents != envs:
        return f"{kind}: the agent was made for {agents}, the environment has {envs}"
    return None


def _describe(space: Any) -> str:
    shape = getattr(space, "shape", None)
    return f"{type(space).__name__} of shape {list(shape)}" if shape else str(space)


def _check_remembered(agent: Any, preprocessing: Preprocessing | None) -> None:
    """Check that no wrapper that is not accounted for put a space of its own in the place of the environment's.

    Raises:
        RunError: One did.
    """
    named = {kind: getattr(agent, kind, None) for kind in ("observation_space", "action_space")}
    lost = [kind for kind, space in named.items() if space is not None and MadeFor.of_space(space) is None]
    if len(lost) != 1 or None in named.values():
        return
    if lost == ["observation_space"] and preprocessing is not None and preprocessing.stacks:
        return
    what = "observations" if lost == ["observation_space"] else "actions"
    raise RunError(
        f"the agent does not fit the environment: its {lost[0]} is not the one of the environment that it was trained "
        f"in, so a wrapper changed the {what}, which a backtest cannot do again without knowing it; expected an agent "
        "that is trained without it, or one whose predict does what the wrapper did"
    )


def _check_looks_up(model: Any, env: StatefulTradingEnv) -> None:
    """Check that a policy for indexed observations looks the features up.

    Raises:
        RunError: It takes the number of a bar for a number like any other, which means nothing on other bars.
    """
    module = sys.modules.get("stable_baselines3.common.torch_layers")
    if not env.task.layout.indexed or module is None:
        return
    policy = getattr(model, "policy", model)
    if isinstance(getattr(policy, "features_extractor", None), module.CombinedExtractor):
        raise RunError(
            "the agent looks no features up: its network takes the number of the bar for a number like any other, and "
            "bar 100 of the training is not bar 100 of this market; expected a policy of batchenv.indexed_policy(env)"
        )


def _check_last_observation(
    training: Training, preprocessing: Preprocessing | None, env: StatefulTradingEnv, *, handed_in: bool
) -> Flag | None:
    """Check that the last observation that a model saw in training could have come about as observations do here.

    Raises:
        RunError: It could not; says what changed it.
    """
    learner, layout = training.learner, env.task.layout
    if training.made_for is not None:
        action = training.made_for.action
        layout = replace(layout, borrows=bool(action["allow_short"]) or action["leverage"] > 1)
    last = _latest(learner._last_obs, layout.size)
    wrong = layout.contradiction(last)
    if preprocessing is not None and preprocessing.normalizes:
        return _check_statistics(preprocessing, learner._last_obs, layout, raw=wrong is None) if handed_in else None
    if wrong is None:
        return None
    original = learner._last_original_obs
    if original is not None and layout.contradiction(_latest(original, layout.size)) is None:
        raise RunError(
            "the agent does not fit the environment: it learned from observations that VecNormalize normalised, and "
            f"it does not hold the statistics, since it was loaded without its environment; expected them: {HAND_IN}"
        )
    raise RunError(
        "the agent does not fit the environment: the last observations that it saw in training cannot have come from "
        f"an environment like this one ({wrong}), so something changed them; where that was VecNormalize, {HAND_IN}"
    )


def _check_statistics(preprocessing: Preprocessing, last: Any, layout: ObservationLayout, *, raw: bool) -> Flag | None:
    """Check that statistics that were handed in are those that a model's last observation was normalised with.

    Raises:
        RunError: Nothing normalised it.
    """
    original, cut = preprocessing.undone(last)
    original, last = (_latest(seen, layout.size) for seen in (original, last))
    if raw and not np.allclose(_numbers(original), _numbers(last), atol=1e-4):
        raise RunError(
            "vec_normalize: the last observations that the model saw in training are not normalised, so nothing "
            "normalised them; expected no vec_normalize"
        )
    wrong = None if cut else layout.contradiction(original, _OTHER_STATISTICS)
    if wrong is None:
        return None
    return Flag(
        "other_statistics",
        "warning",
        "Perhaps normalised by the statistics of another training: without them, the last observations that the model "
        f"saw in training are none of an environment like this one ({wrong}). Expected the file that was saved with "
        "the model.",
    )


_OTHER_STATISTICS = 0.02
"""How far weights and cash may add up to something else than 1: statistics may be a little older than the model."""


def _numbers(observation: Any) -> Any:
    return observation["portfolio"] if isinstance(observation, Mapping) else observation


def _latest(observation: Any, size: int) -> Any:
    """Return the last frame of observations that may be stacked."""
    return observation if isinstance(observation, Mapping) else np.asarray(observation)[..., -size:]
